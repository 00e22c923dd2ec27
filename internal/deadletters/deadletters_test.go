package deadletters

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

const partitions = 2

// origin is when the records in the letters were written.
var origin = time.Date(2026, 1, 2, 3, 4, 5, 678e6, time.UTC)

// desk is a broker, a registry, and what speaks to them.
type desk struct {
	t       *testing.T
	ctx     context.Context
	broker  string
	cluster *kafka.Cluster
	codec   *schemas.Codec
	out     *kafka.Producer
	queue   *Queue
}

func newDesk(t *testing.T) *desk { return newDeskWith(t, nil) }

// newDeskWith gives the topic of events settings of its own.
func newDeskWith(t *testing.T, events map[string]string) *desk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { broker.Close() })
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reg.Close() })
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	d := &desk{t: t, ctx: ctx, broker: broker.Addr(), cluster: cluster, codec: schemas.NewCodec(schemas.Telco(), client)}
	if err := d.codec.Register(ctx); err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{schemas.TopicEvents, schemas.TopicOutcomes, schemas.TopicScores, schemas.TopicModels, schemas.TopicDeadLetters} {
		cfg := kafka.TopicConfig{Name: topic, Partitions: partitions}
		if topic == schemas.TopicEvents {
			cfg.Configs = events
		}
		if err := cluster.EnsureTopics(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	d.out = cluster.NewProducer(kafka.ProducerConfig{})
	d.queue = New(Config{Cluster: cluster, Codec: d.codec})
	return d
}

// letter makes a letter of the record at the offset of events/1; change may
// make another of it.
func letter(offset int64, change func(*schemas.DeadLetter)) schemas.DeadLetter {
	l := schemas.DeadLetter{
		Reason: schemas.ReasonUndecodable, Detail: "it ends too early",
		Topic: schemas.TopicEvents, Partition: 1, Offset: offset, Timestamp: origin.UnixMilli() + offset,
		Key: []byte("anna"), Value: fmt.Appendf(nil, "value %d", offset),
		Headers:  []schemas.Header{{Key: "trace", Value: []byte{1, 2}}},
		FailedAt: origin.Add(time.Hour).UnixMilli() + offset, FailedBy: "scorer",
	}
	if change != nil {
		change(&l)
	}
	return l
}

// file writes letters to a partition of the dead letters.
func (d *desk) file(partition int, letters ...schemas.DeadLetter) {
	d.t.Helper()
	for i := range letters {
		d.produce(schemas.TopicDeadLetters, partition, kafka.Record{
			Key: letters[i].Key, Value: d.codec.AppendDeadLetter(nil, &letters[i]),
		})
	}
}

func (d *desk) produce(topic string, partition int, records ...kafka.Record) {
	d.t.Helper()
	if err := d.out.ProduceTo(d.ctx, topic, partition, records); err != nil {
		d.t.Fatal(err)
	}
}

// records reads a whole partition.
func (d *desk) records(topic string, partition int) (all []kafka.Record) {
	d.t.Helper()
	first, end, err := d.cluster.Offsets(d.ctx, topic, partition)
	if err != nil {
		d.t.Fatal(err)
	}
	err = d.queue.read(d.ctx, "", []kafka.Span{{Topic: topic, Partition: partition, Start: first, End: end}}, func(r *kafka.Record) error {
		c := *r
		c.Key, c.Value, c.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
		for i := range c.Headers {
			c.Headers[i].Value = slices.Clone(c.Headers[i].Value)
		}
		all = append(all, c)
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return all
}

func (d *desk) plan(f Filter, limit int) *Plan {
	d.t.Helper()
	p, err := d.queue.Plan(d.ctx, f, limit)
	if err != nil {
		d.t.Fatal(err)
	}
	return p
}

func (d *desk) redrive(p *Plan) Result {
	d.t.Helper()
	r, err := d.queue.Redrive(d.ctx, p)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// shown are refusals with their counts and positions.
func shown(r Refusals) string {
	var all []string
	for _, why := range slices.Sorted(maps.Keys(r)) {
		all = append(all, fmt.Sprint(why, ": ", r[why].Count, " ", r[why].First))
	}
	return strings.Join(all, "; ")
}

func values(records []kafka.Record) string {
	var all []string
	for _, r := range records {
		all = append(all, string(r.Value))
	}
	return strings.Join(all, ",")
}

func positions(letters []Letter) string {
	var all []string
	for _, l := range letters {
		all = append(all, l.Position.String())
	}
	return strings.Join(all, " ")
}

func TestNewest(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil), letter(3, nil),
		letter(5, func(l *schemas.DeadLetter) { l.Reason, l.Key = schemas.ReasonUnknownSchema, nil }))
	d.file(1, letter(2, func(l *schemas.DeadLetter) { l.Key = []byte("bert") }),
		letter(4, func(l *schemas.DeadLetter) { l.Topic, l.FailedBy = schemas.TopicOutcomes, "trainer" }),
		letter(6, func(l *schemas.DeadLetter) { l.Key = []byte{} }))
	failed := func(n int) time.Time { return origin.Add(time.Hour + time.Duration(n)*time.Millisecond) }
	cases := []struct {
		name   string
		filter Filter
		limit  int
		want   string
	}{
		{"all", Filter{}, 0, "0:0 1:0 0:1 1:1 0:2 1:2"},
		{"the newest", Filter{}, 2, "0:2 1:2"},
		{"the newest of one", Filter{}, 1, "1:2"},
		{"more than there are", Filter{}, 100, "0:0 1:0 0:1 1:1 0:2 1:2"},
		{"reason", Filter{Reason: "unknown_schema"}, 0, "0:2"},
		{"topic", Filter{Topic: schemas.TopicOutcomes}, 0, "1:1"},
		{"role", Filter{FailedBy: "trainer"}, 0, "1:1"},
		{"key", Filter{Key: []byte("anna")}, 0, "0:0 0:1 1:1"},
		{"empty key", Filter{Key: []byte{}}, 0, "1:2"},
		{"since", Filter{Since: failed(4)}, 0, "1:1 0:2 1:2"},
		{"until", Filter{Until: failed(3)}, 0, "0:0 1:0"},
		{"between", Filter{Since: failed(2), Until: failed(4)}, 0, "1:0 0:1"},
		{"several", Filter{Key: []byte("anna"), Reason: "undecodable", FailedBy: "scorer"}, 1, "0:1"},
		{"none", Filter{Reason: "boredom"}, 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			letters, err := d.queue.Newest(d.ctx, c.filter, c.limit)
			if err != nil {
				t.Fatal(err)
			}
			if got := positions(letters); got != c.want {
				t.Errorf("letters %s, want %s", got, c.want)
			}
		})
	}
}

func TestRedriveIsFaithfulAndOnce(t *testing.T) {
	d := newDesk(t)
	d.produce(schemas.TopicEvents, 1, kafka.Record{Key: []byte("anna"), Value: []byte("value 0")})
	// Out of order in the letters and in failing: the order of the source
	// counts.
	d.file(0, letter(7, func(l *schemas.DeadLetter) { l.FailedAt -= 1000 }), letter(2, nil))
	d.file(1, letter(5, func(l *schemas.DeadLetter) { l.Key, l.Headers = nil, nil }),
		letter(3, func(l *schemas.DeadLetter) { l.Topic, l.Partition = schemas.TopicOutcomes, 0 }))

	plan := d.plan(Filter{}, 0)
	if got := positions(plan.Letters); got != "0:1 1:0 0:0 1:1" || plan.Done != 0 || len(plan.Refused) != 0 {
		t.Fatalf("plan %s, %+v", got, plan)
	}
	if n := len(d.records(schemas.TopicEvents, 1)); n != 1 {
		t.Fatalf("planning wrote %d records", n-1)
	}
	if r := d.redrive(plan); r.Redriven != 4 || len(r.Refused) != 0 {
		t.Fatalf("result %+v", r)
	}
	events := d.records(schemas.TopicEvents, 1)
	if len(events) != 4 {
		t.Fatalf("%d events", len(events))
	}
	for i, want := range []struct {
		offset int64
		key    []byte
		from   string
		trace  bool
	}{{2, []byte("anna"), "0:1", true}, {5, nil, "1:0", false}, {7, []byte("anna"), "0:0", true}} {
		r := events[i+1]
		if !r.Time.Equal(origin.Add(time.Duration(want.offset)*time.Millisecond)) || string(r.Value) != fmt.Sprint("value ", want.offset) ||
			string(r.Key) != string(want.key) || (r.Key == nil) != (want.key == nil) {
			t.Errorf("event %d: %+v", i, r)
		}
		if got := string(r.Header(HeaderRedrivenFrom)); got != want.from {
			t.Errorf("event %d is redriven from %s, want %s", i, got, want.from)
		}
		if got := string(r.Header(HeaderWrittenAt)); got != strconv.FormatInt(origin.UnixMilli()+want.offset, 10) {
			t.Errorf("event %d was written at %s", i, got)
		}
		if got := r.Header("trace"); want.trace != bytes.Equal(got, []byte{1, 2}) {
			t.Errorf("event %d: header trace is %v", i, got)
		}
	}
	if n := len(d.records(schemas.TopicEvents, 0)); n != 0 {
		t.Errorf("%d events in the partition they did not come from", n)
	}
	outcomes := d.records(schemas.TopicOutcomes, 0)
	if len(outcomes) != 1 || string(outcomes[0].Value) != "value 3" {
		t.Errorf("outcomes %v", outcomes)
	}

	// Each letter is followed by its two notes. The first is early enough: the
	// record lies at or after the end that it gives.
	var notes []string
	for _, r := range d.records(schemas.TopicDeadLetters, 0) {
		if r.Value == nil {
			notes = append(notes, fmt.Sprintf("%s %s %s %s", r.Header(noteState), r.Header(noteLetter), r.Header(noteSource), r.Header(noteEnd)))
		}
	}
	seven, two := letter(7, nil), letter(2, nil)
	want := fmt.Sprintf("begun 0:1 churn.customer-events/1:2@%d 1, begun 0:0 churn.customer-events/1:7@%d 1, "+
		"done 0:1 churn.customer-events/1:2@%[1]d , done 0:0 churn.customer-events/1:7@%[2]d ", two.Timestamp, seven.Timestamp)
	if got := strings.Join(notes, ", "); got != want {
		t.Errorf("notes %s\nwant  %s", got, want)
	}

	again := d.plan(Filter{}, 0)
	if len(again.Letters) != 0 || again.Done != 4 {
		t.Errorf("the second plan %+v", again)
	}
	d.redrive(again)
	if n := len(d.records(schemas.TopicEvents, 1)); n != 4 {
		t.Errorf("redriving again wrote %d more", n-4)
	}
	letters, err := d.queue.Newest(d.ctx, Filter{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		if !l.Redriven {
			t.Errorf("%s is listed as not redriven", l.Position)
		}
	}
	if len(letters) != 4 {
		t.Errorf("%d letters listed, the notes among them?", len(letters))
	}

	// Who names a letter means it.
	byHand, err := d.queue.PlanFor(d.ctx, []Position{{0, 0}, {1, 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got := positions(byHand.Letters); got != "0:0 1:1" || byHand.Done != 0 || !byHand.Letters[0].Redriven {
		t.Errorf("the plan by positions %s, %+v", got, byHand)
	}
	d.redrive(byHand)
	if got := values(d.records(schemas.TopicEvents, 1)); got != "value 0,value 2,value 5,value 7,value 7" {
		t.Errorf("events %s", got)
	}
}

func TestOneRecordWithSeveralLettersIsRedrivenOnce(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil), letter(1, nil))
	d.file(1, letter(1, func(l *schemas.DeadLetter) { l.FailedBy = "sink" }))
	plan := d.plan(Filter{}, 0)
	if len(plan.Letters) != 1 || plan.Twice != 2 {
		t.Fatalf("plan %+v", plan)
	}
	d.redrive(plan)
	// One that comes later is of the same record still.
	d.file(1, letter(1, nil))
	if plan := d.plan(Filter{}, 0); len(plan.Letters) != 0 || plan.Done != 4 {
		t.Errorf("plan %+v", plan)
	}
	if n := len(d.records(schemas.TopicEvents, 1)); n != 1 {
		t.Errorf("%d events", n)
	}
}

// A run that ends between its notes wrote either all, some or none of its
// records.
func TestRedriveAfterARunThatWasCutShort(t *testing.T) {
	d := newDesk(t)
	d.produce(schemas.TopicEvents, 1, kafka.Record{Key: []byte("bert"), Value: []byte("other")})
	d.file(0, letter(11, nil), letter(12, nil), letter(13, nil))
	plan := d.plan(Filter{}, 0)
	if err := d.queue.note(d.ctx, begun, plan.Letters[:2], 1); err != nil {
		t.Fatal(err)
	}
	d.produce(schemas.TopicEvents, 1, plan.Letters[0].record())

	plan = d.plan(Filter{}, 0)
	if got := positions(plan.Letters); got != "0:1 0:2" || plan.Done != 1 || len(plan.Refused) != 0 {
		t.Fatalf("plan %s, %+v", got, plan)
	}
	d.redrive(plan)
	if got := values(d.records(schemas.TopicEvents, 1)); got != "other,value 11,value 12,value 13" {
		t.Errorf("events %s", got)
	}
	// What was found is noted: it need not be looked for ever after.
	spans, err := d.queue.spans(d.ctx, schemas.TopicDeadLetters)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := d.queue.readNotes(d.ctx, spans, d.queue.memory())
	if err != nil {
		t.Fatal(err)
	}
	if len(notes.done) != 3 || len(notes.begun) != 0 {
		t.Errorf("notes %+v", notes)
	}
}

// Of a letter that is redriven by name once more, too, a run that was cut short
// is found.
func TestRedriveByNameAfterARunThatWasCutShort(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil))
	d.redrive(d.plan(Filter{}, 0))
	byName := func() *Plan {
		t.Helper()
		plan, err := d.queue.PlanFor(d.ctx, []Position{{0, 0}})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	plan := byName()
	if err := d.queue.note(d.ctx, begun, plan.Letters, 1); err != nil {
		t.Fatal(err)
	}
	d.produce(schemas.TopicEvents, 1, plan.Letters[0].record())
	if plan = byName(); len(plan.Letters) != 0 || plan.Done != 1 {
		t.Fatalf("plan %+v", plan)
	}
	d.redrive(plan)
	if plan = byName(); len(plan.Letters) != 1 || plan.Done != 0 {
		t.Errorf("plan %+v", plan)
	}
}

// After an open transaction nothing can be read, but it may be there.
func TestRedriveAfterARunThatAnOpenTransactionHides(t *testing.T) {
	d := newDesk(t)
	upstream, err := kgo.NewClient(kgo.SeedBrokers(d.broker), kgo.TransactionalID("upstream"),
		kgo.DefaultProduceTopic(schemas.TopicEvents), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer upstream.Close()
	if err := upstream.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	if err := upstream.ProduceSync(d.ctx, &kgo.Record{Partition: 1, Value: []byte("other")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	cut := Letter{Position: Position{0, 0}, DeadLetter: letter(11, nil)}
	d.file(0, cut.DeadLetter)
	if err := d.queue.note(d.ctx, begun, []Letter{cut}, 0); err != nil {
		t.Fatal(err)
	}
	d.produce(schemas.TopicEvents, 1, cut.record())
	open := true
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, Progress: func(what string, _, _ int64) {
		if open && what == "what was redriven" {
			open = false
			if err := upstream.EndTransaction(d.ctx, kgo.TryCommit); err != nil {
				t.Error(err)
			}
		}
	}})
	if plan := d.plan(Filter{}, 0); plan.Done != 1 || len(plan.Letters) != 0 || open {
		t.Errorf("plan %+v, transaction open: %t", plan, open)
	}
}

// When the topic can no longer show what a run did, only a person may decide.
func TestRedriveWhenTheTraceIsGone(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil))
	plan := d.plan(Filter{}, 0)
	if err := d.queue.note(d.ctx, begun, plan.Letters, 1000); err != nil { // the topic was made anew since
		t.Fatal(err)
	}
	plan = d.plan(Filter{}, 0)
	if len(plan.Letters) != 0 || shown(plan.Refused) != RefusedUnsure+": 1 [0:0]" {
		t.Errorf("plan %s, refused %s", positions(plan.Letters), shown(plan.Refused))
	}
	plan, err := d.queue.PlanFor(d.ctx, []Position{{0, 0}})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Letters) != 1 {
		t.Errorf("plan by position %+v", plan)
	}
}

