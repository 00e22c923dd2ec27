package scorer

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// snapshotSuffix ends the names of snapshots; temporary files have
	// another, so that they are never taken for one.
	snapshotSuffix  = ".snapshot"
	temporarySuffix = ".tmp"
)

// snapshotPath returns where the snapshot of a partition lies.
func snapshotPath(dir, group string, partition int) string {
	// A group may be named as no file can be.
	name := strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '_'
	}, group)
	return filepath.Join(dir, fmt.Sprintf("%s-%d%s", name, partition, snapshotSuffix))
}

// snapshotFile writes a snapshot in a goroutine of its own, so that the worker
// never waits for the disk.
type snapshotFile struct {
	blocks chan []byte
	spare  chan []byte
	done   chan error // receives once, when all is written or given up
	size   int64      // of what was handed over
}

// blocksInFlight bounds the memory between a worker and its snapshot's file.
const blocksInFlight = 4

// createSnapshot starts writing a snapshot that will be at path once it is
// complete.
func createSnapshot(path string) *snapshotFile {
	f := &snapshotFile{
		blocks: make(chan []byte, blocksInFlight+1), // and the end
		spare:  make(chan []byte, blocksInFlight),
		done:   make(chan error, 1),
	}
	for range blocksInFlight {
		f.spare <- nil
	}
	go func() { f.done <- f.write(path) }()
	return f
}

// write writes what comes until the worker closes the channel: a file whose last
// block is empty is complete, any other is given up. It takes all blocks even
// when the disk fails, so that the worker is never held up.
func (f *snapshotFile) write(path string) error {
	out, failed := createTemporary(path)
	complete := false
	for block := range f.blocks {
		if complete = len(block) == 0; complete {
			continue
		}
		if failed == nil {
			_, failed = out.Write(block)
		}
		f.spare <- block
	}
	if failed == nil && !complete {
		failed = errGivenUp
	}
	if failed == nil {
		failed = commitSnapshot(out, path)
	}
	if failed != nil && out != nil {
		out.Close()
		os.Remove(out.Name())
	}
	return failed
}

func createTemporary(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	out, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*"+temporarySuffix)
	if err != nil {
		return nil, fmt.Errorf("creating a snapshot: %w", err)
	}
	return out, nil
}

var errGivenUp = errors.New("snapshot given up")

// commitSnapshot makes a complete file durable and visible, in this order: a
// crash leaves the old snapshot or the new one.
func commitSnapshot(out *os.File, path string) error {
	if err := out.Sync(); err != nil {
		return fmt.Errorf("writing a snapshot to disk: %w", err)
	}
	if err := out.Close(); err != nil {
		return fmt.Errorf("closing a snapshot: %w", err)
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("putting a snapshot in place: %w", err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("opening the state directory: %w", err)
	}
	defer dir.Close()
	// Some file systems cannot sync a directory; the snapshot is there.
	_ = dir.Sync()
	return nil
}

// room returns memory for the next block, or false while the disk lags.
func (f *snapshotFile) room() ([]byte, bool) {
	select {
	case block := <-f.spare:
		return block[:0], true
	default:
		return nil, false
	}
}

// wait is room, waiting for it.
func (f *snapshotFile) wait() []byte { return (<-f.spare)[:0] }

func (f *snapshotFile) hand(block []byte) {
	f.size += int64(len(block))
	f.blocks <- block
}

func (f *snapshotFile) finish() {
	f.blocks <- nil
	close(f.blocks)
}

// giveUp removes what was written.
func (f *snapshotFile) giveUp() {
	close(f.blocks)
	<-f.done
}

// removeOldSnapshots deletes snapshots that are too old to be used, of
// partitions that went elsewhere: they hold customers who may have asked to be
// forgotten. It also deletes what crashes have left.
func removeOldSnapshots(dir string, maxAge time.Duration, now time.Time) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("reading the state directory: %w", err)
	}
	var failed error
	for _, e := range entries {
		ours := strings.HasSuffix(e.Name(), snapshotSuffix) ||
			strings.Contains(e.Name(), snapshotSuffix+".") && strings.HasSuffix(e.Name(), temporarySuffix)
		if !ours {
			continue
		}
		if info, err := e.Info(); err != nil || now.Sub(info.ModTime()) < maxAge {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = errors.Join(failed, fmt.Errorf("removing an old snapshot: %w", err))
		}
	}
	return failed
}
