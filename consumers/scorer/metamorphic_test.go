package scorer

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/consumers/scorer/engine"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// One history is played under many arrangements: partitions, sizes of batches,
// crashes, clean restarts, states kept in memory and on disk. What is written
// about each customer must be the same under all of them. A history that
// fails is made as small as it can be and printed as text, which belongs in
// testdata/histories then: all of them are played again.

var (
	metamorphicSeeds = flag.Int("metamorphic", 300, "how many random histories to play without a broker")
	brokerSeeds      = flag.Int("metamorphic-broker", 6, "how many random histories to play over a broker")
	metamorphicFrom  = flag.Uint64("metamorphic-from", 0, "the seed of the first of them")
)

// op is one thing that happens in a history.
type op struct {
	kind     string // event, erase, poison, model, tick
	customer string // of event, erase and poison
	id       string // of an event
	at       int64  // of an event and a tick, in milliseconds after start
	set, add []string
	version  int64 // of a model
}

// String writes an op as parseHistory reads it: its kind and customer, and
// settings by name. An event sets plan=a and adds months+3.5.
func (o op) String() string {
	switch o.kind {
	case "model":
		return fmt.Sprint("model ", o.version)
	case "tick":
		return fmt.Sprint("tick ", o.at)
	case "event":
		return strings.Join(append(append([]string{"event", o.customer, o.id, fmt.Sprint(o.at)}, o.set...), o.add...), " ")
	}
	return o.kind + " " + o.customer
}

func formatHistory(ops []op) string {
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

func parseHistory(text string) (ops []op, err error) {
	for n, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if len(f) == 0 || f[0] == "#" {
			continue
		}
		bad := fmt.Errorf("line %d: %q", n+1, line)
		if len(f) < 2 {
			return nil, bad
		}
		o := op{kind: f[0]}
		switch o.kind {
		case "event":
			if len(f) < 4 {
				return nil, bad
			}
			o.customer, o.id = f[1], f[2]
			o.at, err = strconv.ParseInt(f[3], 10, 64)
			for _, change := range f[4:] {
				if strings.Contains(change, "=") {
					o.set = append(o.set, change)
				} else {
					o.add = append(o.add, change)
				}
			}
		case "erase", "poison":
			o.customer = f[1]
		case "model":
			o.version, err = strconv.ParseInt(f[1], 10, 64)
		case "tick":
			o.at, err = strconv.ParseInt(f[1], 10, 64)
		default:
			err = bad
		}
		if err != nil {
			return nil, bad
		}
		ops = append(ops, o)
	}
	return ops, nil
}

// randomHistory makes what happens on a bad day: late events, duplicates,
// erasures, poison, new models and ticks.
func randomHistory(rng *rand.Rand) []op {
	spec := everyTypeSpec
	var ops []op
	version, tick := int64(1), int64(0)
	ids := 1 + rng.IntN(5)
	for i := range 5 + rng.IntN(60) {
		id := fmt.Sprint("c", rng.IntN(ids))
		o := op{kind: "event", customer: id, id: fmt.Sprint("e", i), at: int64(i) * 1000}
		switch rng.IntN(24) {
		case 0:
			ops = append(ops, op{kind: "erase", customer: id})
			continue
		case 1:
			ops = append(ops, op{kind: "poison", customer: id})
			continue
		case 2:
			version++
			ops = append(ops, op{kind: "model", version: version})
			continue
		case 3:
			tick = max(tick, int64(i)*1000-rng.Int64N(5000)) + rng.Int64N(3)*tickEvery
			ops = append(ops, op{kind: "tick", at: tick})
			continue
		case 4, 5:
			if len(ops) > 0 {
				ops = append(ops, ops[max(0, len(ops)-1-rng.IntN(8))])
				continue
			}
		case 6:
			o.id = fmt.Sprintf("%08x-0000-4000-8000-%012x", rng.Uint32(), i) // packed otherwise
		}
		if rng.IntN(4) == 0 {
			o.at -= rng.Int64N(20_000)
		}
		all := rng.IntN(5) == 0
		for f := range spec.Len() {
			name := spec.Feature(f).Name
			if spec.Feature(f).Kind == scoring.Categorical {
				if all || rng.IntN(4) == 0 {
					o.set = append(o.set, name+"="+string(rune('a'+rng.IntN(3))))
				}
				continue
			}
			if all || rng.IntN(6) == 0 {
				o.set = append(o.set, fmt.Sprintf("%s=%.3f", name, rng.Float64()*100))
			}
			if rng.IntN(3) == 0 {
				o.add = append(o.add, fmt.Sprintf("%s+%.3f", name, rng.NormFloat64()*10))
			}
		}
		ops = append(ops, o)
	}
	return ops
}

