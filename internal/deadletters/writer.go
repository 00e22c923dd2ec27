package deadletters

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
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

const (
	// maxWhole is up to how many bytes of key, value and headers a record is
	// kept whole: the letter is then one that topics take as they are by
	// default. maxPart bounds what is kept of the value, of the headers and of
	// the key of one that is larger.
	maxWhole = 900_000
	maxPart  = 64 << 10
)

// Letter makes the dead letter of a record. It shares the record's memory. Of a
// detail beyond 1 KiB it has the beginning. For a batch that cannot be read it
// holds the batch. Of a record, or batch, of more than 900,000 bytes it has the
// beginning, its size and its hash: one that was compressed well must not take
// its full size here, on the way, and in the broker.
func (w *Writer) Letter(r *kafka.Record, why *schemas.PoisonError, now time.Time) schemas.DeadLetter {
	letter := schemas.DeadLetter{
		Reason: why.Reason, Detail: schemas.Clip(why.Detail, maxDetail),
		Topic: r.Topic, Partition: int32(r.Partition), Offset: r.Offset, Timestamp: r.Time.UnixMilli(),
		Key: r.Key, Value: r.Value,
		FailedAt: now.UnixMilli(), FailedBy: w.role,
	}
	if u := r.Unreadable; u != nil {
		letter.Detail = schemas.Clip(fmt.Sprintf("the batch of records from offset %d to %d: %v", u.First, r.Offset, u.Err), maxDetail)
		letter.Value = u.Batch
	}
	if len(r.Headers) > 0 {
		letter.Headers = make([]schemas.Header, len(r.Headers))
		for i, h := range r.Headers {
			letter.Headers[i] = schemas.Header(h)
		}
	}
	if original(&letter) > maxWhole {
		cut(&letter, maxPart)
	}
	return letter
}

// original returns how many bytes key, value and headers have.
func original(l *schemas.DeadLetter) int { return len(l.Key) + len(l.Value) + headerBytes(l) }

func headerBytes(l *schemas.DeadLetter) (n int) {
	for _, h := range l.Headers {
		n += len(h.Key) + len(h.Value)
	}
	return n
}

// cut leaves so many bytes of the value, and no headers or key that are larger,
// and says so.
func cut(l *schemas.DeadLetter, most int) {
	if l.OriginalBytes == 0 {
		l.OriginalBytes = int64(original(l))
		sum := sha256.Sum256(l.Value)
		l.ValueSHA256 = hex.EncodeToString(sum[:])
	}
	if len(l.Value) > most {
		add(l, "the value has %d bytes, of which %d are kept", len(l.Value), most)
		l.Value = l.Value[:most:most]
		if most == 0 {
			l.Value = nil
		}
	}
	if n := headerBytes(l); n > most {
		add(l, "the headers, %d bytes, are too large to be kept", n)
		l.Headers = nil
	}
	if len(l.Key) > max(most, maxPart) {
		add(l, "the key, %d bytes, is too large to be kept", len(l.Key))
		l.Key = nil
	}
}

// add adds to what a letter says, in the room that there is for it.
func add(l *schemas.DeadLetter, format string, args ...any) {
	note := fmt.Sprintf(" ("+format+")", args...)
	l.Detail = schemas.Clip(l.Detail, maxDetail-len(note)) + note
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
// would not take for its size loses more of the value and the headers, then the
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
		func() { cut(&letter, smallLetter/2) },
		func() { cut(&letter, 0) },
		func() {
			if letter.Key != nil {
				add(&letter, "the key, %d bytes, is too large to be kept", len(letter.Key))
				letter.Key = nil
			}
		},
	}
	var err error
	for _, shorter := range shorten {
		shorter()
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
