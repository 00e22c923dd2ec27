package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
)

// smallAttributes are those of a company with two of them.
const smallAttributes = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"visits","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

// bench is a broker and a registry with the topics of that company.
type bench struct {
	t        *testing.T
	ctx      context.Context
	brokers  string
	url      string
	schema   string // file
	set      *schemas.Set
	registry *registry.Client
	codec    *schemas.Codec
	cluster  *kafka.Cluster
	out      *kafka.Producer
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
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
	b := &bench{t: t, ctx: ctx, brokers: broker.Addr(), url: reg.URL(), schema: filepath.Join(t.TempDir(), "customers.avsc")}
	if err := os.WriteFile(b.schema, []byte(smallAttributes), 0o600); err != nil {
		t.Fatal(err)
	}
	if b.set, err = schemas.FromFile(b.schema); err != nil {
		t.Fatal(err)
	}
	if b.registry, err = registry.New(registry.Config{URL: b.url}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.registry.Close)
	b.codec = schemas.NewCodec(b.set, b.registry)
	if err := b.codec.Register(ctx); err != nil {
		t.Fatal(err)
	}
	if b.cluster, err = kafka.Connect(kafka.Config{Brokers: []string{b.brokers}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.cluster.Close)
	if err := b.cluster.EnsureTopics(ctx, topics.EmbeddedConfigs(2)...); err != nil {
		t.Fatal(err)
	}
	b.out = b.cluster.NewProducer(kafka.ProducerConfig{})
	return b
}

func (b *bench) produce(topic string, records ...kafka.Record) {
	b.t.Helper()
	if err := b.out.Produce(b.ctx, topic, records...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) args(args ...string) []string {
	return append(args, "--brokers", b.brokers, "--registry", b.url, "--schema", b.schema)
}

// command runs the program in this process and returns what it printed.
func (b *bench) command(args ...string) string {
	b.t.Helper()
	var out, errs bytes.Buffer
	if code := run(b.args(args...), &out, &errs); code != 0 {
		b.t.Fatalf("%v: exit code %d, %s", args, code, errs.String())
	}
	return out.String()
}

// fails is command for what must fail; it returns the error.
func (b *bench) fails(args ...string) string {
	b.t.Helper()
	var out, errs bytes.Buffer
	if code := run(b.args(args...), &out, &errs); code == 0 {
		b.t.Errorf("%v: exit code 0, %s", args, out.String())
	}
	return errs.String()
}

// model returns a usable model version.
func (b *bench) model() *schemas.ModelVersion {
	b.t.Helper()
	payload, err := json.Marshal(scoring.Model{Features: []scoring.ModelFeature{
		{Name: "plan", Kind: "categorical", Levels: []string{"monthly", "yearly"}, LogOdds: []float64{0.8, -0.8}, Frequency: []float64{0.5, 0.5}},
		{Name: "visits", Kind: "numeric", LogOddsPerUnit: -0.1, EmpiricalQuantiles: []float64{0, 5, 10},
			Bins: []scoring.Bin{{Mean: 5, Std: 2, Min: 0, Max: 10, Frequency: 1}}},
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	return &schemas.ModelVersion{
		Version: 1, CreatedAt: 1_700_000_000_000, Stage: schemas.StageChampion, Reason: "test",
		Payload: string(payload), SHA256: hex.EncodeToString(sum[:]), FeatureFingerprint: b.set.Spec().Fingerprint(),
		MediumThreshold: 0.3, HighThreshold: 0.6,
	}
}

func (b *bench) publishModel() {
	b.t.Helper()
	b.produce(schemas.TopicModels, kafka.Record{Key: []byte("1"), Value: b.codec.AppendModel(nil, b.model())})
}

// event returns an encoded event of a customer.
func (b *bench) event(customer, id string, at time.Time) []byte {
	b.t.Helper()
	e := b.codec.NewEvent()
	e.CustomerID, e.EventID, e.OccurredAt, e.Source = []byte(customer), []byte(id), at.UnixMilli(), []byte("test")
	plan, err := b.set.ParseText(0, "monthly")
	if err != nil {
		b.t.Fatal(err)
	}
	e.Changes[0], e.Changes[1] = plan, 3
	return b.codec.AppendEvent(nil, e)
}

// lines parses what tail and list --json print.
func (b *bench) lines(text string) (all []map[string]any) {
	b.t.Helper()
	for line := range strings.Lines(text) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			b.t.Fatalf("%v in %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

// TestRedriveToTheScorer follows events that a scorer could not read because
// the registry did not know their schema yet, from the dead letters to their
// scores.
func TestRedriveToTheScorer(t *testing.T) {
	b := newBench(t)
	b.publishModel()
	last, err := b.registry.Register(b.ctx, "other-value", `"string"`)
	if err != nil {
		t.Fatal(err)
	}
	newID := last + 1 // which the registry will give the next schema
	old := time.Now().Add(-2 * time.Hour).UTC().Truncate(time.Millisecond)
	early := b.event("anna", "early", old)
	binary.BigEndian.PutUint32(early[1:], uint32(newID))
	broken := b.event("bert", "broken", old)
	broken = broken[:len(broken)-3]
	b.produce(schemas.TopicEvents,
		kafka.Record{Key: []byte("anna"), Value: early, Time: old, Headers: []kafka.Header{{Key: "trace", Value: []byte("t-1")}}},
		kafka.Record{Key: []byte("bert"), Value: broken, Time: old},
		kafka.Record{Key: []byte("carl"), Value: b.event("carl", "good", old), Time: old})

	score := launch(t, b.args("score", "--http", "127.0.0.1:0")...)
	processed := func(result string, n float64) {
		t.Helper()
		url := score.url()
		until(t, fmt.Sprint(n, " events ", result), func() bool {
			return metric(get(t, url+"/metrics"), `churn_scorer_events_total{result="`+result+`"}`) == n
		})
	}
	processed("scored", 1)
	var letters []map[string]any
	until(t, "two dead letters", func() bool {
		letters = b.lines(b.command("dead-letters", "list", "--json"))
		return len(letters) == 2
	})
	positions := map[string]string{}
	for _, l := range letters {
		positions[l["key"].(string)] = l["position"].(string)
		if l["topic"] != schemas.TopicEvents || l["failed_by"] != "scorer" || l["redriven"] != false || l["timestamp"] != old.Format(time.RFC3339Nano) {
			t.Errorf("letter %v", l)
		}
	}

	table := b.command("dead-letters", "list", "--reason", "unknown_schema")
	if strings.Count(table, "\n") != 2 || !strings.Contains(table, "anna") || !regexp.MustCompile(positions["anna"]+` .*unknown_schema +churn.customer-events/\d:\d+ +anna +no `).MatchString(table) {
		t.Errorf("the table:\n%s", table)
	}
	shown := b.command("dead-letters", "show", positions["bert"])
	for _, want := range []string{"undecodable", "schema     1 churnstream.CustomerEvent", "00000000  00 00 00 00 01",
		"not decodable", "as far as it goes", `"event_id": "broken"`, `"plan": "monthly"`} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in:\n%s", want, shown)
		}
	}
	shown = b.command("dead-letters", "show", positions["anna"])
	for _, want := range []string{strconv.Itoa(newID) + ": ", "schema not found", "header     trace: t-1", "redriven   no"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in:\n%s", want, shown)
		}
	}

	// The schema comes: another than ours, hence with an id of its own.
	if code, _ := score.interrupt(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	evolved := strings.Replace(b.set.Schema(schemas.TopicEvents), `"fields":[`,
		`"doc":"with a doc of its own","fields":[`, 1)
	if evolved == b.set.Schema(schemas.TopicEvents) {
		t.Fatal("the schema has another form than this test takes it to have")
	}
	id, err := b.registry.Register(b.ctx, "upstream-value", evolved)
	if err != nil || id != newID {
		t.Fatalf("id %d, %v", id, err)
	}
	if shown = b.command("dead-letters", "show", "--json", positions["anna"]); !strings.Contains(shown, `"visits": 3`) {
		t.Errorf("decoded now:\n%s", shown)
	}

	t.Setenv("CHURN_YES", "true") // does not count
	dry := b.command("dead-letters", "redrive", "--reason", "unknown_schema")
	if !strings.Contains(dry, "would be redriven: 1\n") || !strings.Contains(dry, "--yes") || !strings.Contains(dry, positions["anna"]) {
		t.Errorf("dry run:\n%s", dry)
	}
	if n := len(b.lines(b.command("tail", schemas.TopicEvents, "--from-start"))); n != 3 {
		t.Fatalf("the dry run wrote %d events", n-3)
	}
	for i, want := range []string{"redriven: 1\n", "redriven: 0\nredriven before: 1\n"} {
		if got := b.command("dead-letters", "redrive", "--reason", "unknown_schema", "--yes"); got != want {
			t.Errorf("redrive %d: %q, want %q", i, got, want)
		}
	}
	if got := b.command("dead-letters", "redrive", positions["anna"]); !strings.Contains(got, "would be redriven: 1\n") ||
		!regexp.MustCompile(`anna +yes +unknown_schema`).MatchString(got) {
		t.Errorf("naming a letter that was redriven:\n%s", got)
	}
	events := b.lines(b.command("tail", schemas.TopicEvents, "--from-start", "--key", "anna"))
	if len(events) != 2 {
		t.Fatalf("events %v", events)
	}
	headers := fmt.Sprint(events[1]["headers"])
	if events[1]["timestamp"] != old.Format(time.RFC3339Nano) || events[1]["partition"] != events[0]["partition"] || events[1]["schema_id"] != float64(newID) ||
		headers != fmt.Sprintf("[map[key:trace value:t-1] map[key:%s value:%s] map[key:%s value:%d]]",
			deadletters.HeaderRedrivenFrom, positions["anna"], deadletters.HeaderWrittenAt, old.UnixMilli()) {
		t.Errorf("the redriven event %v", events[1])
	}

	score = launch(t, b.args("score", "--http", "127.0.0.1:0")...)
	processed("scored", 1)
	scores := b.lines(b.command("tail", schemas.TopicScores, "--from-start", "--key", "anna"))
	if len(scores) != 1 {
		t.Fatalf("scores %v", scores)
	}
	value := scores[0]["value"].(map[string]any)
	if value["event_id"] != "early" || value["occurred_at"] != old.Format(time.RFC3339Nano) {
		t.Errorf("score %v", value)
	}
	if got := b.command("dead-letters", "list", "--reason", "unknown_schema"); !regexp.MustCompile(`anna +yes`).MatchString(got) {
		t.Errorf("listed after the redrive:\n%s", got)
	}
	// What cannot be mended fails again, as a letter of its own.
	if got := b.command("dead-letters", "redrive", "--yes"); got != "redriven: 1\nredriven before: 1\n" {
		t.Errorf("redriving the rest: %q", got)
	}
	until(t, "the third letter", func() bool {
		letters = b.lines(b.command("dead-letters", "list", "--json", "--key", "bert"))
		return len(letters) == 2
	})
	if letters[0]["redriven"] != true || letters[1]["redriven"] != false {
		t.Errorf("letters of bert %v", letters)
	}
}

func TestDeadLettersOfHostileBytes(t *testing.T) {
	b := newBench(t)
	escape := "\x1b]0;owned\x07\u009b2J"
	letter := schemas.DeadLetter{
		Reason: "bad_frame", Detail: escape, Topic: escape, Partition: -3, Offset: -1, Timestamp: -1 << 62,
		Key: []byte("\xff" + escape), Value: append([]byte("\x07junk"), escape...), FailedAt: 1 << 62, FailedBy: escape,
		Headers: []schemas.Header{{Key: escape, Value: []byte("\xfe" + escape)}},
	}
	b.produce(schemas.TopicDeadLetters, kafka.Record{Key: letter.Key, Value: b.codec.AppendDeadLetter(nil, &letter)})
	list := b.lines(b.command("dead-letters", "list", "--json"))
	if len(list) != 1 {
		t.Fatalf("letters %v", list)
	}
	position := list[0]["position"].(string)
	for _, args := range [][]string{
		{"list"}, {"list", "--json"}, {"show", position}, {"show", "--json", position}, {"redrive"}, {"redrive", position, "--yes"},
	} {
		out := b.command(append([]string{"dead-letters"}, args...)...)
		checkPrintable(t, fmt.Sprint(args), out)
	}
	checkPrintable(t, "tail", b.command("tail", schemas.TopicDeadLetters))
	if got := b.command("dead-letters", "show", position); !strings.Contains(got, "none: the value is not framed") || !strings.Contains(got, "07 6a 75 6e 6b") {
		t.Errorf("shown:\n%s", got)
	}
}

// checkPrintable fails for what could steer a terminal.
func checkPrintable(t *testing.T, what, out string) {
	t.Helper()
	for i, r := range out {
		if r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 {
			t.Errorf("%s prints %#x after %q", what, r, out[max(0, i-30):i])
			return
		}
	}
}

// TestRedriveSaysWhatIsLeftOut has letters of a customer who was erased.
func TestRedriveSaysWhatIsLeftOut(t *testing.T) {
	b := newBench(t)
	for i := range 12 {
		letter := schemas.DeadLetter{
			Reason: "bad_frame", Topic: schemas.TopicEvents, Offset: int64(i), Timestamp: 1000, FailedAt: 2000 + int64(i),
			Key: []byte("anna"), Value: []byte("x"), FailedBy: "scorer",
		}
		b.produce(schemas.TopicDeadLetters, kafka.Record{Key: letter.Key, Value: b.codec.AppendDeadLetter(nil, &letter)})
	}
	b.produce(schemas.TopicOutcomes, kafka.Record{Key: []byte("anna")})
	p := kafka.PartitionOf([]byte("anna"), 2)
	want := fmt.Sprintf("redriven: 0\nnot redriven: 12, %s (%[2]d:0 %[2]d:1 %[2]d:2 %[2]d:3 %[2]d:4 %[2]d:5 %[2]d:6 %[2]d:7 %[2]d:8 %[2]d:9 …)\n",
		deadletters.RefusedErased, p)
	if got := b.command("dead-letters", "redrive"); got != "would be "+want {
		t.Errorf("would be done: %q, want %q", got, "would be "+want)
	}
	if got := b.command("dead-letters", "redrive", "--yes"); got != want {
		t.Errorf("done: %q, want %q", got, want)
	}
	if got := b.command("dead-letters", "redrive", fmt.Sprint(p, ":0"), "--yes"); got != "redriven: 1\n" {
		t.Errorf("done by name: %q", got)
	}
}

func TestDeadLettersUsage(t *testing.T) {
	b := newBench(t)
	cases := []struct {
		args []string
		want string
	}{
		{[]string{"show", "17"}, "PARTITION:OFFSET"},
		{[]string{"show", "0:17"}, "no dead letter there"},
		{[]string{"redrive", "0:1", "--reason", "bad_frame"}, "not both"},
		{[]string{"redrive", "0:17", "--yes"}, "no dead letter there"},
		{[]string{"redrive", "seven"}, "PARTITION:OFFSET"},
		{[]string{"list", "--since", "yesterday"}, "how long ago"},
		{[]string{"list", "--limit=-1"}, "negative"},
		{[]string{"redrive", "--limit=-1"}, "negative"},
		{[]string{"list", "--timeout=1ns"}, "not done within --timeout 1ns"},
		{[]string{"show", "0:17", "--timeout=1ns"}, "not done within --timeout 1ns"},
		{[]string{"redrive", "--timeout=1ns", "--yes"}, "not done within --timeout 1ns"},
		{[]string{"redrive", "--timeout=-1s"}, "negative"},
	}
	for _, c := range cases {
		if got := b.fails(append([]string{"dead-letters"}, c.args...)...); !strings.Contains(got, c.want) {
			t.Errorf("%v: %q, want %q in it", c.args, got, c.want)
		}
	}
	if got := b.command("dead-letters", "redrive", "--yes", "--timeout=1h"); got != "redriven: 0\n" {
		t.Errorf("with no letters: %q", got)
	}
	letter := schemas.DeadLetter{Topic: schemas.TopicEvents, Value: make([]byte, 2000)}
	b.produce(schemas.TopicDeadLetters, kafka.Record{Value: b.codec.AppendDeadLetter(nil, &letter)})
	for _, name := range []string{"list", "redrive"} {
		if got := b.fails("dead-letters", name, "--max-memory=2KB"); !strings.Contains(got, "--max-memory") {
			t.Errorf("%s in little memory: %q", name, got)
		}
		b.command("dead-letters", name, "--max-memory=10KB")
	}
	for _, name := range []string{"list", "show", "redrive"} {
		var out, errs bytes.Buffer
		if code := run([]string{"dead-letters", name, "--help"}, &out, &errs); code != 0 ||
			!strings.Contains(out.String(), "churnstream dead-letters "+name) || !strings.Contains(out.String(), "Example") {
			t.Errorf("dead-letters %s --help: %d\n%s", name, code, out.String())
		}
	}
}

func TestMoment(t *testing.T) {
	now := time.Now()
	cases := []struct {
		text string
		want time.Time
	}{
		{"2026-01-31T15:04:05Z", time.Date(2026, 1, 31, 15, 4, 5, 0, time.UTC)},
		{"2026-01-31T15:04:05.5+02:00", time.Date(2026, 1, 31, 13, 4, 5, 5e8, time.UTC)},
		{"90m", now.Add(-90 * time.Minute)},
		{"7d", now.Add(-7 * 24 * time.Hour)},
		{"1d12h", now.Add(-36 * time.Hour)},
		{"0s", now},
	}
	for _, c := range cases {
		var m moment
		if err := m.UnmarshalText([]byte(c.text)); err != nil {
			t.Errorf("%s: %v", c.text, err)
		} else if d := time.Time(m).Sub(c.want).Abs(); d > 10*time.Second {
			t.Errorf("%s is %v", c.text, time.Time(m))
		}
	}
	for _, text := range []string{"", "-1h", "yesterday", "d", "1d-12h", "99999999d", "2026-01-31", "3"} {
		var m moment
		if err := m.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is taken as %v", text, time.Time(m))
		}
	}
}