var everyTypeSpec = func() *scoring.Spec {
	set, err := schemas.Parse([]byte(everyType))
	if err != nil {
		panic(err)
	}
	return set.Spec()
}()

// arrangement is how a history is played.
type arrangement struct {
	partitions int
	batch      int  // records
	keep       bool // states in memory, where a worker stops cleanly
	snapshots  bool // states on disk
	// stops is how often a worker stops, per hundred batches; of these every
	// second crashes.
	stops int
	seed  uint64 // of the stops
}

func (a arrangement) String() string { return fmt.Sprintf("%+v", struct{ arrangement }{a}) }

func randomArrangement(rng *rand.Rand) arrangement {
	return arrangement{
		partitions: 1 + rng.IntN(3), batch: 1 + rng.IntN(10), keep: rng.IntN(2) == 0, snapshots: rng.IntN(2) == 0,
		stops: rng.IntN(3) * 40, seed: rng.Uint64(),
	}
}

// undisturbedly is the arrangement that all others are compared with.
var undisturbedly = arrangement{partitions: 1, batch: 1}

// theatre plays histories without a broker.
type theatre struct {
	// processes number levels otherwise, as different processes do.
	processes [2]*Scorer
	versions  [2]map[int64]*models.Version
	codec     *schemas.Codec
	stage     *stage // that is played
	score     schemas.ChurnScore
	// spoil, if set, breaks what a restart finds, to see that it is noticed.
	spoil func(*state)
}

func newTheatre(t testing.TB) *theatre {
	t.Helper()
	th := &theatre{}
	registry := registrytest.New()
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range th.processes {
		set, err := schemas.Parse([]byte(everyType))
		if err != nil {
			t.Fatal(err)
		}
		for n := range 3 * i {
			if _, err := set.Vocabulary().CodeString(0, fmt.Sprint("only here ", n)); err != nil {
				t.Fatal(err)
			}
		}
		codec := schemas.NewCodec(set, registry)
		if err := codec.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		m := newFixedModels()
		s, err := New(Config{
			Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: m, Logger: quiet()},
			Reasons:      1, RescoreOnActivate: true, RescoreRate: 1 << 40, MarkerInterval: time.Hour,
		})
		if err != nil {
			t.Fatal(err)
		}
		s.producer, s.letters = deadLetters{th}, deadletters.NewWriter(deadLetters{th}, codec, "scorer")
		th.processes[i], th.versions[i] = s, map[int64]*models.Version{}
	}
	th.codec = th.processes[0].cfg.Codec
	return th
}

// model returns a version as a process has it.
func (th *theatre) model(t testing.TB, process int, version int64) *models.Version {
	v := th.versions[process][version]
	if v == nil {
		v = specModel(t, th.processes[process].cfg.Codec.Set(), version)
		th.versions[process][version] = v
	}
	return v
}

// canonical is a score on the wire, the same for the same score: the source
// position is that of the op, and the time is left out. "" is a tombstone.
type canonical string

func (th *theatre) canonical(c *schemas.ChurnScore, codec *schemas.Codec, op int) canonical {
	c.SourcePartition, c.SourceOffset, c.ScoredAt = 0, int64(op), 0
	return canonical(codec.AppendScore(nil, c))
}

// show returns a score as somebody can read it.
func (th *theatre) show(t testing.TB, c canonical) string {
	if c == "" {
		return "a tombstone"
	}
	s := score(t, th.codec, kafka.Record{Value: []byte(c)})
	text := ""
	for f, x := range s.Attributes {
		text += "|" + th.codec.Set().Text(f, x, s.Levels)
	}
	return fmt.Sprintf("%s of op %d: %s occurred at %d, as of %d, attributes %s ages %v, recent events %v, probability %v under version %d after %v, all of it: %+v",
		s.Trigger, s.SourceOffset, s.EventID, s.OccurredAt-start, s.AsOf-start, text, s.AttributeAges, s.RecentEvents, s.Probability, s.ModelVersion, s.Previous, *s)
}

