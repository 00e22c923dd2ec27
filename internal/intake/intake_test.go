package intake_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

var errDown = errors.New("no connection")

// newCodecs returns a codec that writes, and one that has everything to ask the
// registry for.
func newCodecs(t testing.TB, r *registrytest.Registry) (writer, reader *schemas.Codec) {
	t.Helper()
	writer = schemas.NewCodec(schemas.Telco(), r)
	if err := writer.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	return writer, schemas.NewCodec(schemas.Telco(), r)
}

func outcome(codec *schemas.Codec, offset int64, customer string) kafka.Record {
	return kafka.Record{
		Topic: schemas.TopicOutcomes, Partition: 3, Offset: offset, Key: []byte(customer),
		Value: codec.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: customer, ObservedAt: offset}),
	}
}

func TestRead(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	under := func(r kafka.Record, key string) kafka.Record { r.Key = []byte(key); return r }
	valued := func(value []byte) kafka.Record {
		return kafka.Record{Topic: schemas.TopicOutcomes, Partition: 3, Offset: 7, Key: []byte("ann"), Value: value}
	}
	checked := func(r *kafka.Record, o *schemas.ChurnOutcome) *schemas.PoisonError {
		if o == nil {
			if len(r.Key) == 0 {
				return &schemas.PoisonError{Reason: schemas.ReasonNoCustomerID}
			}
			return nil
		}
		return intake.CheckKey(schemas.KeyPlain, r, o.CustomerID)
	}
	headed := func(header []byte, value []byte) kafka.Record {
		r := valued(value)
		r.Headers = []kafka.Header{{Key: "other", Value: []byte("x")}, {Key: schemas.ValueSchemaHeader, Value: header}}
		return r
	}
	whole := outcome(writer, 7, "ann").Value
	for name, c := range map[string]struct {
		record   kafka.Record
		reserved bool
		kind     intake.Kind
		poison   schemas.Reason
	}{
		"a message":                         {record: outcome(writer, 7, "ann"), kind: intake.Message},
		"a tombstone":                       {record: valued(nil), kind: intake.Tombstone},
		"a tombstone without a key":         {record: under(valued(nil), ""), poison: schemas.ReasonNoCustomerID},
		"a marker":                          {record: under(valued(nil), schemas.MarkerKey)},
		"a marker with a value":             {record: under(valued([]byte("x")), schemas.MarkerKey)},
		"a marker where strangers write":    {record: under(valued([]byte("x")), schemas.MarkerKey), reserved: true, poison: schemas.ReasonBadFrame},
		"a tombstone where strangers write": {record: valued(nil), reserved: true, kind: intake.Tombstone},
		"no frame":                          {record: valued([]byte("junk")), poison: schemas.ReasonBadFrame},
		"an empty value":                    {record: valued([]byte{}), poison: schemas.ReasonBadFrame},
		"half of it":                        {record: valued(outcome(writer, 7, "ann").Value[:8]), poison: schemas.ReasonUndecodable},
		"the frame in a header":             {record: headed(whole[:5], whole[5:]), kind: intake.Message},
		"in both places":                    {record: headed(whole[:5], whole), poison: schemas.ReasonUndecodable},
		"junk in the header":                {record: headed([]byte("junk"), whole), poison: schemas.ReasonBadFrame},
		"a header, and no value":            {record: headed(whole[:5], nil), kind: intake.Tombstone},
		"another's key":                     {record: under(outcome(writer, 7, "ann"), "bea"), poison: schemas.ReasonKeyMismatch},
		"an unknown schema":                 {record: valued([]byte{0, 0, 0, 0, 99, 1}), poison: schemas.ReasonUnknownSchema},
	} {
		t.Run(name, func(t *testing.T) {
			var got schemas.Reason
			reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.ChurnOutcome]{
				Decode: codec.DecodeOutcome, Check: checked, Reserved: c.reserved,
				Poison: func(_ context.Context, r *kafka.Record, why *schemas.PoisonError) error {
					if r.Offset != 7 {
						t.Errorf("policy for %+v", r)
					}
					got = why.Reason
					return nil
				},
			})
			kind, err := reader.Read(t.Context(), &c.record)
			if kind != c.kind || err != nil || got != c.poison {
				t.Errorf("kind %d, reason %q, %v; want kind %d, reason %q", kind, got, err, c.kind, c.poison)
			}
			if kind == intake.Message && reader.Message().CustomerID != "ann" {
				t.Errorf("read %+v", reader.Message())
			}
			// Without a policy poison is an error that names the record.
			reader = intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.ChurnOutcome]{
				Decode: codec.DecodeOutcome, Check: checked, Reserved: c.reserved,
			})
			_, err = reader.Read(t.Context(), &c.record)
			why, poison := schemas.AsPoison(err)
			if poison != (c.poison != "") || poison && (why.Reason != c.poison || !strings.HasPrefix(err.Error(), "churn.outcomes/3 at offset 7: ")) {
				t.Errorf("without a policy: %v", err)
			}
		})
	}
}

