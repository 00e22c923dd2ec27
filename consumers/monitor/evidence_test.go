package monitor

import (
	"math"
	"math/rand/v2"
	"reflect"
	"strconv"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func exampleAt(observed, version int64, p float64, left bool) schemas.LabelledExample {
	e := schemas.LabelledExample{
		AsOf: observed - 10, ObservedAt: observed, LabelledAt: observed + 5, Horizon: 5, Churned: left,
		ModelVersion: version, Probability: p, Attributes: scoring.Vector{0, p, p},
	}
	if version == 0 {
		e.Probability = scoring.Missing
	}
	return e
}

func recordOf(customer string, examples ...schemas.LabelledExample) *schemas.CustomerExamples {
	return &schemas.CustomerExamples{CustomerID: []byte(customer), Examples: examples}
}

// contents is what evidence comes to, without what depends on its past.
func contents(v *evidence) any {
	s := v.show(&shown{})
	type row struct {
		customer string
		e        schemas.LabelledExample
	}
	list := func(r rows[*example]) (all []row) {
		for _, e := range r.rows {
			kept := e.LabelledExample
			if scoring.IsMissing(kept.Probability) {
				kept.Probability = -1
			}
			all = append(all, row{e.customer, kept})
		}
		return all
	}
	versions := map[int64]any{}
	for _, w := range s.versions {
		versions[w.version] = []any{w.present, list(w.rows)}
	}
	return []any{list(s.all), list(s.scored), versions, v.totals()}
}

// Whatever records customers had before, and in whatever order, the last of each
// counts: the windows are those of evidence that has read only these.
func TestEvidenceIsOfTheLastRecords(t *testing.T) {
	again := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		const limit = 20
		v := newEvidence(limit)
		last := map[string]*schemas.CustomerExamples{}
		for range 300 {
			customer := strconv.Itoa(rng.IntN(25))
			if rng.IntN(12) == 0 {
				v.erase([]byte(customer))
				delete(last, customer)
				continue
			}
			r := recordOf(customer)
			if before := last[customer]; before != nil {
				r.Examples = append(r.Examples, before.Examples...)
			}
			switch k := len(r.Examples); {
			case k > 0 && rng.IntN(3) == 0: // corrected
				e := &r.Examples[rng.IntN(k)]
				e.Churned, e.LabelledAt, e.Corrections = !e.Churned, e.LabelledAt+1, e.Corrections+1
			case k > 0 && rng.IntN(6) == 0: // the score in force turned out to be another
				e := &r.Examples[rng.IntN(k)]
				e.ModelVersion, e.Probability = 1+rng.Int64N(3), .5
			default:
				observed := rng.Int64N(1000)
				if k > 0 {
					observed += r.Examples[k-1].ObservedAt
				}
				r.Examples = append(r.Examples, exampleAt(observed+1, rng.Int64N(4), float64(rng.IntN(10))/10, rng.IntN(2) == 0))
			}
			if k := len(r.Examples); k > 4 {
				r.Examples = r.Examples[k-4:]
			}
			last[customer] = r
			v.take(r)
			v.take(r) // as after a restart of the labeler
		}
		fresh := newEvidence(limit)
		for _, r := range last { // in any order
			fresh.take(r)
		}
		if v.lacks() {
			again++
			done := v.refill()
			var all []*schemas.CustomerExamples
			for _, r := range last {
				all = append(all, r, recordOf(string(r.CustomerID), exampleAt(3, 1, .3, true))) // one that is gone
			}
			for _, i := range rng.Perm(len(all)) {
				v.offer(all[i])
			}
			done()
			if v.lacks() {
				t.Fatalf("seed %d: it still lacks examples", seed)
			}
		}
		if got, want := contents(v), contents(fresh); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n%+v\nwhere a restart comes to\n%+v", seed, got, want)
		}
	}
	if again < 10 || again > 190 {
		t.Errorf("%d of 200 lacked examples: the test says little", again)
	}
}