// outcome is what a history leads to.
type outcome struct {
	scores  map[string][]canonical // in order, by customer
	final   map[string]canonical   // what is known in the end
	letters map[int]bool           // ops that became dead letters
	trouble string
}

// diff returns what is not as it should be, "" if all is.
func (th *theatre) diff(t testing.TB, got, want *outcome) string {
	if got.trouble != "" {
		return got.trouble
	}
	for id := range want.scores {
		g, w := got.scores[id], want.scores[id]
		for i := range min(len(g), len(w)) {
			if g[i] != w[i] {
				return fmt.Sprintf("record %d of %s is %s\nwant %s", i, id, th.show(t, g[i]), th.show(t, w[i]))
			}
		}
		if len(g) != len(w) {
			return fmt.Sprintf("%d records of %s, want %d", len(g), id, len(w))
		}
	}
	if len(got.scores) != len(want.scores) {
		return fmt.Sprintf("records of %d customers, want %d", len(got.scores), len(want.scores))
	}
	for id := range want.final {
		if g, w := got.final[id], want.final[id]; g != w {
			return fmt.Sprintf("in the end %s is %s\nwant %s", id, th.show(t, g), th.show(t, w))
		}
	}
	if len(got.final) != len(want.final) {
		return fmt.Sprintf("%d customers are known in the end, want %d", len(got.final), len(want.final))
	}
	if !maps.Equal(got.letters, want.letters) {
		return fmt.Sprintf("dead letters of ops %v, want %v", got.letters, want.letters)
	}
	return ""
}

// deadLetters takes what is not fenced, and has the dead letters read.
type deadLetters struct{ th *theatre }

func (deadLetters) ProduceEverywhere(context.Context, string, kafka.Record) error { return nil }

func (deadLetters) ProduceTo(context.Context, string, int, []kafka.Record) error { return nil }

func (d deadLetters) Produce(ctx context.Context, topic string, records ...kafka.Record) error {
	for i := range records {
		if topic != schemas.TopicDeadLetters {
			break
		}
		var letter schemas.DeadLetter
		if err := d.th.codec.DecodeDeadLetter(ctx, records[i].Value, &letter); err != nil {
			return err
		}
		d.th.stage.letters[d.th.stage.opOf[letter.Offset]] = true
	}
	return nil
}

var errCrash = errors.New("the process crashed")

// stage is one partition of a history that is played.
type stage struct {
	t   testing.TB
	th  *theatre
	a   arrangement
	rng *rand.Rand

	ops       []op
	partition int
	source    []kafka.Record // the records of the partition
	opOf      []int          // by source offset
	log       []kafka.Record // of scores
	snapshot  []byte
	letters   map[int]bool

	process int
	w       *worker
	kept    *state // by the process
	budget  int    // of records that may be written before a crash; −1 for any
	version int64
	trouble string // that must not be
}

// play plays a history.
func (th *theatre) play(t testing.TB, ops []op, a arrangement) *outcome {
	t.Helper()
	out := &outcome{scores: map[string][]canonical{}, letters: map[int]bool{}, final: map[string]canonical{}}
	for p := range a.partitions {
		s := &stage{t: t, th: th, a: a, rng: rand.New(rand.NewPCG(a.seed, uint64(p))), ops: ops, partition: p, letters: out.letters, budget: -1, version: 1}
		th.stage = s
		s.play(out)
	}
	return out
}

func (s *stage) play(out *outcome) {
	// next[i] is the source offset from which op i on is still to be done.
	next := make([]int, len(s.ops)+1)
	for i, o := range s.ops {
		next[i] = len(s.source)
		if o.customer != "" && kafka.PartitionOf([]byte(o.customer), s.a.partitions) == s.partition {
			s.source = append(s.source, s.record(o, int64(len(s.source))))
			s.opOf = append(s.opOf, i)
		}
	}
	next[len(s.ops)] = len(s.source)
	s.start()
	// Between models and ticks, which all partitions see in the same place,
	// records are played in batches.
	for i := 0; i < len(s.ops); {
		if o := s.ops[i]; o.customer == "" {
			s.global(o)
			i++
			continue
		}
		end := i
		for end < len(s.ops) && s.ops[end].customer != "" {
			end++
		}
		s.records(next[end])
		i = end
	}
	s.restart(false)
	// What was written must be the whole of what is known, however it is read.
	s.collect(out)
}

