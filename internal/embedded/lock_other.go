//go:build !unix

package embedded

import (
	"fmt"
	"os"
)

// dirLock marks the directory as ours. Where the system has no advisory locks
// it does not keep a second process out.
type dirLock struct{ file *os.File }

func lockDir(path string) (*dirLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	return &dirLock{f}, nil
}

func (l *dirLock) release() {
	if l != nil {
		l.file.Close()
	}
}
