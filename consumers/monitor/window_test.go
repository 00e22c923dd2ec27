package monitor

import "testing"

func TestWindowSlides(t *testing.T) {
	w := windows{limit: 3, byVersion: map[int64]*window{}}
	w.add(1, .9, false) // wrong, and out of the window in the end
	for range 3 {
		w.add(1, .9, true)
	}
	w.add(2, .1, true)
	got := w.stats()
	if len(got) != 2 || got[0].Version != 2 || got[1].Version != 1 {
		t.Fatalf("got %+v", got)
	}
	if got[1].Outcomes != 4 || got[1].Metrics.Rows != 3 || got[1].Metrics.Accuracy != 1 {
		t.Errorf("version 1: %+v", got[1])
	}
	if got[0].Outcomes != 1 || got[0].Metrics.Accuracy != 0 {
		t.Errorf("version 2: %+v", got[0])
	}
	w.add(1, .9, false)
	if got := w.stats()[1].Metrics.Accuracy; got != 2./3 {
		t.Errorf("accuracy %v after another wrong one", got)
	}
}

func TestOnlyTheNewestVersionsAreKept(t *testing.T) {
	w := windows{limit: 3, byVersion: map[int64]*window{}}
	for version := range int64(maxVersions + 5) {
		w.add(version, .9, true)
	}
	w.add(0, .9, true)
	got := w.stats()
	if len(got) != maxVersions || got[0].Version != maxVersions+4 || got[maxVersions-1].Version != 5 {
		t.Errorf("%d versions kept, from %d to %d", len(got), got[len(got)-1].Version, got[0].Version)
	}
}