// record makes the record of an op.
func (s *stage) record(o op, offset int64) kafka.Record {
	r := kafka.Record{Topic: schemas.TopicEvents, Partition: s.partition, Offset: offset, Key: []byte(o.customer), Time: time.UnixMilli(start)}
	switch o.kind {
	case "poison":
		r.Value = []byte{0, 1, 2}
	case "event":
		codec := s.th.codec
		e := codec.NewEvent()
		e.CustomerID, e.EventID, e.OccurredAt, e.Source = r.Key, []byte(o.id), start+o.at, []byte("test")
		for _, c := range o.set {
			name, value, _ := strings.Cut(c, "=")
			f, _ := everyTypeSpec.Index(name)
			if everyTypeSpec.Feature(f).Kind == scoring.Categorical {
				e.Changes[f], _ = codec.Set().Vocabulary().CodeString(f, value)
			} else {
				e.Changes[f], _ = strconv.ParseFloat(value, 64)
			}
		}
		for _, c := range o.add {
			name, value, _ := strings.Cut(c, "+")
			f, _ := everyTypeSpec.Index(name)
			e.Increments[f], _ = strconv.ParseFloat(value, 64)
		}
		r.Value = codec.AppendEvent(nil, e)
	}
	return r
}

// start begins a worker on what the one before has left.
func (s *stage) start() {
	scorer := s.th.processes[s.process]
	w := newWorker(scorer, claim{partition: s.partition, committed: -1, commit: func(int64, string) error { return nil }})
	w.append = s.append
	r := newRestorer(w.site, topicIDs{})
	switch {
	case s.kept != nil:
		r.state = s.kept
		s.kept = nil
	case s.snapshot != nil:
		in, err := customers.OpenSnapshot(bytes.NewReader(s.snapshot))
		if err != nil {
			s.t.Fatal(err)
		}
		h := in.Header()
		r.state = &state{watermark: h.Watermark, complete: h.Watermark, reflected: h.Reflected}
		if r.state.customers, err = in.Table(scorer.cfg.Codec.Set().Vocabulary()); err != nil {
			s.t.Fatal(err)
		}
	default:
		r.state = newState(scorer.cfg.Codec.Set().Vocabulary())
	}
	if s.th.spoil != nil {
		s.th.spoil(r.state)
	}
	r.base = r.state.complete
	for i := int(r.state.reflected); i < len(s.log); i++ {
		if err := r.take(context.Background(), &s.log[i]); err != nil {
			s.t.Fatal(err)
		}
	}
	for id, foreign := range r.superseded {
		s.trouble = fmt.Sprintf("%s is to be repaired though nobody else has written: %s", id, foreign.reason)
	}
	r.state.reflected, r.state.complete = int64(len(s.log)), r.state.watermark
	w.state = r.state
	cfg := w.engineConfig()
	cfg.Passing = ticking
	w.engine = engine.New(cfg, w.state.customers)
	w.state.progress.Next = w.state.watermark + 1
	s.w = w
	w.use(s.th.model(s.t, s.process, s.version))
}

// ticking is a rule by which time changes customers: it rounds what they have
// of double to multiples of how often tickEvery has passed.
func ticking(c *schemas.ChurnScore, at int64) bool {
	const double = 2
	x := float64((at - start) / tickEvery)
	if scoring.IsMissing(c.Attributes[double]) || c.Attributes[double] == x {
		return false
	}
	c.Attributes[double] = x
	return true
}

const tickEvery = 7000

// append appends to the log of scores, as far as the process lives.
func (s *stage) append(_ context.Context, records []kafka.Record) error {
	st := s.w.state
	for i := range records {
		if schemas.IsReservedKey(records[i].Key) {
			continue // a restore without a broker does not look for markers
		}
		if s.budget == 0 {
			return errCrash
		}
		s.budget--
		s.log = append(s.log, copied(records[i]))
	}
	st.reflected, st.complete = int64(len(s.log)), st.watermark
	return nil
}

// restart ends the worker and begins another one, in this process or another.
func (s *stage) restart(crash bool) {
	if !crash && s.a.snapshots {
		s.snapshot = s.encode()
	}
	if !crash && s.a.keep && s.rng.IntN(2) == 0 {
		s.kept = s.w.state
	} else {
		s.process = s.rng.IntN(len(s.th.processes))
	}
	s.budget = -1
	s.start()
}