// A corrected label moves an example from one cell to another, and is counted once.
func TestCorrectedLabel(t *testing.T) {
	v := newEvidence(1000)
	for i := range 100 {
		v.take(recordOf(strconv.Itoa(i), exampleAt(100, 1, .9, false)))
	}
	if s := v.totals(); s != (totals{100, 0}) {
		t.Fatalf("%+v", s)
	}
	for i := range 100 {
		e := exampleAt(100, 1, .9, true)
		e.LabelledAt, e.Corrections = e.LabelledAt+1000, 1
		v.take(recordOf(strconv.Itoa(i), e))
	}
	if s := v.totals(); s != (totals{100, 100}) {
		t.Errorf("every prediction was right, but %+v", s)
	}
	s := v.show(&shown{})
	if len(s.versions) != 1 || len(s.versions[0].rows.rows) != 100 || !s.versions[0].rows.rows[7].Churned || s.versions[0].present != 100 {
		t.Errorf("%+v", s.versions)
	}
	if c := s.counted; len(c) != 1 || c[0].counts != (counts{predictedChurn: 100}) {
		t.Errorf("counted %+v", c)
	}
	restarted := newEvidence(1000)
	for i := range 100 {
		e := exampleAt(100, 1, .9, true)
		e.Corrections = 1
		restarted.take(recordOf(strconv.Itoa(i), e))
	}
	if c := restarted.show(&shown{}).counted; c[0].counts != (counts{predictedChurn | churned: 100}) {
		t.Errorf("after a restart counted %+v", c)
	}
}

// The newest model versions have windows; when one is erased, the next is missed.
func TestVersionsAreBounded(t *testing.T) {
	v := newEvidence(10)
	for _, version := range rand.Perm(maxVersions + 5) {
		v.take(recordOf("c"+strconv.Itoa(version), exampleAt(int64(version), int64(version)+1, .5, true)))
	}
	s := v.show(&shown{})
	if len(s.versions) != maxVersions || s.versions[0].version != maxVersions+5 || s.versions[maxVersions-1].version != 6 {
		t.Errorf("%d versions", len(s.versions))
	}
	if len(s.counted) != maxVersions || v.lacks() {
		t.Errorf("%d versions counted, lacks %t", len(s.counted), v.lacks())
	}
	v.erase([]byte("c10"))
	if !v.lacks() {
		t.Error("it does not miss the version that it had no room for")
	}
	done := v.refill()
	for version := range maxVersions + 5 {
		v.offer(recordOf("c"+strconv.Itoa(version), exampleAt(int64(version), int64(version)+1, .5, true)))
	}
	done()
	if s := v.show(&shown{}); len(s.versions) != maxVersions || s.versions[maxVersions-1].version != 5 || v.lacks() {
		t.Errorf("%d versions, lacks %t", len(s.versions), v.lacks())
	}
}

// Levels that the vocabulary does not have are kept with the examples that have
// them, and nothing of a record is referred to.
func TestEvidenceCopies(t *testing.T) {
	v := newEvidence(10)
	r := recordOf("ann", exampleAt(1, 1, .9, true), exampleAt(2, 1, .9, true))
	r.Examples[1].Attributes[0] = r.Levels.Add("new")
	v.take(r)
	clear(r.CustomerID)
	r.Levels[0] = "old"
	r.Examples[1].Attributes[1] = math.Inf(1)
	kept := v.show(&shown{}).all.rows
	if kept[0].levels != nil || kept[1].levels[0] != "new" || kept[1].Attributes[1] != .9 || kept[1].customer != "ann" {
		t.Errorf("%+v, %+v", kept[0], kept[1])
	}
}

func TestEvidenceTakesWhatItKnowsWithoutAllocating(t *testing.T) {
	v := newEvidence(10)
	r := recordOf("ann", exampleAt(1, 1, .9, true), exampleAt(2, 1, .9, true))
	v.take(r)
	if n := testing.AllocsPerRun(100, func() { v.take(r) }); n != 0 {
		t.Errorf("%v allocations for a record that is known", n)
	}
}
