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

// answering returns the rows that answer what the versions do that they are
// measured by. Rows are not changed.
func answering(rows []*example, by func(*example) *models.Version) []*example {
	other := func(e *example) bool { return !by(e).Answers(&e.LabelledExample) }
	if !slices.ContainsFunc(rows, other) { // as nearly always
		return rows
	}
	return slices.DeleteFunc(slices.Clone(rows), other)
}