func TestRefusals(t *testing.T) {
	d := newDesk(t)
	d.file(0,
		letter(0, func(l *schemas.DeadLetter) { l.Topic = schemas.TopicScores }),
		letter(1, func(l *schemas.DeadLetter) { l.Topic = schemas.TopicModels }),
		letter(2, func(l *schemas.DeadLetter) { l.Topic = "payments" }),
		letter(3, func(l *schemas.DeadLetter) { l.Topic = schemas.TopicDeadLetters }),
		letter(4, func(l *schemas.DeadLetter) { l.Value = nil }),
		letter(5, func(l *schemas.DeadLetter) { l.Partition = partitions }),
		letter(6, func(l *schemas.DeadLetter) { l.Partition = -1 }),
		letter(7, nil))
	refused := Refusals{}
	for i, why := range []string{RefusedScores, RefusedModels, RefusedForeign, RefusedForeign, RefusedEmpty, RefusedPartition, RefusedPartition} {
		refused.add(why, Position{0, int64(i)})
	}
	check := func(plan *Plan) {
		t.Helper()
		if positions(plan.Letters) != "0:7" || shown(plan.Refused) != shown(refused) {
			t.Errorf("plan %s, refused %s", positions(plan.Letters), shown(plan.Refused))
		}
	}
	check(d.plan(Filter{}, 0))
	check(d.plan(Filter{}, 1))
	var all []Position
	for i := range int64(8) {
		all = append(all, Position{0, i})
	}
	plan, err := d.queue.PlanFor(d.ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	check(plan)
}

// Letters that are not redriven do not count to the limit, else no run would
// ever come past them.
func TestRedriveComesPastWhatIsRefused(t *testing.T) {
	d := newDesk(t)
	old := func(change func(*schemas.DeadLetter)) func(*schemas.DeadLetter) {
		return func(l *schemas.DeadLetter) { l.FailedAt -= 1000; change(l) }
	}
	d.file(0,
		letter(0, old(func(l *schemas.DeadLetter) { l.Partition = partitions })),
		letter(1, old(func(l *schemas.DeadLetter) { l.Partition = -1 })),
		letter(2, old(func(*schemas.DeadLetter) {})),
		letter(3, old(func(l *schemas.DeadLetter) { l.Key = []byte("bert") })),
		letter(4, nil), letter(5, nil), letter(6, nil))
	unsure := Letter{Position: Position{0, 2}, DeadLetter: letter(2, nil)}
	if err := d.queue.note(d.ctx, begun, []Letter{unsure}, 1000); err != nil {
		t.Fatal(err)
	}
	d.produce(schemas.TopicScores, 0, kafka.Record{Key: []byte("bert")})
	for _, want := range []string{"0:4 0:5", "0:6", ""} {
		plan := d.plan(Filter{}, 2)
		if got := positions(plan.Letters); got != want {
			t.Errorf("letters %s, want %s", got, want)
		}
		refused := Refusals{RefusedPartition: {2, []Position{{0, 0}, {0, 1}}}, RefusedUnsure: {1, []Position{{0, 2}}}, RefusedErased: {1, []Position{{0, 3}}}}
		if shown(plan.Refused) != shown(refused) {
			t.Errorf("refused %s", shown(plan.Refused))
		}
		d.redrive(plan)
	}
}

// In a topic that was made anew, records get the offsets of others, of which
// there are letters and notes.
func TestLettersOfATopicMadeAnew(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil))
	d.redrive(d.plan(Filter{}, 0))
	d.file(0, letter(1, func(l *schemas.DeadLetter) { l.Timestamp += 1000; l.Value = []byte("another") }))
	letters, err := d.queue.Newest(d.ctx, Filter{}, 0)
	if err != nil || len(letters) != 2 || !letters[0].Redriven || letters[1].Redriven {
		t.Errorf("letters %+v, %v", letters, err)
	}
	plan := d.plan(Filter{}, 0)
	if len(plan.Letters) != 1 || string(plan.Letters[0].Value) != "another" || plan.Done != 1 {
		t.Errorf("plan %+v", plan)
	}
	d.redrive(plan)
	if got := values(d.records(schemas.TopicEvents, 1)); got != "value 1,another" {
		t.Errorf("events %s", got)
	}
}