func TestKeep(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	made := 0
	reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.ChurnOutcome]{
		Decode: codec.DecodeOutcome, New: func() *schemas.ChurnOutcome { made++; return new(schemas.ChurnOutcome) },
	})
	var kept []*schemas.ChurnOutcome
	for offset := range int64(4) {
		r := outcome(writer, offset, "ann")
		if _, err := reader.Read(t.Context(), &r); err != nil {
			t.Fatal(err)
		}
		if offset%2 == 1 {
			kept = append(kept, reader.Keep())
		}
	}
	if made != 2 || kept[0].ObservedAt != 1 || kept[1].ObservedAt != 3 {
		t.Errorf("%d made; kept %+v", made, kept)
	}
}

// While the registry is down reading waits, visibly, and then goes on with the
// record that it stopped at.
func TestWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := registrytest.New()
		writer, codec := newCodecs(t, reg)
		reg.Fail(errDown)
		var log bytes.Buffer
		var mu sync.Mutex
		var reports []string
		metrics := prometheus.NewRegistry()
		in := intake.New(intake.Config{
			Name: "monitor intake", Logger: slog.New(slog.NewTextHandler(&log, nil)), Registerer: metrics,
			Ready: func(name string, ready bool, why string) {
				mu.Lock()
				defer mu.Unlock()
				reports = append(reports, fmt.Sprint(name, " ", ready, " ", why))
			},
		})
		var readers sync.WaitGroup
		for offset := range int64(2) {
			readers.Go(func() {
				time.Sleep(time.Duration(offset) * time.Second)
				reader := intake.NewReader(in, intake.Topic[schemas.ChurnOutcome]{Decode: codec.DecodeOutcome})
				r := outcome(writer, offset, "ann")
				if kind, err := reader.Read(t.Context(), &r); kind != intake.Message || err != nil || reader.Message().ObservedAt != offset {
					t.Errorf("kind %d, %v, %+v", kind, err, reader.Message())
				}
			})
		}
		time.Sleep(time.Minute)
		if err := testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP churn_intake_waiting Readers of a topic that wait for the schema registry.
