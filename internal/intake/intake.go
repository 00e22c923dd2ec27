// Package intake turns records into messages, the same way for every reader:
// records under reserved keys are passed over, tombstones are distinguished from
// messages, messages are decoded into memory that is used again, and poison
// goes where the reader's policy says. While the schema registry is down
// reading waits, and says so: in the log, in a metric and in the readiness of
// the role, with the topic, partition, offset and schema id that it waits at.
//
// Reading a record whose schema is known allocates nothing.
package intake

import (
	"context"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/metrics"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// Config configures New.
type Config struct {
	// Name is that of the reports to Ready.
	Name string
	// Ready, if set, takes a report when reading begins to wait for the
	// registry and when it goes on. One that never had to wait reports
	// nothing. Leave it out where old state can serve meanwhile.
	Ready func(name string, ready bool, why string)
	// Logger receives what an operator should know. Default none.
	Logger *slog.Logger
	// Registerer receives the metrics. Default none.
	Registerer prometheus.Registerer
}

// Intake is what the readers of a role share. It is safe for concurrent use.
type Intake struct {
	cfg     Config
	log     *slog.Logger
	waiting *prometheus.GaugeVec // topic

	mu    sync.Mutex
	waits []*wait // that are under way, the oldest first
}

// New returns an Intake.
func New(cfg Config) *Intake {
	in := &Intake{
		cfg: cfg,
		log: cfg.Logger,
		waiting: metrics.Register(cfg.Registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_intake_waiting",
			Help: "Readers of a topic that wait for the schema registry.",
		}, []string{"topic"})),
	}
	if in.log == nil {
		in.log = slog.New(slog.DiscardHandler)
	}
	return in
}

// Kind is what a record turned out to be.
type Kind uint8

const (
	// Nothing is a record to pass over: one under a reserved key, or poison
	// that the policy has dealt with.
	Nothing Kind = iota
	// Tombstone is a record without a value.
	Tombstone
	// Message is one that was decoded.
	Message
)

// Policy deals with a record that is poison. An error of it ends reading; with
// nil the record is done with.
type Policy func(ctx context.Context, r *kafka.Record, why *schemas.PoisonError) error

// Topic says how the records of a topic are read. Decode is required.
type Topic[T any] struct {
	// Decode reads a value, as the methods of schemas.Codec do: its error is a
	// *schemas.PoisonError, or passing.
	Decode func(ctx context.Context, value []byte, message *T) error
	// New makes what values are decoded into. Default new(T).
	New func() *T
	// Keys is how the customer's id is written as the key: Codec.Keys for topics
	// of upstream. Default: as it is.
	Keys schemas.KeyFormat
	// Check, if set, says why a record is poison though it could be decoded,
	// and returns nil if it is not. For a tombstone message is nil.
	Check func(r *kafka.Record, message *T) *schemas.PoisonError
	// Poison is the policy. Default: Read fails, with an error that matches
	// *schemas.PoisonError.
	Poison Policy
	// Owners, if set, make poison of what is none of theirs.
	Owners *Owners
	// Reserved has records under reserved keys read like all others, for topics
	// that strangers write to. Default: they are passed over.
	Reserved bool
}

// Reader reads the records of a topic, one at a time.
type Reader[T any] struct {
	intake  *Intake
	topic   Topic[T]
	message *T
	framed  []byte // a value after the frame that was in a header
}

// maxKept bounds the memory for values with the frame in a header that is kept
// for the next, in bytes.
const maxKept = 64 << 10

// NewReader returns a Reader.
func NewReader[T any](in *Intake, topic Topic[T]) *Reader[T] {
	if topic.New == nil {
		topic.New = func() *T { return new(T) }
	}
	if topic.Poison == nil {
		topic.Poison = func(_ context.Context, _ *kafka.Record, why *schemas.PoisonError) error { return why }
	}
	return &Reader[T]{intake: in, topic: topic}
}