func TestHeadersWithoutValue(t *testing.T) {
	d := newDesk(t)
	r := &kafka.Record{Topic: schemas.TopicEvents, Time: origin, Key: []byte("anna"), Value: []byte("x"), Headers: []kafka.Header{
		{Key: "none"}, {Key: "empty", Value: []byte{}}, {Key: "some", Value: []byte("v")}, {Key: "none"},
	}}
	w := NewWriter(d.cluster.NewProducer(kafka.ProducerConfig{}), d.codec, "tester")
	why := &schemas.PoisonError{Reason: schemas.ReasonUndecodable}
	if err := w.Write(d.ctx, w.Letter(r, why, origin)); err != nil {
		t.Fatal(err)
	}
	d.redrive(d.plan(Filter{}, 0))
	redriven := d.records(schemas.TopicEvents, 0)
	if len(redriven) != 1 || len(redriven[0].Headers) < len(r.Headers) {
		t.Fatalf("events %+v", redriven)
	}
	for i, want := range r.Headers {
		got := redriven[0].Headers[i]
		if got.Key != want.Key || !bytes.Equal(got.Value, want.Value) || (got.Value == nil) != (want.Value == nil) {
			t.Errorf("header %d is %+v, want %+v", i, got, want)
		}
	}
	for _, nulls := range []string{"", ",", "-1", "4", "x,0"} { // nonsense does no harm
		restoreNulls(&schemas.DeadLetter{Headers: make([]schemas.Header, 4)}, []byte(nulls))
	}
}

