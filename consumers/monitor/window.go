package monitor

import (
	"cmp"
	"slices"

	"github.com/churnstream/churnstream/scoring/evaluation"
)

// maxVersions bounds the model versions that figures over a window are kept
// and exported for: the newest ones.
const maxVersions = 20

// window holds the last outcomes joined with scores of one model version.
type window struct {
	examples []evaluation.Example
	next     int
	// total counts all outcomes, those that left the window included.
	total   int64
	metrics evaluation.Metrics
	stale   bool // metrics are not of the present content
}

func (w *window) add(probability float64, churned bool, limit int) {
	w.total++
	w.stale = true
	e := evaluation.Example{Probability: probability, Churned: churned}
	if len(w.examples) < limit {
		w.examples = append(w.examples, e)
		return
	}
	w.examples[w.next] = e
	w.next = (w.next + 1) % limit
}

// windows holds the windows of the newest versions.
type windows struct {
	limit     int
	byVersion map[int64]*window
}

func (w *windows) add(version int64, probability float64, churned bool) {
	v := w.byVersion[version]
	if v == nil {
		if len(w.byVersion) >= maxVersions {
			oldest := slices.Min(w.versions())
			if version < oldest {
				return
			}
			delete(w.byVersion, oldest)
		}
		v = new(window)
		w.byVersion[version] = v
	}
	v.add(probability, churned, w.limit)
}

func (w *windows) versions() []int64 {
	out := make([]int64, 0, len(w.byVersion))
	for version := range w.byVersion {
		out = append(out, version)
	}
	return out
}

// VersionStats are the figures of one model version.
type VersionStats struct {
	Version int64
	// Outcomes counts all that were joined with a score of this version.
	Outcomes int64
	// Metrics are over the last of them, Config.Window at most.
	Metrics evaluation.Metrics
}

// stats returns the figures of every version, newest first.
func (w *windows) stats() []VersionStats {
	out := make([]VersionStats, 0, len(w.byVersion))
	for version, v := range w.byVersion {
		if v.stale {
			v.metrics, v.stale = evaluation.Rank(v.examples).Metrics(), false
		}
		out = append(out, VersionStats{Version: version, Outcomes: v.total, Metrics: v.metrics})
	}
	slices.SortFunc(out, func(a, b VersionStats) int { return cmp.Compare(b.Version, a.Version) })
	return out
}
