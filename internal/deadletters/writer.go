package deadletters

import (
	"context"
	"errors"
	"fmt"
	"time"

	"churnstream/internal/kafka"
	"churnstream/schemas"
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

// Letter makes the dead letter of a record. Its bytes are copies: the record
// may be reused.
func (w *Writer) Letter(r *kafka.Record, why *schemas.PoisonError, now time.Time) schemas.DeadLetter {
	letter := schemas.DeadLetter{
		Reason: why.Reason, Detail: why.Detail,
		Topic: r.Topic, Partition: int32(r.Partition), Offset: r.Offset, Timestamp: r.Time.UnixMilli(),
		Key: clone(r.Key), Value: clone(r.Value),
		FailedAt: now.UnixMilli(), FailedBy: w.role,
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

// Write returns when all letters are acknowledged. A letter that the topic
// would not take for its size loses first the value and the headers, then the
// key, and says so: no record may hold up those behind it. The error is ctx's,
// or one of the topic's that trying again does not mend.
func (w *Writer) Write(ctx context.Context, letters ...schemas.DeadLetter) error {
	if len(letters) == 0 {
		return nil
	}
	records := make([]kafka.Record, len(letters))
	for i := range letters {
		records[i] = w.record(&letters[i])
	}
	err := w.producer.Produce(ctx, schemas.TopicDeadLetters, records...)
	if errors.Is(err, kafka.ErrTooLarge) {
		for i := range letters {
			if err = w.writeShorter(ctx, letters[i]); err != nil {
				break
			}
		}
	}
	if err != nil {
		return fmt.Errorf("writing to %s: %w", schemas.TopicDeadLetters, err)
	}
	return nil
}

func (w *Writer) writeShorter(ctx context.Context, letter schemas.DeadLetter) error {
	shorten := []func(){
		func() {},
		func() {
			letter.Detail += fmt.Sprintf(" (the value, %d bytes, is too large to be kept here)", len(letter.Value))
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

func (w *Writer) record(letter *schemas.DeadLetter) kafka.Record {
	return kafka.Record{Key: letter.Key, Value: w.codec.AppendDeadLetter(nil, letter)}
}