func TestWrittenAt(t *testing.T) {
	at := origin.UnixMilli()
	for _, c := range []struct {
		header string // "-" is none
		want   int64
	}{
		{"-", at}, {strconv.FormatInt(at-5, 10), at - 5}, {strconv.FormatInt(at, 10), at}, {"0", 0},
		{strconv.FormatInt(at+1, 10), at}, {"-1", at}, {"", at}, {"soon", at}, {"1e3", at}, {"99999999999999999999", at},
	} {
		r := &kafka.Record{Time: origin, Headers: []kafka.Header{{Key: "other", Value: []byte("7")}}}
		l := Letter{DeadLetter: letter(0, nil)}
		if c.header != "-" {
			r.Headers = append(r.Headers, kafka.Header{Key: HeaderWrittenAt, Value: []byte(c.header)})
			l.Headers = append(l.Headers, schemas.Header{Key: HeaderWrittenAt, Value: []byte(c.header)})
		}
		if got := WrittenAt(r).UnixMilli(); got != c.want {
			t.Errorf("header %q: written at %d, want %d", c.header, got, c.want)
		}
		// A letter of such a record hands on what it says.
		again := l.record()
		if got := string(again.Header(HeaderWrittenAt)); got != strconv.FormatInt(c.want, 10) {
			t.Errorf("header %q: redriven with %s, want %d", c.header, got, c.want)
		}
	}
	none := Letter{DeadLetter: letter(0, func(l *schemas.DeadLetter) { l.Timestamp = -1 })}
	if r := none.record(); r.Header(HeaderWrittenAt) != nil || !r.Time.IsZero() {
		t.Errorf("a letter without a time becomes %+v", r)
	}
}