func (s *stage) encode() []byte {
	st := s.w.state
	e := customers.NewSnapshotEncoder()
	data := e.Start(nil, &customers.SnapshotHeader{
		Fingerprint: everyTypeSpec.Fingerprint(), Topic: schemas.TopicScores, Partition: s.partition,
		Reflected: st.reflected, Watermark: st.watermark,
	})
	var at customers.Cursor
	for done := false; !done; {
		data, done = e.Customers(data, st.customers, &at)
	}
	return e.End(data)
}

// stop draws whether the worker stops before the next step is done: it crashes
// after writing some of it, or stops cleanly before.
func (s *stage) stop() {
	if s.rng.IntN(100) >= s.a.stops {
		return
	}
	if s.rng.IntN(2) == 0 {
		s.restart(false)
	} else {
		s.budget = s.rng.IntN(4)
	}
}

// records plays the records before an offset.
func (s *stage) records(end int) {
	for int(s.w.state.progress.Next) < end {
		s.stop()
		batch := s.source[s.w.state.progress.Next:min(int(s.w.state.progress.Next)+s.a.batch, end)]
		err := s.w.batch(context.Background(), context.Background(), batch)
		if err != nil {
			s.restart(true)
			continue
		}
		s.budget = -1
	}
}

// global plays a new model or a tick; a crash repeats the rest of it.
func (s *stage) global(o op) {
	for {
		s.stop()
		var walk *engine.Walk
		if o.kind == "model" {
			s.version = o.version
			s.w.use(s.th.model(s.t, s.process, s.version))
			walk = s.w.rescoring.walk
		} else {
			walk = s.w.engine.Tick(start + o.at)
		}
		var err error
		for walk != nil && !walk.Done() && err == nil {
			look := 1 + s.rng.IntN(4)
			for c := walk.Next(&look); c != nil; c = walk.Next(&look) {
				s.w.outbox.score(c)
			}
			err = s.w.flush(context.Background())
		}
		if err == nil {
			s.budget = -1
			return
		}
		s.restart(true)
	}
}

// collect adds what was written, and what is known in the end.
func (s *stage) collect(out *outcome) {
	out.trouble += s.trouble
	s.written(out)
	var at customers.Cursor
	table := s.w.state.customers
	for record := table.Next(&at); record != nil; record = table.Next(&at) {
		var x schemas.ChurnScore
		table.Unpack(record, &x)
		out.final[string(x.CustomerID)] = s.th.canonical(&x, s.w.cfg.Codec, s.opOf[x.SourceOffset])
	}
}

// written adds what is in the log of scores.
func (s *stage) written(out *outcome) {
	for i := range s.log {
		r := &s.log[i]
		offset, ok := sourceOffset(r)
		if !ok || sourcePartition(r) != s.partition {
			s.t.Fatalf("record %d has headers %v", i, r.Headers)
		}
		c := canonical("")
		if r.Value != nil {
			x := &s.th.score
			if err := s.th.codec.DecodeScore(context.Background(), r.Value, x); err != nil {
				s.t.Fatal(err)
			}
			if x.SourceOffset != offset || int(x.SourcePartition) != s.partition || !bytes.Equal(x.CustomerID, r.Key) {
				s.t.Fatalf("record %d is %+v, headers %v", i, x, r.Headers)
			}
			c = s.th.canonical(x, s.th.codec, s.opOf[offset])
		}
		out.scores[string(r.Key)] = append(out.scores[string(r.Key)], c)
	}
}

// shrink returns a history as small as it can make it, of which fails still
// says that it fails.
func shrink(ops []op, fails func([]op) bool) []op {
	for n := (len(ops) + 1) / 2; n > 0; {
		smaller := false
		for from := 0; from < len(ops); {
			without := slices.Concat(ops[:from], ops[min(from+n, len(ops)):])
			if fails(without) {
				ops, smaller = without, true
			} else {
				from += n
			}
		}
		if !smaller || n > len(ops) {
			n /= 2
		}
	}
	for i := range ops {
		for again := true; again; {
			again = false
			for _, simpler := range ops[i].simpler() {
				changed := slices.Clone(ops)
				changed[i] = simpler
				if fails(changed) {
					ops, again = changed, true
					break
				}
			}
		}
	}
	return ops
}