// Read reads a record. It waits while the registry is down. The error is ctx's
// or that of the policy, and names the record.
func (r *Reader[T]) Read(ctx context.Context, record *kafka.Record) (Kind, error) {
	if r.topic.Owners != nil {
		foreign, err := r.topic.Owners.Admit(ctx, record)
		switch {
		case err != nil:
			return Nothing, err
		case foreign && !schemas.IsReservedKey(record.Key):
			return r.refuse(ctx, record, errForeign)
		}
	}
	if !r.topic.Reserved && schemas.IsReservedKey(CustomerID(r.topic.Keys, record)) {
		return Nothing, nil
	}
	kind := Tombstone
	var message *T
	if record.Value != nil {
		kind = Message
		if r.message == nil {
			r.message = r.topic.New()
		}
		message = r.message
		value, err := r.value(record)
		if err == nil {
			err = r.topic.Decode(ctx, value, message)
		}
		if err != nil {
			if err = r.decodeLater(ctx, record, value, err); err != nil {
				return r.refuse(ctx, record, err)
			}
		}
	}
	if r.topic.Check != nil {
		if why := r.topic.Check(record, message); why != nil {
			return r.refuse(ctx, record, why)
		}
	}
	return kind, nil
}

// errForeign is why a record is poison that none of a topic's owners has written.
var errForeign = &schemas.PoisonError{Reason: schemas.ReasonForeign, Detail: "its producer is none of the scorers that have owned the partition"}

// value returns a record's value with a frame before it, wherever that was.
func (r *Reader[T]) value(record *kafka.Record) (value []byte, err error) {
	header := record.Header(schemas.ValueSchemaHeader)
	if header == nil {
		return record.Value, nil
	}
	if cap(r.framed) > maxKept {
		r.framed = nil
	}
	r.framed, err = schemas.AppendFramed(r.framed[:0], header, record.Value)
	return r.framed, err
}

// Marker returns what a marker of progress says as a record of its own, for a
// Reader of schemas.Progress. A marker that says nothing becomes a tombstone.
func Marker(r *kafka.Record) *kafka.Record {
	said := &kafka.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key}
	if r.Value != nil {
		said.Value = r.Header(schemas.HeaderProgress)
	}
	return said
}

// CustomerID returns the customer's id in a record's key. It is valid as long as
// the key is.
func CustomerID(format schemas.KeyFormat, r *kafka.Record) []byte {
	if format == schemas.KeyPlain {
		return r.Key
	}
	return format.ID(r.Header(schemas.KeySchemaHeader), r.Key)
}

// Message returns the message that was read last. What it holds may point into
// the record, and is valid until the next Read.
func (r *Reader[T]) Message() *T { return r.message }

// Keep returns the message that was read last, which is the caller's now: the
// next is decoded into another. What it holds may still point into the record.
func (r *Reader[T]) Keep() *T {
	message := r.message
	r.message, r.framed = nil, nil
	return message
}

// refuse passes poison to the policy.
func (r *Reader[T]) refuse(ctx context.Context, record *kafka.Record, err error) (Kind, error) {
	if why, poison := schemas.AsPoison(err); poison {
		err = r.topic.Poison(ctx, record, why)
	}
	if err != nil {
		err = fmt.Errorf("%s/%d at offset %d: %w", record.Topic, record.Partition, record.Offset, err)
	}
	return Nothing, err
}

// decodeLater goes on decoding a record at which decoding failed with err,
// until the registry answers or the record turns out to be poison.
func (r *Reader[T]) decodeLater(ctx context.Context, record *kafka.Record, value []byte, err error) error {
	if _, poison := schemas.AsPoison(err); poison {
		return err
	}
	schema, _, _ := schemas.CutFrame(value) // one without a frame is poison
	w := &wait{topic: record.Topic, partition: record.Partition, offset: record.Offset, schema: schema}
	first := err
	return retry.Loop{
		Log: r.intake.log, Doing: "decoding",
		Waiting:   w.what(),
		Attrs:     []any{"topic", w.topic, "partition", w.partition, "offset", w.offset, "schema_id", w.schema},
		Failing:   func(err error) { w.err = err; r.intake.begin(w) },
		Recovered: func() { r.intake.end(w) },
	}.Run(ctx, func(ctx context.Context) error {
		err := first
		if first = nil; err == nil {
			err = r.topic.Decode(ctx, value, r.message)
		}
		if _, poison := schemas.AsPoison(err); poison {
			return retry.Permanent(err)
		}
		return err
	})
}