func TestRedriveByPortions(t *testing.T) {
	d := newDesk(t)
	for i := range 5 {
		d.file(i%2, letter(int64(i), nil))
	}
	for i, want := range []int{2, 2, 1, 0} {
		if r := d.redrive(d.plan(Filter{}, 2)); r.Redriven != want {
			t.Errorf("portion %d: %d redriven, want %d", i, r.Redriven, want)
		}
	}
	if got := values(d.records(schemas.TopicEvents, 1)); got != "value 0,value 1,value 2,value 3,value 4" {
		t.Errorf("events %s", got)
	}
}

func TestWhatFailsAgainCanBeRedrivenAgain(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil))
	d.redrive(d.plan(Filter{}, 0))
	r := d.records(schemas.TopicEvents, 1)[0]
	second := letter(r.Offset, nil)
	second.Headers = nil
	for _, h := range r.Headers {
		second.Headers = append(second.Headers, schemas.Header(h))
	}
	d.file(0, second)
	plan := d.plan(Filter{}, 0)
	if len(plan.Letters) != 1 || plan.Done != 1 {
		t.Fatalf("plan %+v", plan)
	}
	d.redrive(plan)
	all := d.records(schemas.TopicEvents, 1)
	if len(all) != 2 {
		t.Fatalf("%d events", len(all))
	}
	named := 0
	for _, h := range all[1].Headers {
		if h.Key == HeaderRedrivenFrom {
			named++
		}
	}
	if got := string(all[1].Header(HeaderRedrivenFrom)); named != 1 || got != plan.Letters[0].Position.String() {
		t.Errorf("%d headers, the first %s", named, got)
	}
}