// simpler returns ops that do a little less.
func (o op) simpler() (out []op) {
	for i := range o.set {
		c := o
		c.set = slices.Delete(slices.Clone(o.set), i, i+1)
		out = append(out, c)
	}
	for i := range o.add {
		c := o
		c.add = slices.Delete(slices.Clone(o.add), i, i+1)
		out = append(out, c)
	}
	return out
}

// compare plays a history under two arrangements and returns the difference.
func (th *theatre) compare(t testing.TB, ops []op, a arrangement) string {
	return th.diff(t, th.play(t, ops, a), th.play(t, ops, undisturbedly))
}

// report fails the test with the smallest history that it can find.
func (th *theatre) report(t testing.TB, ops []op, a arrangement) {
	t.Helper()
	ops = shrink(ops, func(ops []op) bool { return th.compare(t, ops, a) != "" })
	t.Fatalf("arrangement %s: %s\nadd to testdata/histories:\n# %s\n%s", a, th.compare(t, ops, a), a, formatHistory(ops))
}

// TestMetamorphic plays random histories, each under several arrangements.
func TestMetamorphic(t *testing.T) {
	th := newTheatre(t)
	defer debug.SetGCPercent(debug.SetGCPercent(1000)) // tables are large, and gone soon
	began := time.Now()
	plays := 0
	for seed := *metamorphicFrom; seed < *metamorphicFrom+uint64(*metamorphicSeeds); seed++ {
		rng := rand.New(rand.NewPCG(seed, 14))
		ops := randomHistory(rng)
		want := th.play(t, ops, undisturbedly)
		plays++
		for range 4 {
			a := randomArrangement(rng)
			plays++
			if th.diff(t, th.play(t, ops, a), want) != "" {
				t.Logf("seed %d", seed)
				th.report(t, ops, a)
			}
		}
	}
	t.Logf("%.0f histories per second", float64(plays)/time.Since(began).Seconds())
}

// perform plays a history, without its ticks, over a broker.
func (th *theatre) perform(t *testing.T, ops []op, a arrangement) *outcome {
	w := newWorldOf(t, everyType, a.partitions)
	rng := rand.New(rand.NewPCG(a.seed, 16))
	version := int64(1)
	process := func() *Scorer {
		s := w.process(func(cfg *Config) {
			cfg.Reasons, cfg.RescoreOnActivate, cfg.RescoreRate = 1, true, 1<<40
			historyConfig(rng)(cfg)
			if !a.keep {
				cfg.KeepLost = -1
			}
			if !a.snapshots {
				cfg.StateDir = ""
			}
		})
		s.cfg.Models.(*fixedModels).set(specModel(t, s.cfg.Codec.Set(), version))
		return s
	}
	stages := make([]*stage, a.partitions)
	ends := make([]int64, a.partitions)
	committed := make([]atomic.Int64, a.partitions)
	processes := make([]*Scorer, a.partitions)
	stops := make([]func(bool), a.partitions)
	begin := func(p int) {
		stops[p] = w.work(processes[p], claim{partition: p, committed: committed[p].Load(), commit: func(offset int64, _ string) error {
			committed[p].Store(offset)
			return nil
		}})
	}
	for p := range stages {
		stages[p] = &stage{t: t, th: th, a: a, partition: p}
		committed[p].Store(-1)
		processes[p] = process()
		begin(p)
	}
	// written counts the records among the scores.
	written := func() (n int) {
		for p := range stages {
			n += len(w.recordsOf(schemas.TopicScores, p))
		}
		return n
	}
	for i, o := range ops {
		switch {
		case o.customer != "":
			p := kafka.PartitionOf([]byte(o.customer), a.partitions)
			r := stages[p].record(o, ends[p])
			if err := w.cluster.NewProducer(kafka.ProducerConfig{}).ProduceTo(t.Context(), schemas.TopicEvents, p, []kafka.Record{r}); err != nil {
				t.Fatal(err)
			}
			stages[p].opOf = append(stages[p].opOf, i)
			ends[p]++
		case o.kind == "model":
			version = o.version
			for p, s := range processes {
				w.until("the events before a model", func() bool { return committed[p].Load() >= ends[p] })
				s.cfg.Models.(*fixedModels).set(specModel(t, s.cfg.Codec.Set(), version))
			}
		}
		if p := rng.IntN(a.partitions); rng.IntN(100) < a.stops {
			crash := rng.IntN(2) == 0
			processes[p].killed.Store(crash)
			stops[p](crash || rng.IntN(3) == 0)
			if crash {
				processes[p] = process()
			}
			begin(p)
		}
		if o.kind == "model" {
			want := 0
			for _, scores := range th.play(t, ops[:i+1], undisturbedly).scores {
				want += len(scores)
			}
			w.until("customers to be scored again", func() bool { return written() >= want })
		}
	}
	out := &outcome{scores: map[string][]canonical{}, letters: map[int]bool{}, final: map[string]canonical{}}
	for p, s := range stages {
		w.until("the last events", func() bool { return committed[p].Load() >= ends[p] })
		stops[p](true)
		s.log = w.recordsOf(schemas.TopicScores, p)
		s.written(out)
	}
	return out
}

