package labeler

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// temporaryName begins the names of the directories that labelers make for themselves.
const temporaryName = "churnstream-label-"

// temporaryDir makes a directory for the state, which done removes. Those that killed
// processes have left are removed first: they hold customers' attributes.
func (l *Labeler) temporaryDir() (dir string, done func(), err error) {
	l.removeLeft()
	if dir, err = os.MkdirTemp("", temporaryName); err != nil {
		return "", nil, err
	}
	lock, err := vfs.Default.Lock(lockOf(dir))
	if err != nil {
		return "", nil, fmt.Errorf("locking %s: %w", dir, err)
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			l.log.Warn("removing the state", "dir", dir, "error", err)
		}
		_ = lock.Close()
	}, nil
}

func lockOf(dir string) string { return filepath.Join(dir, "process.lock") }

// removeLeft removes the temporary directories that no process has locked.
func (l *Labeler) removeLeft() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), temporaryName+"*"))
	for _, dir := range left {
		info, err := os.Stat(lockOf(dir))
		if err != nil || time.Since(info.ModTime()) < time.Minute { // it is being made
			continue
		}
		lock, err := vfs.Default.Lock(lockOf(dir))
		if err != nil {
			continue // somebody's
		}
		if err := os.RemoveAll(dir); err == nil {
			l.log.Info("removed the state that a killed process has left", "dir", dir)
		}
		_ = lock.Close()
	}
}