func TestRedriveOfManyInBatches(t *testing.T) {
	d := newDesk(t)
	const n = 2*batchLetters + 7
	records := make([]kafka.Record, n)
	for i := range records {
		l := letter(int64(i), nil)
		if i == 3 || i == batchLetters {
			l.Value = bytes.Repeat([]byte("x"), 200_000)
		}
		records[i] = kafka.Record{Key: l.Key, Value: d.codec.AppendDeadLetter(nil, &l)}
	}
	d.produce(schemas.TopicDeadLetters, 0, records...)
	if r := d.redrive(d.plan(Filter{}, 0)); r.Redriven != n {
		t.Fatalf("%+v", r)
	}
	events := d.records(schemas.TopicEvents, 1)
	if len(events) != n {
		t.Fatalf("%d events, want %d", len(events), n)
	}
	for i := range events {
		if got := string(events[i].Header(HeaderRedrivenFrom)); got != fmt.Sprint("0:", i) {
			t.Fatalf("event %d is redriven from %s", i, got)
		}
	}
	if p := d.plan(Filter{}, 0); len(p.Letters) != 0 || p.Done != n {
		t.Errorf("the second plan: %d letters, %d done", len(p.Letters), p.Done)
	}
}

// pickyTopics refuse batches as brokers do, with what refuses says, and take
// the others.
type pickyTopics struct {
	producer
	refuses func(*kafka.Record) error
}

func (p *pickyTopics) ProduceTo(ctx context.Context, topic string, partition int, records []kafka.Record) error {
	for i := range records {
		if err := p.refuses(&records[i]); err != nil {
			return fmt.Errorf("producing to %s/%d: %w", topic, partition, err)
		}
	}
	return p.producer.ProduceTo(ctx, topic, partition, records)
}

