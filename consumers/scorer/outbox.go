package scorer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/invariants"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// outbox holds what follows from a batch of events until it is written.
type outbox struct {
	*site
	// arena holds the keys, values and headers of scores. Slices of an arena
	// that has grown since stay valid: what they point to is not written again.
	arena    []byte
	scores   []kafka.Record // and tombstones
	headers  []kafka.Header
	occurred []int64             // of the events among them
	nobody   *schemas.ChurnScore // the value of markers

	letters     []schemas.DeadLetter // they point into the records of the batch in hand
	letterBytes int                  // that they, and the forwards, take when they are written
	erasures    []kafka.Record       // for the topic of outcomes
	forwards    []forward            // for other partitions of the events
}

// forward is a record for another partition of the events.
type forward struct {
	partition int
	record    kafka.Record
}

// producer writes records: each to the partition of its key, or one to every
// partition. A *kafka.Producer is one.
type producer interface {
	deadletters.Producer
	ProduceEverywhere(ctx context.Context, topic string, r kafka.Record) error
	ProduceTo(ctx context.Context, topic string, partition int, records []kafka.Record) error
}

// flushBytes is how much is made of a batch before it is written.
const flushBytes = 8 << 20

// full reports whether it is time to flush.
func (b *outbox) full() bool { return len(b.arena)+b.letterBytes >= flushBytes }

// score adds a score, made now.
func (b *outbox) score(s *schemas.ChurnScore) {
	now := b.cfg.Now()
	s.ScoredAt = now.UnixMilli()
	for _, f := range s.Missing {
		b.metrics.missing[f].Inc()
	}
	key := b.keep(s.CustomerID)
	start := len(b.arena)
	b.arena = b.cfg.Codec.AppendScore(b.arena, s)
	value := b.arena[start:len(b.arena):len(b.arena)]
	b.add(kafka.Record{Key: key, Value: value, Time: now}, int(s.SourcePartition), s.SourceOffset)
	if s.Trigger == schemas.TriggerEvent {
		b.occurred = append(b.occurred, s.OccurredAt)
	}
}

// tombstone adds the tombstone of a customer who does not exist as of the event
// at an offset. The key is valid until flush.
func (b *outbox) tombstone(id []byte, sourceOffset int64) (key []byte) {
	key = b.keep(id)
	b.add(kafka.Record{Key: key, Time: b.cfg.Now()}, b.partition, sourceOffset)
	return key
}

// erasure adds the erasure of a customer, asked for by a record: a tombstone
// among the scores, and one among the outcomes. The topic of outcomes keeps
// them for as long as there are models to train, which is longer than a
// tombstone stays among the scores.
func (b *outbox) erasure(id []byte, r *kafka.Record) {
	key := b.tombstone(id, r.Offset)
	// What is written of the customer from now on, here too, is of a new one,
	// though the broker may stamp this tombstone later.
	at := strconv.AppendInt(nil, deadletters.WrittenAt(r).UnixMilli(), 10)
	b.erasures = append(b.erasures, kafka.Record{Key: key, Headers: []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: at}}})
	b.metrics.erased.Inc()
}

// forward adds a record of a customer who has moved, for the partition where the
// customer is at home now. It keeps its time, which its contents are judged by.
func (b *outbox) forward(r *kafka.Record, home int) {
	b.copyTo(r, home,
		kafka.Header{Key: schemas.HeaderForwardedPartition, Value: strconv.AppendInt(nil, int64(b.partition), 10)},
		kafka.Header{Key: schemas.HeaderForwardedOffset, Value: strconv.AppendInt(nil, r.Offset, 10)})
}

// copyErasure adds the erasure of a customer for a partition where the customer
// was at home before.
func (b *outbox) copyErasure(r *kafka.Record, former int) {
	b.copyTo(r, former, kafka.Header{Key: schemas.HeaderErasureCopy, Value: []byte("1")})
}

func (b *outbox) copyTo(r *kafka.Record, partition int, more ...kafka.Header) {
	out := kafka.Record{Key: slices.Clone(r.Key), Value: slices.Clone(r.Value), Time: r.Time}
	for _, h := range r.Headers {
		if h.Key != schemas.HeaderForwardedPartition && h.Key != schemas.HeaderForwardedOffset {
			out.Headers = append(out.Headers, kafka.Header{Key: h.Key, Value: slices.Clone(h.Value)})
		}
	}
	if r.Value == nil && r.Header(deadletters.HeaderWrittenAt) == nil {
		// The broker may give it another time.
		out.Headers = append(out.Headers, kafka.Header{Key: deadletters.HeaderWrittenAt, Value: strconv.AppendInt(nil, r.Time.UnixMilli(), 10)})
	}
	out.Headers = append(out.Headers, more...)
	b.forwards = append(b.forwards, forward{partition, out})
	b.letterBytes += len(r.Key) + len(r.Value)
}

// mark adds a marker of progress: what was added before it is then written.
func (b *outbox) mark(p *schemas.Progress) {
	start := len(b.arena)
	b.arena = b.cfg.Codec.AppendScore(b.arena, b.nobody)
	middle := len(b.arena)
	b.arena = b.cfg.Codec.AppendProgress(b.arena, p)
	end := len(b.arena)
	b.add(kafka.Record{Key: progressKey, Value: b.arena[start:middle:middle], Time: b.cfg.Now()}, b.partition, p.Next-1,
		kafka.Header{Key: schemas.HeaderProgress, Value: b.arena[middle:end:end]})
}

