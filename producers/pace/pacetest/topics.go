// Package pacetest has topics in memory for the tests of producers.
package pacetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
)

// ErrCrash is what Produce answers when the producer is to die.
var ErrCrash = errors.New("crash")

// Topics keeps records in memory, each topic as one partition.
type Topics struct {
	// Crash, if set, is asked before each Produce call of n records. If it
	// answers true, only the first kept are written and the call fails with
	// ErrCrash.
	Crash func(n int) (kept int, crash bool)
	// Calls counts the Produce calls.
	Calls int

	mu      sync.Mutex
	records map[string][]kafka.Record
}

// Produce appends copies of the records.
func (t *Topics) Produce(ctx context.Context, topic string, records ...kafka.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Calls++
	var err error
	if t.Crash != nil {
		if kept, crash := t.Crash(len(records)); crash {
			records, err = records[:kept], ErrCrash
		}
	}
	if t.records == nil {
		t.records = map[string][]kafka.Record{}
	}
	for _, r := range records {
		r.Topic, r.Offset = topic, int64(len(t.records[topic]))
		r.Key, r.Value = slices.Clone(r.Key), slices.Clone(r.Value)
		t.records[topic] = append(t.records[topic], r)
	}
	return err
}

// Tail hands over all records of the topics, a few at a time.
func (t *Topics) Tail(ctx context.Context, cfg kafka.TailConfig, handle func(context.Context, []kafka.Record) error) error {
	for _, topic := range cfg.Topics {
		for records := range slices.Chunk(t.Records(topic), 100) {
			if err := handle(ctx, records); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// Records returns what is on a topic.
func (t *Topics) Records(topic string) []kafka.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.records[topic])
}

// Events returns the decoded events and fails the test if a record is none, or
// its key is not the customer's id.
func (t *Topics) Events(tb testing.TB, codec *schemas.Codec) []*schemas.CustomerEvent {
	tb.Helper()
	var events []*schemas.CustomerEvent
	for _, r := range t.Records(schemas.TopicEvents) {
		e := codec.NewEvent()
		if err := codec.DecodeEvent(tb.Context(), r.Value, e); err != nil {
			tb.Fatalf("event at offset %d: %v", r.Offset, err)
		}
		if string(r.Key) != string(e.CustomerID) {
			tb.Fatalf("event at offset %d: key %q, customer %q", r.Offset, r.Key, e.CustomerID)
		}
		events = append(events, e)
	}
	return events
}

// Outcomes is Events for outcomes.
func (t *Topics) Outcomes(tb testing.TB, codec *schemas.Codec) []schemas.ChurnOutcome {
	tb.Helper()
	var outcomes []schemas.ChurnOutcome
	for _, r := range t.Records(schemas.TopicOutcomes) {
		var o schemas.ChurnOutcome
		if err := codec.DecodeOutcome(tb.Context(), r.Value, &o); err != nil {
			tb.Fatalf("outcome at offset %d: %v", r.Offset, err)
		}
		if string(r.Key) != o.CustomerID {
			tb.Fatalf("outcome at offset %d: key %q, customer %q", r.Offset, r.Key, o.CustomerID)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes
}

// Codec returns a codec of a set, registered with a registry in memory.
func Codec(tb testing.TB, set *schemas.Set) *schemas.Codec {
	tb.Helper()
	codec := schemas.NewCodec(set, registrytest.New())
	if err := codec.Register(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return codec
}
