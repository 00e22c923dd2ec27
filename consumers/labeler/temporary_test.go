package labeler

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What a killed process has left in the temporary directory goes; what another one
// works with stays.
func TestTemporaryDirectories(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	w := newWorld(t, 1, 1)
	a := w.start(config())
	<-a.ready
	dirs := func() (all []string) {
		all, err := filepath.Glob(filepath.Join(os.TempDir(), temporaryName+"*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	left := filepath.Join(os.TempDir(), temporaryName+"left")
	if err := os.MkdirAll(filepath.Join(left, "examples-0"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lockOf(left), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs() {
		long := time.Now().Add(-time.Hour)
		if err := os.Chtimes(lockOf(dir), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(dirs()); got != 2 {
		t.Fatalf("%d directories", got)
	}
	b := w.start(config())
	<-b.ready
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what was left is there: %v", err)
	}
	if got := len(dirs()); got != 2 {
		t.Errorf("%d directories of two labelers", got)
	}
	a.stop()
	b.stop()
	if got := dirs(); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}
