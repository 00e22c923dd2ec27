package deadletters

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
)

// limitedTopic takes records up to a size, and of several those before the
// first that is larger, as a producer may.
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
		l.records = append(l.records, r)
	}
	return nil
}

// The letter of a batch that cannot be read holds the batch.
func TestLetterOfABatch(t *testing.T) {
	r := &kafka.Record{Topic: "t", Offset: 9, Value: []byte{}, Unreadable: &kafka.Unreadable{First: 7, Batch: []byte("batch"), Err: errors.New("it becomes too large")}}
	got := new(Writer).Letter(r, &schemas.PoisonError{Reason: schemas.ReasonBadFrame, Detail: "0 bytes"}, time.UnixMilli(1))
	if string(got.Value) != "batch" || got.Offset != 9 || got.Detail != "the batch of records from offset 7 to 9: it becomes too large" {
		t.Errorf("%+v", got)
	}
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
	const limit = 100_000
	for name, c := range map[string]struct {
		r        *kafka.Record
		key, val int // of the letter; −1 for none
		detail   string
	}{
		"fits":          {record(5, 100), 5, 100, "no frame"},
		"empty value":   {record(5, 0), 5, 0, "no frame"},
		"no value":      {record(5, -1), 5, -1, "no frame"},
		"large value":   {record(5, 200_000), 5, 8192, "the value has 200000 bytes, of which 8192 are kept"},
		"large key too": {record(200_000, 300_000), -1, 8192, "the key, 200000 bytes, is too large"},
		"cut at once":   {record(5, 60_000_000), 5, 65536, "the value has 60000000 bytes, of which 65536 are kept"},
		"of any size":   {record(2_000_000, 0), -1, 0, "the key, 2000000 bytes, is too large"},
	} {
		t.Run(name, func(t *testing.T) {
			topic := &limitedTopic{limit: limit}
			w := NewWriter(topic, codec, "tester")
			small := w.Letter(record(1, 1), why, now)
			letter := w.Letter(c.r, why, now)
			if err := w.Write(t.Context(), small, letter, small); err != nil {
				t.Fatal(err)
			}
			if len(topic.records) != 3 {
				t.Fatalf("%d letters, want 3", len(topic.records))
			}
			got := schemas.DeadLetter{}
			for _, r := range topic.records {
				var l schemas.DeadLetter
				if err := codec.DecodeDeadLetter(t.Context(), r.Value, &l); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(l.Key, small.Key) {
					got = l
				}
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
			if whole := len(c.r.Key) == max(c.key, 0) && len(c.r.Value) == max(c.val, 0); whole != (got.OriginalBytes == 0) || whole != (got.ValueSHA256 == "") {
				t.Errorf("original bytes %d, hash %q", got.OriginalBytes, got.ValueSHA256)
			} else if sum := sha256.Sum256(c.r.Value); !whole && (got.ValueSHA256 != hex.EncodeToString(sum[:]) || got.OriginalBytes != int64(len(c.r.Key)+len(c.r.Value)+2)) {
				t.Errorf("original bytes %d, hash %q", got.OriginalBytes, got.ValueSHA256)
			}
			if why := refusal(&Letter{DeadLetter: got}, map[string]int{"t": 9}); (why == RefusedCut) != (got.OriginalBytes > 0) {
				t.Errorf("redriving it is refused because %q", why)
			}
			if got.Topic != "t" || got.Partition != 3 || got.Offset != 9 || got.Reason != why.Reason || got.FailedBy != "tester" ||
				got.FailedAt != now.UnixMilli() || got.Timestamp != now.Add(-time.Hour).UnixMilli() {
				t.Errorf("letter %+v", got)
			}
		})
	}
	// Each comes also where not even small letters fit together.
	tiny := &limitedTopic{limit: 1000}
	w := NewWriter(tiny, codec, "tester")
	if err := w.Write(t.Context(), w.Letter(record(1, 1), why, now), w.Letter(record(2, 2000), why, now), w.Letter(record(3, 1), why, now)); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, r := range tiny.records {
		keys[string(r.Key)] = true
	}
	if len(keys) != 3 {
		t.Errorf("letters with keys %v", keys)
	}
	topic := &limitedTopic{limit: 10}
	w = NewWriter(topic, codec, "tester")
	if err := w.Write(t.Context(), w.Letter(record(1, 1), why, now)); !errors.Is(err, kafka.ErrTooLarge) {
		t.Errorf("a topic that takes nothing: %v", err)
	}
}

// Whatever a record has too much of, its letter is written.
func TestWriterWritesAnyLetter(t *testing.T) {
	codec := testCodec(t)
	long := strings.Repeat("é", 200_000)
	for name, c := range map[string]struct {
		r      *kafka.Record
		detail string
	}{
		"detail":     {&kafka.Record{Value: []byte("v")}, long},
		"header":     {&kafka.Record{Value: []byte("v"), Headers: []kafka.Header{{Key: long}}}, "short"},
		"everything": {&kafka.Record{Key: []byte(long), Value: []byte(long), Headers: []kafka.Header{{Key: long, Value: []byte(long)}}}, long},
	} {
		t.Run(name, func(t *testing.T) {
			topic := &limitedTopic{limit: 2000}
			w := NewWriter(topic, codec, "tester")
			letter := w.Letter(c.r, &schemas.PoisonError{Reason: schemas.ReasonUndecodable, Detail: c.detail}, time.UnixMilli(1))
			if len(letter.Detail) > maxDetail || !utf8.ValidString(letter.Detail) {
				t.Errorf("a detail of %d bytes, valid: %t", len(letter.Detail), utf8.ValidString(letter.Detail))
			}
			if err := w.Write(t.Context(), letter); err != nil {
				t.Fatal(err)
			}
			if len(topic.records) != 1 {
				t.Errorf("%d letters", len(topic.records))
			}
		})
	}
}

func testCodec(t *testing.T) *schemas.Codec {
	t.Helper()
	codec := schemas.NewCodec(schemas.Telco(), registrytest.New())
	if err := codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return codec
}