# TYPE churn_intake_waiting gauge
churn_intake_waiting{topic="churn.outcomes"} 2
`), "churn_intake_waiting"); err != nil {
			t.Error(err)
		}
		reg.Fail(nil)
		readers.Wait()
		why := "monitor intake false waiting for the schema registry: schema 3, of churn.outcomes/3 at offset 0: looking up schema 3: no connection"
		if len(reports) != 4 || reports[0] != why || reports[1] != why || reports[3] != "monitor intake true " {
			t.Errorf("reported %q", reports)
		}
		for _, want := range []string{"topic=churn.outcomes partition=3 offset=0 schema_id=3 doing=decoding failures=1", "msg=recovered"} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("no %q in the log:\n%s", want, &log)
			}
		}

		// What ends while it waits says where.
		reg.Fail(errDown)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		other := schemas.NewCodec(schemas.Telco(), reg)
		reader := intake.NewReader(in, intake.Topic[schemas.ChurnOutcome]{Decode: other.DecodeOutcome})
		r := outcome(writer, 5, "ann")
		_, err := reader.Read(ctx, &r)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errDown) || !strings.Contains(err.Error(), "churn.outcomes/3 at offset 5") {
			t.Errorf("error %v", err)
		}
	})
}

func TestPassOver(t *testing.T) {
	var log bytes.Buffer
	in := intake.New(intake.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	counted := 0
	policy := in.PassOver(func(topic string, reason schemas.Reason) {
		if topic == "t" && reason == schemas.ReasonBadFrame {
			counted++
		}
	})
	for i := range int64(9) {
		r := kafka.Record{Topic: "t", Offset: i}
		if err := policy(t.Context(), &r, &schemas.PoisonError{Reason: schemas.ReasonBadFrame, Detail: "junk"}); err != nil {
			t.Fatal(err)
		}
	}
	if lines := strings.Count(log.String(), "poison passed over"); counted != 9 || lines != 4 {
		t.Errorf("%d counted, %d lines:\n%s", counted, lines, &log)
	}
	if want := `msg="poison passed over" topic=t partition=0 offset=7 reason=bad_frame detail=junk passed_over=8`; !strings.Contains(strings.ToLower(log.String()), want) {
		t.Errorf("no %q in the log:\n%s", want, &log)
	}
}

func TestHandle(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	var got []string
	in := intake.New(intake.Config{})
	stop := errors.New("enough")
	handle := intake.Handle(in, intake.Topic[schemas.ChurnOutcome]{Decode: codec.DecodeOutcome, Poison: in.PassOver(nil)},
		func(_ context.Context, r *kafka.Record, o *schemas.ChurnOutcome) error {
			if o == nil {
				got = append(got, fmt.Sprint(r.Offset, " erased"))
				return nil
			}
			got = append(got, fmt.Sprint(r.Offset, " ", o.CustomerID))
			if r.Offset == 5 {
				return stop
			}
			return nil
		})
	records := []kafka.Record{
		outcome(writer, 1, "ann"), {Offset: 2, Key: []byte(schemas.MarkerKey)}, {Offset: 3, Key: []byte("bea")},
		{Offset: 4, Value: []byte("junk")}, outcome(writer, 5, "cid"), outcome(writer, 6, "dan"),
	}
	if err := handle(t.Context(), records); !errors.Is(err, stop) {
		t.Errorf("error %v", err)
	}
	if want := []string{"1 ann", "3 erased", "5 cid"}; !reflect.DeepEqual(got, want) {
		t.Errorf("used %q, want %q", got, want)
	}
}

func event(tb testing.TB) (*schemas.Codec, kafka.Record) {
	codec, _ := newCodecs(tb, registrytest.New())
	e := codec.NewEvent()
	e.EventID, e.CustomerID, e.Source, e.OccurredAt = []byte("550e8400-e29b-41d4-a716-446655440000"), []byte("customer-1"), []byte("test"), 1
	for i := range e.Changes {
		if codec.Set().Spec().Feature(i).Kind == scoring.Numeric {
			e.Changes[i] = float64(i)
		}
	}
	return codec, kafka.Record{Topic: schemas.TopicEvents, Key: e.CustomerID, Value: codec.AppendEvent(nil, e)}
}

func checkEvent(r *kafka.Record, e *schemas.CustomerEvent) *schemas.PoisonError {
	return intake.CheckKey(schemas.KeyPlain, r, e.CustomerID)
}

// Keys of upstream are framed, ours stand between them.
func TestFramedKeys(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	const framed, other = "\x00\x00\x00\x00\x09\x06ann", "\x00\x00\x00\x00\x09\x06bea"
	under := func(key string) kafka.Record { r := outcome(writer, 7, "ann"); r.Key = []byte(key); return r }
	tombstone := under(framed)
	tombstone.Value = nil
	headed := under("\x06ann")
	headed.Headers = []kafka.Header{{Key: schemas.KeySchemaHeader, Value: []byte("\x00\x00\x00\x00\x09")}}
	for name, c := range map[string]struct {
		format schemas.KeyFormat
		record kafka.Record
		kind   intake.Kind
		poison string
	}{
		"plain":                   {schemas.KeyPlain, under("ann"), intake.Message, ""},
		"avro":                    {schemas.KeyAvro, under(framed), intake.Message, ""},
		"avro, by its header":     {schemas.KeyAvro, headed, intake.Message, ""},
		"plain where avro is":     {schemas.KeyAvro, under("ann"), intake.Message, ""},
		"json":                    {schemas.KeyJSON, under(`"ann"`), intake.Message, ""},
		"tombstone":               {schemas.KeyAvro, tombstone, intake.Tombstone, ""},
		"marker":                  {schemas.KeyAvro, under(schemas.MarkerKey), intake.Nothing, ""},
		"another's":               {schemas.KeyAvro, under(other), intake.Nothing, "the record's key is not its customer_id"},
		"json, and nobody said":   {schemas.KeyPlain, under(`"ann"`), intake.Nothing, "the record's key is not its customer_id; it would be with --key-format json"},
		"framed, and nobody said": {schemas.KeyPlain, under(framed), intake.Nothing, ""}, // reserved
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.ChurnOutcome]{
				Decode: codec.DecodeOutcome, Keys: c.format,
				Check: func(r *kafka.Record, o *schemas.ChurnOutcome) *schemas.PoisonError {
					if o == nil {
						return nil
					}
					return intake.CheckKey(c.format, r, o.CustomerID)
				},
				Poison: func(_ context.Context, _ *kafka.Record, why *schemas.PoisonError) error {
					got = why.Detail
					return nil
				},
			})
			if kind, err := reader.Read(t.Context(), &c.record); kind != c.kind || err != nil || got != c.poison {
				t.Errorf("kind %d, %v, poison %q", kind, err, got)
			}
			if c.kind != intake.Nothing && string(intake.CustomerID(c.format, &c.record)) != "ann" {
				t.Errorf("id %q", intake.CustomerID(c.format, &c.record))
			}
		})
	}
}

func TestReadAllocatesNothing(t *testing.T) {
	codec, r := event(t)
	reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.CustomerEvent]{
		Decode: codec.DecodeEvent, New: codec.NewEvent, Check: checkEvent, Reserved: true,
	})
	headed := r
	headed.Headers = []kafka.Header{{Key: schemas.ValueSchemaHeader, Value: r.Value[:5]}}
	headed.Value = r.Value[5:]
	ctx := t.Context()
	for name, r := range map[string]kafka.Record{"framed": r, "frame in a header": headed} {
		if n := testing.AllocsPerRun(100, func() {
			if kind, err := reader.Read(ctx, &r); kind != intake.Message || err != nil {
				t.Fatal(kind, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations per record", name, n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	codec, r := event(b)
	ctx := b.Context()
	b.Run("codec", func(b *testing.B) {
		e := codec.NewEvent()
		b.ReportAllocs()
		for b.Loop() {
			if err := codec.DecodeEvent(ctx, r.Value, e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("reader", func(b *testing.B) {
		reader := intake.NewReader(intake.New(intake.Config{}), intake.Topic[schemas.CustomerEvent]{
			Decode: codec.DecodeEvent, New: codec.NewEvent, Check: checkEvent, Reserved: true,
		})
		b.ReportAllocs()
		for b.Loop() {
			if _, err := reader.Read(ctx, &r); err != nil {
				b.Fatal(err)
			}
		}
	})
}
