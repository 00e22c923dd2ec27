package sink

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Store is where rows go.
type Store interface {
	// Name says what kind of store it is, as a metric label: "sqlite",
	// "clickhouse".
	Name() string
	// Migrate brings tables and views to what this program and its feature
	// specification need. It can be called any number of times. An error that
	// matches ErrSchema will not go away by itself; any other may.
	Migrate(ctx context.Context) error
	// Write returns nil when the whole batch is stored for good. After an
	// error parts of it may be stored; writing it again is harmless. It is
	// safe for concurrent use and does not keep the batch.
	Write(ctx context.Context, b *Batch) error
	// Close releases the connections.
	Close() error
}

// Batch is what one Write stores. Deletions come first: an outcome in the same
// batch is newer than the erasure of its customer's outcomes.
type Batch struct {
	// Erased lists customers whose scores are deleted. Their outcomes stay.
	Erased []Erasure
	// ErasedOutcomes lists customers whose outcomes are deleted. Their scores
	// stay.
	ErasedOutcomes []string
	// ErasedExamples lists customers whose examples are deleted.
	ErasedExamples []Erasure

	Scores   []*schemas.ChurnScore
	Outcomes []*schemas.ChurnOutcome
	// Examples are those of one or several records of churn.examples, in the
	// order of the records. A record has all examples of its customer from its
	// first on: what the store has of them besides, of earlier records, is
	// deleted.
	Examples []ExampleRow
	Models   []ModelRow
}

// Erasure says which rows of a customer are deleted: scores of events before the
// one that erased the customer, or examples of records before the tombstone. The
// store remembers it for 90 days, so that such a row goes too when it is written
// late; those of after it stay.
type Erasure struct {
	CustomerID string
	// Partition and Offset are the place of the erasing event in
	// churn.customer-events, or of the tombstone in churn.examples.
	Partition int32
	Offset    int64
}

// customer is one as far as a partition knows it.
type customer struct {
	id        string
	partition int32
}

// lastErasures returns the highest offset of each customer's erasures.
func lastErasures(erasures []Erasure) map[customer]int64 {
	last := map[customer]int64{}
	for _, e := range erasures {
		c := customer{e.CustomerID, e.Partition}
		last[c] = max(last[c], e.Offset)
	}
	return last
}

// ExampleRow is a labelled example with its customer and the place of its record
// in churn.examples.
type ExampleRow struct {
	*schemas.LabelledExample
	CustomerID string
	// Levels are those that go with the Attributes.
	Levels          scoring.Levels
	RecordPartition int32
	RecordOffset    int64
}

// listing is what the last record of a customer says of which examples there
// are: from first on, those observed and no others.
type listing struct {
	offset, first int64
	observed      map[int64]bool
}

// listings returns the last record of each customer in a batch.
func listings(rows []ExampleRow) map[customer]*listing {
	last := map[customer]*listing{}
	for i := range rows {
		r := &rows[i]
		c := customer{r.CustomerID, r.RecordPartition}
		l := last[c]
		observed := clampMillis(r.ObservedAt).UnixMilli() // as it is in the table
		if l == nil || r.RecordOffset > l.offset {
			l = &listing{offset: r.RecordOffset, first: observed, observed: map[int64]bool{}}
			last[c] = l
		}
		if r.RecordOffset == l.offset {
			l.first = min(l.first, observed)
			l.observed[observed] = true
		}
	}
	return last
}

// withdrawn reports whether an example of an earlier record is one no more.
func (l *listing) withdrawn(observedAt, recordOffset int64) bool {
	return recordOffset < l.offset && observedAt >= l.first && !l.observed[observedAt]
}

// ModelRow is a model version with the offset of its record in churn.models:
// the champion is the CHAMPION row with the highest one.
type ModelRow struct {
	schemas.ModelVersion
	Offset int64
}

// Attributes describes the features and how their values read as text;
// *schemas.Set does.
type Attributes interface {
	Spec() *scoring.Spec
	// Text returns a value as people read it, "" if it is missing.
	Text(feature int, x float64, levels scoring.Levels) string
}

// ErrSchema is matched by errors of Migrate that need a person: the store was
// changed by a later version of this program, or a column has another type
// than the feature specification asks for.
var ErrSchema = errors.New("store schema")

// What DateTime64 can hold. A time beyond it is stored as the limit: an odd
// clock at the sender must not stop the rows that follow.
var (
	minMillis = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	// A year less than the type's end: the client library counts nanoseconds
	// in 64 bits, which end in April 2262.
	maxMillis = time.Date(2261, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
)

func clampMillis(ms int64) time.Time {
	return time.UnixMilli(min(max(ms, minMillis), maxMillis)).UTC()
}

// nullable returns x for a column that may be NULL: nil if it is not finite.
func nullable(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

// text returns a feature's value as text, nil if it is missing.
func text(attributes Attributes, feature int, x float64, levels scoring.Levels) any {
	if scoring.IsMissing(x) {
		return nil
	}
	return attributes.Text(feature, x, levels)
}
