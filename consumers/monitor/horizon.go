package monitor

import (
	"slices"

	"github.com/churnstream/churnstream/internal/models"
)

// horizonOf returns the horizon, in milliseconds, of what a version predicts: 0
// where it does not say, or is not known.
func horizonOf(v *models.Version) int64 {
	if v == nil {
		return 0
	}
	return v.Horizon
}

// answers reports whether an example's label answers the question that a version
// does. One that left within 30 days says nothing of what was said of 7. A version
// without a horizon is taken to answer all.
func answers(v *models.Version, e *example) bool {
	h := horizonOf(v)
	return h == 0 || e.Horizon == h
}

// answering returns the rows that answer what the versions do that they are
// measured by. Rows are not changed.
func answering(rows []*example, by func(*example) *models.Version) []*example {
	other := func(e *example) bool { return !answers(by(e), e) }
	if !slices.ContainsFunc(rows, other) { // as nearly always
		return rows
	}
	return slices.DeleteFunc(slices.Clone(rows), other)
}
