package scorer

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSnapshotFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state", "x-0"+snapshotSuffix)
	write := func(text string, complete bool) error {
		f := createSnapshot(path)
		for _, b := range []byte(text) {
			f.hand(append(f.wait(), b))
		}
		if !complete {
			f.giveUp()
			return nil
		}
		f.finish()
		return <-f.done
	}
	if err := write("first, in more blocks than are in flight", true); err != nil {
		t.Fatal(err)
	}
	write("second", false)
	if got, err := os.ReadFile(path); err != nil || string(got) != "first, in more blocks than are in flight" {
		t.Errorf("after one was given up: %q, %v", got, err)
	}
	if err := write("third", true); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "third" {
		t.Errorf("%q", got)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("%d files are left", len(entries))
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("others can read it: %v", info.Mode())
	}
	// A path that cannot be written to costs the snapshot and nothing else.
	path = filepath.Join(path, "below-a-file"+snapshotSuffix)
	if err := write("fourth, in more blocks than are in flight", true); err == nil {
		t.Error("no error where no file can be")
	}
}

func TestOldSnapshotsAreRemoved(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	file := func(name string, age time.Duration) {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	file("g-0.snapshot", 2*time.Hour)
	file("g-1.snapshot", time.Minute)
	file("g-2.snapshot.123.tmp", 2*time.Hour)
	file("notes.txt", 2*time.Hour)
	file("other.tmp", 2*time.Hour)
	if err := removeOldSnapshots(dir, time.Hour, now); err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(dir)
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"g-1.snapshot", "notes.txt", "other.tmp"}; fmt.Sprint(left) != fmt.Sprint(want) {
		t.Errorf("left are %v, want %v", left, want)
	}
	if err := removeOldSnapshots(filepath.Join(dir, "nowhere"), time.Hour, now); err != nil {
		t.Errorf("no directory: %v", err)
	}
}

func TestSnapshotPath(t *testing.T) {
	if got, want := snapshotPath("dir", "../a group/ü", 7), filepath.Join("dir", ".._a_group__-7.snapshot"); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
