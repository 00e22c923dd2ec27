package deadletters

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// The headers of redriven records.
const (
	// HeaderRedrivenFrom is the Position of the letter, as text. A record that
	// was redriven, failed and was redriven again names its latest letter, in
	// whose headers the earlier one stands.
	HeaderRedrivenFrom = "redriven-from"
	// HeaderWrittenAt is when the record was written first, in milliseconds
	// since 1970 UTC, as decimal digits: topics may replace a record's time by
	// that of the redrive, as churn.outcomes does. The scorer sets it too, on
	// erasures that it passes on. See WrittenAt.
	HeaderWrittenAt = "written-at"
)

// WrittenAt returns when a record was written: its time, or that in
// HeaderWrittenAt if the record was redriven. Anybody who writes to the topic
// can set the header, but only to make a record older, which gains nothing: an
// outcome is joined with fewer scores, and forgotten with a customer erased
// since.
func WrittenAt(r *kafka.Record) time.Time {
	at := r.Time.UnixMilli()
	if t, ok := r.HeaderNumber(HeaderWrittenAt); ok && t < at {
		at = t
	}
	return time.UnixMilli(at)
}

// written is WrittenAt for the letter's record, in milliseconds.
func (l *Letter) written() int64 {
	r := l.original()
	return WrittenAt(&r).UnixMilli()
}

// original returns the record that became a letter, as far as it was kept.
func (l *Letter) original() kafka.Record {
	r := kafka.Record{
		Topic: l.Topic, Partition: int(l.DeadLetter.Partition), Offset: l.DeadLetter.Offset,
		Time: time.UnixMilli(l.Timestamp), Key: l.Key, Value: l.Value,
	}
	for _, h := range l.Headers {
		r.Headers = append(r.Headers, kafka.Header(h))
	}
	return r
}

// A batch is bounded in letters and bytes: that much is looked for again after
// a run that was cut short.
const (
	batchLetters = 500
	batchBytes   = 512 << 10
)

// Reasons why a topic does not take a letter's record.
const (
	RefusedTooLarge = "with the headers that it gets it is larger than its topic takes"
	RefusedTime     = "its topic does not take records of its time"
	RefusedRecord   = "its topic does not take such records; one that is compacted takes none without a key"
)

// refusedBy returns why a topic did not take a record, "" if that is not what
// the error says.
func refusedBy(err error) string {
	switch {
	case errors.Is(err, kafka.ErrTooLarge):
		return RefusedTooLarge
	case errors.Is(err, kafkago.InvalidTimestamp):
		return RefusedTime
	case errors.Is(err, kafkago.InvalidRecord):
		return RefusedRecord
	}
	return ""
}

// Result is what a redrive did.
type Result struct {
	// Redriven counts the records written.
	Redriven int
	// Refused are the letters whose records their topics did not take.
	Refused Refusals
}

// Redrive writes the plan's records to the partitions they came from: key,
// value, headers and timestamp as they were, and the headers redriven-from and
// written-at added. Every consumer of the topic reads them again. Records that
// their topic does not take are left out.
//
// When it fails or ctx ends in between, plan and redrive again: what was
// written is found. A write whose acknowledgement was lost may be repeated by
// the producer; consumers know such events by their event_id. Of two runs at
// the same time either may repeat what the other does.
func (q *Queue) Redrive(ctx context.Context, plan *Plan) (Result, error) {
	result := Result{Refused: Refusals{}}
	if err := q.note(ctx, done, plan.settle, 0); err != nil {
		return result, err
	}
	total := len(plan.Letters)
	for letters := plan.Letters; len(letters) > 0; {
		n := fitBatch(letters)
		batch := letters[:n]
		letters = letters[n:]
		if err := q.write(ctx, batch, &result); err != nil {
			return result, fmt.Errorf("redriving letters from %s on: %w", batch[0].Position, err)
		}
		q.cfg.Progress("redriven", int64(total-len(letters)), int64(total))
	}
	return result, nil
}

// fitBatch returns how many of the letters make the next batch: of one
// target, and bounded.
func fitBatch(letters []Letter) int {
	bytes := 0
	for i := range letters {
		bytes += letters[i].size()
		if i > 0 && (i == batchLetters || bytes > batchBytes || letters[i].target() != letters[0].target()) {
			return i
		}
	}
	return len(letters)
}

// write writes one batch between its notes.
func (q *Queue) write(ctx context.Context, batch []Letter, result *Result) error {
	to := batch[0].target()
	_, end, err := q.cfg.Cluster.Offsets(ctx, to.topic, to.partition)
	if err != nil {
		return err
	}
	if err := q.note(ctx, begun, batch, end); err != nil {
		return err
	}
	records := make([]kafka.Record, len(batch))
	for i := range batch {
		records[i] = batch[i].record()
	}
	err = q.producer.ProduceTo(ctx, to.topic, to.partition, records)
	if refusedBy(err) != "" {
		return q.writeEach(ctx, batch, end, result)
	}
	if err != nil {
		return err
	}
	result.Redriven += len(batch)
	return q.note(ctx, done, batch, 0)
}

// writeEach writes the letters of a batch one by one, after a write of all that
// the topic did not take as a whole: it may have taken some. end is the
// partition's from before.
func (q *Queue) writeEach(ctx context.Context, batch []Letter, end int64, result *Result) error {
	to := batch[0].target()
	there := map[Position]bool{}
	if err := q.readRedriven(ctx, to, end, func(p Position) { there[p] = true }); err != nil {
		return err
	}
	var written, refused []Letter
	for i := range batch {
		l := &batch[i]
		if !there[l.Position] {
			err := q.producer.ProduceTo(ctx, to.topic, to.partition, []kafka.Record{l.record()})
			if why := refusedBy(err); why != "" {
				result.Refused.add(why, l.Position)
				refused = append(refused, *l)
				continue
			}
			if err != nil {
				return err
			}
		}
		written = append(written, *l)
	}
	result.Redriven += len(written)
	if err := q.note(ctx, undone, refused, 0); err != nil {
		return err
	}
	return q.note(ctx, done, written, 0)
}

// record returns what is written to redrive the letter.
func (l *Letter) record() kafka.Record {
	original := l.original()
	r := kafka.Record{Key: l.Key, Value: l.Value}
	for _, h := range original.Headers {
		switch h.Key {
		case HeaderRedrivenFrom, HeaderWrittenAt: // said anew
		case schemas.HeaderForwardedPartition, schemas.HeaderForwardedOffset, schemas.HeaderErasureCopy:
			// It goes where its customer is at home, and had no effect so far.
		default:
			r.Headers = append(r.Headers, h)
		}
	}
	r.Headers = append(r.Headers, kafka.Header{Key: HeaderRedrivenFrom, Value: []byte(l.Position.String())})
	if l.Timestamp >= 0 { // else it had none, and gets that of now
		r.Time = original.Time
		r.Headers = append(r.Headers, kafka.Header{Key: HeaderWrittenAt, Value: strconv.AppendInt(nil, WrittenAt(&original).UnixMilli(), 10)})
	}
	return r
}
