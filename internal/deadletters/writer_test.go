package deadletters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"churnstream/internal/kafka"
	"churnstream/schemas"
)

// limitedTopic takes batches up to a size, like a broker.
type limitedTopic struct {
	limit   int
	records []kafka.Record
}

func (l *limitedTopic) Produce(_ context.Context, topic string, records ...kafka.Record) error {
	if topic != schemas.TopicDeadLetters {
		return fmt.Errorf("topic %s", topic)
	}
	for _, r := range records {
		if len(r.Key)+len(r.Value) > l.limit {
			return fmt.Errorf("a record of %d bytes: %w", len(r.Key)+len(r.Value), kafka.ErrTooLarge)
		}
	}
	l.records = append(l.records, records...)
	return nil
}

func TestWriterShortensWhatIsTooLarge(t *testing.T) {
	codec := testCodec(t)
	now := time.UnixMilli(1_700_000_000_000)
	why := &schemas.PoisonError{Reason: schemas.ReasonBadFrame, Detail: "no frame"}
	record := func(key, value int) *kafka.Record {
		r := &kafka.Record{Topic: "t", Partition: 3, Offset: 9, Time: now.Add(-time.Hour), Headers: []kafka.Header{{Key: "h", Value: []byte("v")}}}
		if key >= 0 {
			r.Key = bytes.Repeat([]byte("k"), key)
		}
		if value >= 0 {
			r.Value = bytes.Repeat([]byte("x"), value)
		}
		return r
	}
	for name, c := range map[string]struct {
		r        *kafka.Record
		key, val int // of the letter; −1 for none
		detail   string
	}{
		"fits":          {record(5, 100), 5, 100, "no frame"},
		"empty value":   {record(5, 0), 5, 0, "no frame"},
		"no value":      {record(5, -1), 5, -1, "no frame"},
		"large value":   {record(5, 2000), 5, -1, "the value, 2000 bytes, is too large"},
		"large key too": {record(2000, 3000), -1, -1, "the key, 2000 bytes, is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			topic := &limitedTopic{limit: 1000}
			w := NewWriter(topic, codec, "tester")
			small := w.Letter(record(1, 1), why, now)
			letter := w.Letter(c.r, why, now)
			if err := w.Write(t.Context(), small, letter, small); err != nil {
				t.Fatal(err)
			}
			if len(topic.records) != 3 {
				t.Fatalf("%d letters, want 3", len(topic.records))
			}
			var got schemas.DeadLetter
			if err := codec.DecodeDeadLetter(t.Context(), topic.records[1].Value, &got); err != nil {
				t.Fatal(err)
			}
			length := func(b []byte) int {
				if b == nil {
					return -1
				}
				return len(b)
			}
			if length(got.Key) != c.key || length(got.Value) != c.val || !strings.Contains(got.Detail, c.detail) {
				t.Errorf("letter with key %d, value %d, detail %q", length(got.Key), length(got.Value), got.Detail)
			}
			if got.Topic != "t" || got.Partition != 3 || got.Offset != 9 || got.Reason != why.Reason || got.FailedBy != "tester" ||
				got.FailedAt != now.UnixMilli() || got.Timestamp != now.Add(-time.Hour).UnixMilli() {
				t.Errorf("letter %+v", got)
			}
		})
	}
	topic := &limitedTopic{limit: 10}
	w := NewWriter(topic, codec, "tester")
	if err := w.Write(t.Context(), w.Letter(record(1, 1), why, now)); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("a topic that takes nothing: %v", err)
	}
}

// countingRegistry numbers the schemas it is given.
type countingRegistry struct {
	schemas []string
}

func (c *countingRegistry) Schema(_ context.Context, id int) (string, error) {
	if id < 1 || id > len(c.schemas) {
		return "", schemas.ErrSchemaNotFound
	}
	return c.schemas[id-1], nil
}

func (c *countingRegistry) Register(_ context.Context, _, schema string) (int, error) {
	c.schemas = append(c.schemas, schema)
	return len(c.schemas), nil
}

func testCodec(t *testing.T) *schemas.Codec {
	t.Helper()
	codec := schemas.NewCodec(schemas.Telco(), &countingRegistry{})
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return codec
}