// wait is a record at which a reader waits for the registry.
type wait struct {
	topic     string
	partition int
	offset    int64
	schema    schemas.SchemaName
	err       error
}

// what says what is waited for, and at which record.
func (w *wait) what() string {
	return fmt.Sprintf("waiting for the schema registry: schema %s, of %s/%d at offset %d", w.schema, w.topic, w.partition, w.offset)
}

// String adds why.
func (w *wait) String() string { return w.what() + ": " + w.err.Error() }

func (in *Intake) begin(w *wait) {
	in.waiting.WithLabelValues(w.topic).Inc()
	in.mu.Lock()
	defer in.mu.Unlock()
	in.waits = append(in.waits, w)
	in.report()
}

func (in *Intake) end(w *wait) {
	in.waiting.WithLabelValues(w.topic).Dec()
	in.mu.Lock()
	defer in.mu.Unlock()
	for i := range in.waits {
		if in.waits[i] == w {
			in.waits = append(in.waits[:i], in.waits[i+1:]...)
			break
		}
	}
	in.report()
}

// report reports the wait that has taken longest. The caller holds mu, so that
// reports come in order.
func (in *Intake) report() {
	switch {
	case in.cfg.Ready == nil:
	case len(in.waits) == 0:
		in.cfg.Ready(in.cfg.Name, true, "")
	default:
		in.cfg.Ready(in.cfg.Name, false, in.waits[0].String())
	}
}

// PassOver returns a policy that calls count, nil for none, and passes the
// record over. A topic full of poison must not become a log full of lines: the
// 1st, 2nd, 4th, 8th … is logged.
func (in *Intake) PassOver(count func(topic string, reason schemas.Reason)) Policy {
	var passed atomic.Uint64
	return func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		if count != nil {
			count(r.Topic, why.Reason)
		}
		if n := passed.Add(1); bits.OnesCount64(n) == 1 {
			in.log.Warn("poison passed over", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset,
				"reason", why.Reason, "detail", why.Detail, "passed_over", n)
		}
		return nil
	}
}

// Handle returns what a *kafka.Cluster's Tail calls: use gets every tombstone,
// with a nil message, and every message, which is valid until use returns. Calls
// for different partitions overlap.
func Handle[T any](in *Intake, topic Topic[T], use func(ctx context.Context, r *kafka.Record, message *T) error) func(context.Context, []kafka.Record) error {
	readers := sync.Pool{New: func() any { return NewReader(in, topic) }}
	return func(ctx context.Context, records []kafka.Record) error {
		reader := readers.Get().(*Reader[T])
		defer readers.Put(reader)
		for i := range records {
			kind, err := reader.Read(ctx, &records[i])
			if err != nil {
				return err
			}
			switch kind {
			case Tombstone:
				err = use(ctx, &records[i], nil)
			case Message:
				err = use(ctx, &records[i], reader.message)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// CheckKey is for Topic.Check: a record under another customer's key is poison,
// because an erasure of its customer would not come after it. Keys are of a format.
func CheckKey[ID ~string | ~[]byte](format schemas.KeyFormat, r *kafka.Record, customer ID) *schemas.PoisonError {
	switch {
	case len(customer) == 0:
		return &schemas.PoisonError{Reason: schemas.ReasonNoCustomerID, Detail: "customer_id is empty"}
	case string(CustomerID(format, r)) != string(customer):
		return &schemas.PoisonError{Reason: schemas.ReasonKeyMismatch, Detail: "the record's key is not its customer_id" + keyAdvice(r, string(customer))}
	}
	return nil
}

// keyAdvice says that a key is the customer's id after all, in a format that was
// not asked for.
func keyAdvice(r *kafka.Record, customer string) string {
	for i, name := range []string{"avro", "json"} {
		if string(CustomerID(schemas.KeyAvro+schemas.KeyFormat(i), r)) == customer {
			return "; it would be with --key-format " + name
		}
	}
	return ""
}