// TestMetamorphicOnABroker plays a few random histories over a broker.
func TestMetamorphicOnABroker(t *testing.T) {
	for seed := range uint64(*brokerSeeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			th := newTheatre(t)
			rng := rand.New(rand.NewPCG(seed, 17))
			ops := slices.DeleteFunc(randomHistory(rng), func(o op) bool { return o.kind == "tick" })
			a := randomArrangement(rng)
			got, want := th.perform(t, ops, a), th.play(t, ops, undisturbedly)
			got.final, got.letters = want.final, want.letters // TestHistories compares these
			if d := th.diff(t, got, want); d != "" {
				t.Errorf("arrangement %s: %s\n%s", a, d, formatHistory(ops))
			}
		})
	}
}

// TestFailedHistories plays histories that failed once.
func TestFailedHistories(t *testing.T) {
	th := newTheatre(t)
	files, err := filepath.Glob(filepath.Join("testdata", "histories", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d histories, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			ops, err := parseHistory(string(text))
			if err != nil {
				t.Fatal(err)
			}
			for seed := range uint64(50) {
				a := randomArrangement(rand.New(rand.NewPCG(seed, 15)))
				if th.compare(t, ops, a) != "" {
					th.report(t, ops, a)
				}
			}
		})
	}
}

func TestHistoryText(t *testing.T) {
	for seed := range uint64(50) {
		ops := randomHistory(rand.New(rand.NewPCG(seed, 14)))
		text := formatHistory(ops)
		again, err := parseHistory(text)
		if err != nil || formatHistory(again) != text || len(again) != len(ops) {
			t.Fatalf("%s\nis read as\n%s\n%v", text, formatHistory(again), err)
		}
	}
	for _, text := range []string{"event", "event c e x", "model", "model x", "tick x", "what c"} {
		if _, err := parseHistory(text); err == nil {
			t.Errorf("%q is read", text)
		}
	}
}

// TestMetamorphicNotices breaks what a restart finds: the moment that scores
// speak of is lost. It must be noticed, and the history be made small.
func TestMetamorphicNotices(t *testing.T) {
	th := newTheatre(t)
	forget := func(s *state) {
		var at customers.Cursor
		var c schemas.ChurnScore
		for record := s.customers.Next(&at); record != nil; record = s.customers.Next(&at) {
			s.customers.Unpack(record, &c)
			if c.AsOf != c.OccurredAt {
				c.CustomerID, c.EventID = bytes.Clone(c.CustomerID), bytes.Clone(c.EventID)
				c.AsOf = c.OccurredAt
				s.customers.Put(&c)
			}
		}
	}
	fails := func(ops []op, a arrangement) bool {
		th.spoil = nil
		want := th.play(t, ops, undisturbedly)
		th.spoil = forget
		return th.diff(t, th.play(t, ops, a), want) != ""
	}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 14))
		ops := randomHistory(rng)
		a := arrangement{partitions: 1, batch: 1, keep: true, stops: 100, seed: seed}
		if !fails(ops, a) {
			continue
		}
		small := shrink(ops, func(ops []op) bool { return fails(ops, a) })
		t.Logf("seed %d: %d ops became\n%s", seed, len(ops), formatHistory(small))
		if len(small) > 4 {
			t.Errorf("%d ops are left of %d", len(small), len(ops))
		}
		return
	}
	t.Error("it was not noticed")
}
