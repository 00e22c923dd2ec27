package deadletters

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// clockSkew is how far the clocks of those who write may lie apart.
const clockSkew = time.Hour

// erasures finds the customers who were erased after letters of theirs: their
// records must not come back. Letters are watched for first, then the topics
// are read once.
type erasures struct {
	// erased holds when a customer was erased last, by the id in the key of the
	// watched letters.
	erased map[string]int64
	// last holds where, in the partitions that letters came from.
	last   map[customerAt]int64
	oldest int64            // time of the oldest letter's record
	start  map[target]int64 // offset after the first of the letters' records
	memory *memory
	keys   schemas.KeyFormat
}

type customerAt struct {
	target target
	key    string
}

func newErasures(m *memory, keys schemas.KeyFormat) *erasures {
	return &erasures{
		erased: map[string]int64{}, last: map[customerAt]int64{},
		oldest: math.MaxInt64, start: map[target]int64{}, memory: m, keys: keys,
	}
}

// watch has the customer of a letter looked for.
func (e *erasures) watch(l *Letter) error {
	id := e.customer(l)
	if len(id) == 0 {
		return nil // of no customer
	}
	e.oldest = min(e.oldest, l.writtenBy())
	to, next := l.target(), l.DeadLetter.Offset+1
	if start, ok := e.start[to]; !ok || next < start {
		e.start[to] = next
	}
	if _, known := e.erased[id]; known {
		return nil
	}
	e.erased[id] = math.MinInt64
	return e.memory.take(100 + len(id))
}

// customer returns the id in a letter's key. Keys of records that are ours are the
// id in any format.
func (e *erasures) customer(l *Letter) string {
	original := l.original()
	return string(intake.CustomerID(e.keys, &original))
}

// writtenBy returns when the letter's record was there for certain, in
// milliseconds. Its own time may lie ahead, or make no sense: producers set it.
func (l *Letter) writtenBy() int64 { return max(0, min(l.written(), l.FailedAt)) }

// note takes a record of a topic with tombstones.
func (e *erasures) note(r *kafka.Record) error {
	if r.Value != nil {
		return nil
	}
	id := intake.CustomerID(e.keys, r)
	before, watched := e.erased[string(id)]
	if !watched {
		return nil
	}
	e.erased[string(id)] = max(before, r.Time.UnixMilli())
	to := target{r.Topic, r.Partition}
	if _, came := e.start[to]; came {
		e.last[customerAt{to, string(id)}] = r.Offset
	}
	return nil
}

// after reports whether the letter's customer was erased after its record was
// written: by the offset of the tombstone if it lies in the same partition,
// or by its time.
func (e *erasures) after(l *Letter) bool {
	id := e.customer(l)
	at, watched := e.erased[id]
	if !watched {
		return false
	}
	offset, near := e.last[customerAt{l.target(), id}]
	return at >= l.writtenBy() || near && offset > l.DeadLetter.Offset
}

// findErasures reads what was written since the oldest of the letters watched
// for: outcomes and scores, which have a tombstone of everyone who was erased,
// and where the letters came from, as the scorer may not have come that far.
func (q *Queue) findErasures(ctx context.Context, e *erasures) error {
	if len(e.erased) == 0 {
		return nil
	}
	var spans []kafka.Span
	for _, topic := range []string{schemas.TopicOutcomes, schemas.TopicScores} {
		all, err := q.spans(ctx, topic)
		if errors.Is(err, kafka.ErrUnknownTopic) {
			continue
		}
		if err != nil {
			return err
		}
		for i := range all {
			if all[i].Start, err = q.since(ctx, all[i], e.oldest-clockSkew.Milliseconds()); err != nil {
				return err
			}
		}
		spans = append(spans, all...)
	}
	for from, next := range e.start {
		first, end, err := q.cfg.Cluster.Offsets(ctx, from.topic, from.partition)
		if err != nil {
			return err
		}
		start := max(first, next)
		if start > end { // the topic was made anew: all of it is younger
			start = first
		}
		i := slices.IndexFunc(spans, func(s kafka.Span) bool { return s.Topic == from.topic && s.Partition == from.partition })
		if i < 0 {
			spans = append(spans, kafka.Span{Topic: from.topic, Partition: from.partition, Start: start, End: end})
		} else {
			spans[i].Start = min(spans[i].Start, start)
		}
	}
	if err := q.read(ctx, "erased customers", spans, e.note); err != nil {
		return fmt.Errorf("looking for erased customers: %w", err)
	}
	return nil
}

// since returns the offset from which on a span's records were written at or
// after a time in milliseconds. Records that lie out of order by their times
// may mislead it by as much.
func (q *Queue) since(ctx context.Context, s kafka.Span, millis int64) (int64, error) {
	low, high := s.Start, s.End
	for low < high {
		middle := low + (high-low)/2
		r, err := q.first(ctx, kafka.Span{Topic: s.Topic, Partition: s.Partition, Start: middle, End: high})
		if err != nil {
			return 0, err
		}
		if r == nil || r.Time.UnixMilli() >= millis {
			high = middle
		} else {
			low = r.Offset + 1
		}
	}
	return low, nil
}