// One letter that its topic does not take holds up none of those after it, and
// nothing is left to look for.
func TestRedriveGoesOnAfterWhatATopicRefuses(t *testing.T) {
	for _, c := range []struct {
		why     string
		limit   int // max.message.bytes
		refuses func(*kafka.Record) error
	}{
		{RefusedTooLarge, 50_000, func(*kafka.Record) error { return nil }},
		{RefusedTime, 1 << 20, func(r *kafka.Record) error {
			if len(r.Value) > 50_000 && r.Time.Before(time.Now().Add(-time.Hour)) {
				return kafkago.InvalidTimestamp
			}
			return nil
		}},
		{RefusedRecord, 1 << 20, func(r *kafka.Record) error {
			if len(r.Value) > 50_000 {
				return kafkago.InvalidRecord
			}
			return nil
		}},
	} {
		t.Run(c.why, func(t *testing.T) {
			d := newDeskWith(t, map[string]string{"max.message.bytes": strconv.Itoa(c.limit)})
			d.queue.producer = &pickyTopics{d.queue.producer, c.refuses}
			large := func(l *schemas.DeadLetter) { l.Value = bytes.Repeat([]byte("x"), 60_000) }
			d.file(0, letter(0, nil), letter(1, large), letter(2, nil), letter(3, large), letter(4, nil))
			for run, want := range []int{3, 0} {
				plan := d.plan(Filter{}, 0)
				r := d.redrive(plan)
				if r.Redriven != want || shown(r.Refused) != c.why+": 2 [0:1 0:3]" {
					t.Errorf("run %d: %d redriven, refused %s", run, r.Redriven, shown(r.Refused))
				}
			}
			if got := values(d.records(schemas.TopicEvents, 1)); got != "value 0,value 2,value 4" {
				t.Errorf("events %s", got)
			}
			spans, err := d.queue.spans(d.ctx, schemas.TopicDeadLetters)
			if err != nil {
				t.Fatal(err)
			}
			notes, err := d.queue.readNotes(d.ctx, spans, d.queue.memory())
			if err != nil || len(notes.begun) != 0 || len(notes.done) != 3 {
				t.Errorf("notes %+v, %v", notes, err)
			}
		})
	}
}

func TestFitBatch(t *testing.T) {
	small, large, other := Letter{}, Letter{}, Letter{}
	large.Value = make([]byte, batchBytes)
	other.DeadLetter.Partition = 5
	medium := Letter{}
	medium.Value = make([]byte, batchBytes/4)
	cases := []struct {
		name    string
		letters []Letter
		want    int
	}{
		{"all", []Letter{small, small, small}, 3},
		{"a large one waits", []Letter{small, large, small}, 1},
		{"a large one goes alone", []Letter{large, small}, 1},
		{"another partition waits", []Letter{small, small, other}, 2},
		{"bytes", slices.Repeat([]Letter{medium}, 9), 3},
		{"letters", slices.Repeat([]Letter{small}, batchLetters+1), batchLetters},
	}
	for _, c := range cases {
		if got := fitBatch(c.letters); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestGet(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil), letter(2, nil))
	d.produce(schemas.TopicDeadLetters, 0, kafka.Record{Value: []byte("junk")})
	d.redrive(d.plan(Filter{}, 0)) // its notes are at 0:3 and after

	l, err := d.queue.Get(d.ctx, Position{0, 1})
	if err != nil {
		t.Fatal(err)
	}
	if l.DeadLetter.Offset != 2 || !l.Redriven || l.Position != (Position{0, 1}) || string(l.Value) != "value 2" {
		t.Errorf("letter %+v", l)
	}
	for _, at := range []Position{{0, 3}, {0, 1000}, {1, 0}, {partitions, 0}} {
		if _, err := d.queue.Get(d.ctx, at); !errors.Is(err, ErrNoLetter) {
			t.Errorf("%s: error %v", at, err)
		}
	}
	_, err = d.queue.Get(d.ctx, Position{0, 2})
	if _, poison := schemas.AsPoison(err); !poison || !strings.Contains(err.Error(), "0:2") {
		t.Errorf("junk: error %v", err)
	}
}

