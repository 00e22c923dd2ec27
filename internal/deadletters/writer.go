package deadletters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// Producer writes records; *kafka.Producer does.
type Producer interface {
	Produce(ctx context.Context, topic string, records ...kafka.Record) error
}

// Writer sets records aside for one role.
type Writer struct {
	producer Producer
	codec    *schemas.Codec
	role     string
}

// NewWriter returns a writer. Role is what letters name as the one that could
// not process the record.
func NewWriter(producer Producer, codec *schemas.Codec, role string) *Writer {
	return &Writer{producer: producer, codec: codec, role: role}
}

// maxDetail bounds a letter's detail in bytes.
const maxDetail = 1024

// Letter makes the dead letter of a record. Its bytes are copies: the record
// may be reused. Of a detail beyond 1 KiB it has the beginning. For a batch that
// cannot be read it holds the batch.
func (w *Writer) Letter(r *kafka.Record, why *schemas.PoisonError, now time.Time) schemas.DeadLetter {
	letter := schemas.DeadLetter{
		Reason: why.Reason, Detail: schemas.Clip(why.Detail, maxDetail),
		Topic: r.Topic, Partition: int32(r.Partition), Offset: r.Offset, Timestamp: r.Time.UnixMilli(),
		Key: clone(r.Key), Value: clone(r.Value),
		FailedAt: now.UnixMilli(), FailedBy: w.role,
	}
	if u := r.Unreadable; u != nil {
		letter.Detail = schemas.Clip(fmt.Sprintf("the batch of records from offset %d to %d: %v", u.First, r.Offset, u.Err), maxDetail)
		letter.Value = clone(u.Batch)
	}
	for _, h := range r.Headers {
		letter.Headers = append(letter.Headers, schemas.Header{Key: h.Key, Value: clone(h.Value)})
	}
	return letter
}

// clone keeps nil, a record without key or value, apart from an empty one.
func clone(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// SetAside returns an intake.Policy that makes a dead letter of a record, waits
// until it is acknowledged, however long Kafka is down, and calls count.
func (w *Writer) SetAside(log *slog.Logger, count func(topic string, reason schemas.Reason)) intake.Policy {
	return func(ctx context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		letter := w.Letter(r, why, time.Now())
		err := retry.Do(ctx, log, "writing a dead letter", func(ctx context.Context) error { return w.Write(ctx, letter) })
		if err != nil {
			return err
		}
		count(r.Topic, why.Reason)
		log.Warn("dead letter", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "reason", why.Reason, "detail", why.Detail)
		return nil
	}
}

// smallLetter is up to how many bytes letters are written together. One that is
// larger goes alone: when the topic does not take it, the others are not
// concerned.
const smallLetter = 16 << 10

// Write returns when all letters are acknowledged. A letter that the topic
// would not take for its size loses first the value and the headers, then the
// key, and says so: no record may hold up those after it. The error is ctx's,
// or one of the topic's that trying again does not mend.
func (w *Writer) Write(ctx context.Context, letters ...schemas.DeadLetter) error {
	var together []kafka.Record
	var alone []schemas.DeadLetter
	for i := range letters {
		if r := w.record(&letters[i]); len(r.Key)+len(r.Value) <= smallLetter {
			together = append(together, r)
		} else {
			alone = append(alone, letters[i])
		}
	}
	err := w.producer.Produce(ctx, schemas.TopicDeadLetters, together...)
	if errors.Is(err, kafka.ErrTooLarge) {
		// The topic takes less than any should. It may have taken some.
		alone, err = letters, nil
	}
	for i := 0; i < len(alone) && err == nil; i++ {
		err = w.writeShorter(ctx, alone[i])
	}
	if err != nil {
		return fmt.Errorf("writing to %s: %w", schemas.TopicDeadLetters, err)
	}
	return nil
}

// writeShorter writes a letter as a whole or, if that is too large, what is left
// of it. In the end that is little: a detail of maxDetail, and Kafka bounds the
// names of topics.
func (w *Writer) writeShorter(ctx context.Context, letter schemas.DeadLetter) error {
	shorten := []func(){
		func() {},
		func() {
			n := len(letter.Value)
			for _, h := range letter.Headers {
				n += len(h.Key) + len(h.Value)
			}
			letter.Detail += fmt.Sprintf(" (the value and the headers, %d bytes, are too large to be kept here)", n)
			letter.Value, letter.Headers = nil, nil
		},
		func() {
			letter.Detail += fmt.Sprintf(" (the key, %d bytes, is too large, too)", len(letter.Key))
			letter.Key = nil
		},
	}
	var err error
	for _, cut := range shorten {
		cut()
		err = w.producer.Produce(ctx, schemas.TopicDeadLetters, w.record(&letter))
		if !errors.Is(err, kafka.ErrTooLarge) {
			return err
		}
	}
	return err
}

// headerNulls is the header of a letter that names those of its headers that
// have no value, by their numbers from 0: "0,3". The schema knows no difference
// between none and an empty one.
const headerNulls = "null-headers"

func (w *Writer) record(letter *schemas.DeadLetter) kafka.Record {
	r := kafka.Record{Key: letter.Key, Value: w.codec.AppendDeadLetter(nil, letter)}
	var nulls []string
	for i, h := range letter.Headers {
		if h.Value == nil {
			nulls = append(nulls, strconv.Itoa(i))
		}
	}
	if nulls != nil {
		r.Headers = []kafka.Header{{Key: headerNulls, Value: []byte(strings.Join(nulls, ","))}}
	}
	return r
}

// restoreNulls takes the values from the headers that had none.
func restoreNulls(letter *schemas.DeadLetter, nulls []byte) {
	for n := range bytes.SplitSeq(nulls, []byte(",")) {
		if i, err := strconv.Atoi(string(n)); err == nil && 0 <= i && i < len(letter.Headers) {
			letter.Headers[i].Value = nil
		}
	}
}
