package labeler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/retry"
)

// patientFS writes to disk, and when that cannot be done, as when the disk is full,
// waits and tries again: what stands on it would otherwise end the process. It says
// so meanwhile. When ctx ends it tries no more.
type patientFS struct {
	vfs.FS
	ctx     context.Context
	log     *slog.Logger
	failing prometheus.Gauge
	first   time.Duration // the first pause

	mu sync.Mutex
	n  int // operations that wait
}

// Pauses between two tries.
const firstDiskPause, longestDiskPause = 50 * time.Millisecond, 5 * time.Second

// try does something until it succeeds.
func (p *patientFS) try(doing string, do func() error) error {
	err := do()
	if err == nil || p.ctx.Err() != nil {
		return err
	}
	p.log.Error("the state cannot be written to disk; trying until it can", "doing", doing, "error", err)
	defer retry.Begin(p.ctx, fmt.Sprintf("the state cannot be written to disk: %s: %v", doing, err))()
	p.wait(1)
	defer p.wait(-1)
	for pause := p.first; err != nil && retry.Sleep(p.ctx, pause); pause = min(2*pause, longestDiskPause) {
		err = do()
	}
	if err == nil {
		p.log.Info("the state can be written to disk again", "doing", doing)
	}
	return err
}

func (p *patientFS) wait(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n += n
	p.failing.Set(float64(p.n))
}

// file has a file written patiently.
func (p *patientFS) file(name string, open func() (vfs.File, error)) (f vfs.File, err error) {
	err = p.try("making "+name, func() (err error) { f, err = open(); return err })
	if err != nil {
		return nil, err
	}
	return &patientFile{File: f, fs: p, name: name}, nil
}

func (p *patientFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.file(name, func() (vfs.File, error) { return p.FS.Create(name, category) })
}

func (p *patientFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return p.file(newname, func() (vfs.File, error) { return p.FS.ReuseForWrite(oldname, newname, category) })
}

func (p *patientFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := p.FS.OpenReadWrite(name, category, opts...)
	if err != nil {
		return nil, err
	}
	return &patientFile{File: f, fs: p, name: name}, nil
}

func (p *patientFS) OpenDir(name string) (vfs.File, error) {
	f, err := p.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &patientFile{File: f, fs: p, name: name}, nil
}

func (p *patientFS) Rename(oldname, newname string) error {
	return p.try("renaming "+oldname, func() error { return p.FS.Rename(oldname, newname) })
}

func (p *patientFS) Unwrap() vfs.FS { return p.FS }

type patientFile struct {
	vfs.File
	fs   *patientFS
	name string
}

func (f *patientFile) Write(b []byte) (n int, err error) {
	err = f.fs.try("writing "+f.name, func() error {
		m, err := f.File.Write(b[n:])
		n += max(0, m)
		if err == nil && n < len(b) {
			err = io.ErrShortWrite
		}
		return err
	})
	return n, err
}

func (f *patientFile) WriteAt(b []byte, at int64) (n int, err error) {
	err = f.fs.try("writing "+f.name, func() error { n, err = f.File.WriteAt(b, at); return err })
	return n, err
}

func (f *patientFile) Preallocate(offset, length int64) error {
	_ = f.File.Preallocate(offset, length) // it only saves time
	return nil
}

func (f *patientFile) Sync() error {
	return f.fs.try("syncing "+f.name, f.File.Sync)
}

func (f *patientFile) SyncData() error {
	return f.fs.try("syncing "+f.name, f.File.SyncData)
}

func (f *patientFile) SyncTo(length int64) (full bool, err error) {
	err = f.fs.try("syncing "+f.name, func() error { full, err = f.File.SyncTo(length); return err })
	return full, err
}

// errDisk is matched by errors of the disk that are no damage.
var errDisk = errors.New("the state on disk cannot be read or written")