// markerRecord returns a marker of progress that is written alone.
func markerRecord(codec *schemas.Codec, p *schemas.Progress) kafka.Record {
	return kafka.Record{Key: progressKey, Value: codec.AppendScore(nil, codec.NewScore()),
		Headers: []kafka.Header{{Key: schemas.HeaderProgress, Value: codec.AppendProgress(nil, p)}}}
}

// letter adds a dead letter.
func (b *outbox) letter(r *kafka.Record, why *schemas.PoisonError) {
	letter := b.Scorer.letters.Letter(r, why, b.cfg.Now())
	b.letters = append(b.letters, letter)
	b.letterBytes += deadletters.Size(&letter)
	b.metrics.letters.WithLabelValues(string(why.Reason)).Inc()
	b.logAt(schemas.TopicEvents).Warn("dead letter", "offset", r.Offset, "reason", why.Reason, "detail", why.Detail)
}

// keep copies bytes into the arena.
func (b *outbox) keep(bytes []byte) []byte {
	start := len(b.arena)
	b.arena = append(b.arena, bytes...)
	return b.arena[start:len(b.arena):len(b.arena)]
}

// add adds a record for the output partition, with the source position in its
// headers, before others.
func (b *outbox) add(out kafka.Record, sourcePartition int, sourceOffset int64, others ...kafka.Header) {
	start := len(b.arena)
	b.arena = strconv.AppendInt(b.arena, int64(sourcePartition), 10)
	mid := len(b.arena)
	b.arena = strconv.AppendInt(b.arena, sourceOffset, 10)
	end := len(b.arena)
	h := len(b.headers)
	b.headers = append(b.headers,
		kafka.Header{Key: schemas.HeaderSourcePartition, Value: b.arena[start:mid:mid]},
		kafka.Header{Key: schemas.HeaderSourceOffset, Value: b.arena[mid:end:end]})
	b.headers = append(b.headers, others...)
	out.Headers = b.headers[h:len(b.headers):len(b.headers)]
	b.scores = append(b.scores, out)
}

// flush writes what there is: dead letters and erasures of outcomes first,
// because the scores that follow move the watermark past their source offsets.
// Scores are written by append.
func (b *outbox) flush(ctx context.Context, append func(context.Context, []kafka.Record) error) error {
	if err := b.Scorer.letters.Write(ctx, b.letters...); err != nil {
		return err
	}
	b.letters = b.letters[:0]
	if err := b.eraseOutcomes(ctx); err != nil {
		return err
	}
	if err := b.passOn(ctx); err != nil {
		return err
	}
	b.letterBytes = 0
	if len(b.scores) == 0 {
		return nil
	}
	if err := append(ctx, b.scores); err != nil {
		return err
	}
	now := b.cfg.Now()
	b.metrics.scored.Add(float64(len(b.occurred)))
	for _, t := range b.occurred {
		b.metrics.latency.Observe(max(0, float64(now.UnixMilli()-t)/1000))
	}
	b.clear()
	return nil
}

// passOn forwards records, in the order in which they lay here.
func (b *outbox) passOn(ctx context.Context) error {
	if len(b.forwards) == 0 {
		return nil
	}
	byPartition := map[int][]kafka.Record{}
	for _, f := range b.forwards {
		byPartition[f.partition] = append(byPartition[f.partition], f.record)
	}
	for _, partition := range slices.Sorted(maps.Keys(byPartition)) {
		if err := b.producer.ProduceTo(ctx, schemas.TopicEvents, partition, byPartition[partition]); err != nil {
			return fmt.Errorf("forwarding events of customers who have moved: %w", err)
		}
	}
	b.forwards = b.forwards[:0]
	return nil
}

// eraseOutcomes has the outcomes of erased customers forgotten.
func (b *outbox) eraseOutcomes(ctx context.Context) error {
	if len(b.erasures) == 0 {
		return nil
	}
	err := b.produceErasures(ctx)
	if err != nil && !errors.Is(err, kafka.ErrUnknownTopic) { // else there are none
		return fmt.Errorf("erasing outcomes: %w", err)
	}
	b.erasures = b.erasures[:0]
	return nil
}

func (b *outbox) produceErasures(ctx context.Context) error {
	if b.cfg.Codec.Keys == schemas.KeyPlain {
		return b.producer.Produce(ctx, schemas.TopicOutcomes, b.erasures...)
	}
	// Upstream's keys, and so the partitions of outcomes, are not those of ids.
	for _, r := range b.erasures {
		if err := b.producer.ProduceEverywhere(ctx, schemas.TopicOutcomes, r); err != nil {
			return err
		}
	}
	return nil
}

// clear forgets the scores that are written, and keeps their memory.
func (b *outbox) clear() {
	if invariants.Enabled {
		// Nobody may read a record that was written.
		for i := range b.arena {
			b.arena[i] = 0xdb
		}
	}
	b.arena, b.scores, b.headers, b.occurred = b.arena[:0], b.scores[:0], b.headers[:0], b.occurred[:0]
	if cap(b.arena) > 2*flushBytes {
		b.arena = nil
	}
}
