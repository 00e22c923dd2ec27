// Package segment divides customers by the levels of a categorical feature: the most
// frequent ones, and the rest together, so that however many levels there are, what is
// made of each segment is bounded. Every customer is in one segment of each feature,
// so whatever adds up over customers adds up over segments.
package segment

import (
	"cmp"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Missing is the level of customers of whom the feature is not known.
const Missing = "(missing)"

// Other is the level of the segment of all further levels.
const Other = "(other)"

// Segment is the rows with one level, or those with any of the further levels.
type Segment[R any] struct {
	// Level is the level's text, Missing, or Other.
	Level string
	// Rest marks the segment of further levels, as there may be a level that has
	// its name.
	Rest bool
	// Rows are in the order in which they were given.
	Rows []R
}

// Limits bound the segments of one feature.
type Limits struct {
	// Levels is how many levels have segments of their own (0: 10).
	Levels int
	// Rows is how many rows a level has at least that has one (0: one).
	Rows int
}

// Divide divides rows by their levels: the most frequent first, of equally frequent
// ones by text, and last the rest, if any. The segments depend on the rows and not on
// their order, but for the order of the rows within each.
func Divide[R any](rows []R, level func(R) string, limits Limits) []Segment[R] {
	counts := map[string]int{}
	for _, r := range rows {
		counts[level(r)]++
	}
	levels := make([]string, 0, len(counts))
	for text, n := range counts {
		if n >= limits.Rows {
			levels = append(levels, text)
		}
	}
	slices.SortFunc(levels, func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	levels = levels[:min(len(levels), cmp.Or(max(limits.Levels, 0), 10))]

	of := make(map[string]int, len(levels))
	segments := make([]Segment[R], len(levels), len(levels)+1)
	own := 0
	for i, text := range levels {
		of[text] = i
		segments[i] = Segment[R]{Level: text, Rows: make([]R, 0, counts[text])}
		own += counts[text]
	}
	if own < len(rows) {
		segments = append(segments, Segment[R]{Level: Other, Rest: true, Rows: make([]R, 0, len(rows)-own)})
	}
	for _, r := range rows {
		i, has := of[level(r)]
		if !has {
			i = len(levels)
		}
		segments[i].Rows = append(segments[i].Rows, r)
	}
	return segments
}

// Level returns the level of a categorical feature in a vector, whose other levels
// are given: its text, or Missing.
func Level(v *scoring.Vocabulary, feature int, x scoring.Vector, others scoring.Levels) string {
	if scoring.IsMissing(x[feature]) {
		return Missing
	}
	return v.Text(feature, x[feature], others)
}

// Losses divides a model's mean log loss by feature, segment and time: for each
// level a scoring.Attribution of two windows.
type Losses struct {
	Level       string
	Rest        bool
	Now, Before *scoring.Attribution
}

// Change returns by how much more a feature's value adds to the log loss of the
// segment than before, Missing where one of the windows has no example of it.
func (l *Losses) Change(feature int) float64 {
	return l.Now.Feature(feature) - l.Before.Feature(feature)
}

// DivideLosses divides the losses of two windows by their levels, those of the newer
// one: what the older one has besides is among the rest. Value returns a row's
// LogLossSHAP and ExpectedLogLoss.
func DivideLosses[R any](now, before []R, level func(R) string, features int, value func(R) (values []float64, base float64), limits Limits) []Losses {
	segments := Divide(now, level, limits)
	losses := make([]Losses, 0, len(segments)+1)
	of := make(map[string]int, len(segments))
	rest := -1
	add := func(level string, isRest bool) int {
		losses = append(losses, Losses{Level: level, Rest: isRest, Now: scoring.NewAttribution(features), Before: scoring.NewAttribution(features)})
		return len(losses) - 1
	}
	for _, s := range segments {
		i := add(s.Level, s.Rest)
		if s.Rest {
			rest = i
		} else {
			of[s.Level] = i
		}
		for _, r := range s.Rows {
			losses[i].Now.Add(value(r))
		}
	}
	for _, r := range before {
		i, has := of[level(r)]
		if !has {
			if rest < 0 {
				rest = add(Other, true)
			}
			i = rest
		}
		losses[i].Before.Add(value(r))
	}
	return losses
}