func TestJunkAmongTheLetters(t *testing.T) {
	d := newDesk(t)
	var log bytes.Buffer
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	d.produce(schemas.TopicDeadLetters, 0,
		kafka.Record{Value: []byte("junk")},
		kafka.Record{Key: []byte("anna")}, // a tombstone of somebody
		kafka.Record{Key: noteKey},        // notes that are none
		kafka.Record{Key: noteKey, Headers: []kafka.Header{{Key: noteState, Value: []byte(done)}, {Key: noteSource, Value: []byte(":/")}}},
		kafka.Record{Key: noteKey, Headers: []kafka.Header{{Key: noteState, Value: []byte(done)}, {Key: noteSource, Value: []byte("x/y:z")}}})
	d.file(0, letter(1, nil))
	letters, err := d.queue.Newest(d.ctx, Filter{}, 0)
	if err != nil || positions(letters) != "0:5" {
		t.Errorf("letters %s, %v", positions(letters), err)
	}
	if !strings.Contains(log.String(), "topic=churn.dead-letters partition=0 offset=0 reason=bad_frame") {
		t.Errorf("logged %q", log.String())
	}
}

func TestMemoryIsBounded(t *testing.T) {
	d := newDesk(t)
	for i := range 40 {
		d.file(0, letter(int64(i), func(l *schemas.DeadLetter) { l.Value = make([]byte, 1000) }))
	}
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, MaxBytes: 20_000})
	if _, err := d.queue.Newest(d.ctx, Filter{}, 0); err == nil || !strings.Contains(err.Error(), "--limit") {
		t.Errorf("all: error %v", err)
	}
	letters, err := d.queue.Newest(d.ctx, Filter{}, 12)
	if err != nil || len(letters) != 12 || letters[11].Position.Offset != 39 {
		t.Errorf("the newest: %s, %v", positions(letters), err)
	}
	plan, err := d.queue.Plan(d.ctx, Filter{}, 12)
	if err != nil || len(plan.Letters) != 12 || plan.Letters[0].Position.Offset != 0 {
		t.Errorf("the oldest: %+v, %v", plan, err)
	}
	if err := d.queue.note(d.ctx, done, plan.Letters, 0); err != nil {
		t.Fatal(err)
	}
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, MaxBytes: 2000})
	if _, err := d.queue.Newest(d.ctx, Filter{Key: []byte("nobody's")}, 1); err == nil || !strings.Contains(err.Error(), "--max-memory") {
		t.Errorf("the notes: error %v", err)
	}
}

func TestProgressEndsAtTheEnd(t *testing.T) {
	d := newDesk(t)
	d.file(0, letter(1, nil), letter(2, nil))
	d.file(1, letter(3, nil))
	var last [2]int64
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, Progress: func(_ string, done, total int64) {
		if done < last[0] {
			t.Errorf("back from %d to %d", last[0], done)
		}
		last = [2]int64{done, total}
	}})
	if _, err := d.queue.Newest(d.ctx, Filter{}, 0); err != nil {
		t.Fatal(err)
	}
	if last != [2]int64{3, 3} {
		t.Errorf("ended at %d of %d", last[0], last[1])
	}
}

func TestParsePosition(t *testing.T) {
	for _, p := range []Position{{0, 0}, {3, 17}, {1 << 30, 1 << 62}} {
		if got, err := ParsePosition(p.String()); err != nil || got != p {
			t.Errorf("%s: %v, %v", p, got, err)
		}
	}
	for _, text := range []string{"", "3", "3:", ":3", "-1:3", "3:-1", "a:b", "3:1:2", "9999999999:1", "+1:2", " 1:2"} {
		if got, err := ParsePosition(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}

// Whatever stands in the headers of a note, it is read or passed over.
func FuzzNotes(f *testing.F) {
	f.Add(done, "churn.customer-events/1:17@1767323045678", "0:3", "20")
	f.Add(begun, "churn.outcomes/0:0@-1", "1:1", "0")
	f.Add(undone, "churn.outcomes/0:0@5", "1:1", "")
	f.Add(begun, "/-1:-1@x", "", "x")
	f.Add("", ":/@", ":", "")
	f.Fuzz(func(t *testing.T, state, of, letter, end string) {
		n := newNotes(&memory{max: 1 << 20})
		err := n.add(&kafka.Record{Key: noteKey, Headers: []kafka.Header{
			{Key: noteState, Value: []byte(state)}, {Key: noteSource, Value: []byte(of)},
			{Key: noteLetter, Value: []byte(letter)}, {Key: noteEnd, Value: []byte(end)},
		}})
		if err != nil {
			t.Error(err)
		}
		for s := range n.done {
			if state != done || !strings.HasPrefix(of, s.topic+"/") {
				t.Errorf("%q, %q became %+v", state, of, s)
			}
		}
		for s := range n.begun {
			if state != begun || !strings.HasPrefix(of, s.topic+"/") {
				t.Errorf("%q, %q became %+v", state, of, s)
			}
		}
	})
}
