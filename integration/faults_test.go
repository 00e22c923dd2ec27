//go:build integration

package integration

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
	"github.com/churnstream/churnstream/scoring"
)

var (
	faultsSeed   = flag.Uint64("faults.seed", 1, "seed of the load, of the order of faults and of their victims")
	faultsRounds = flag.Int("faults.rounds", 1, "how often TestFaultsUnderLoad goes through all faults")
	faultsOnly   = flag.String("faults.only", "", "part of the names of those faults to inject; the others are left out")
)

// The attributes of faultsTable, in its order.
const (
	plan = iota
	tenure
	spend
	complaints
	attributes
)

const faultsTable = `{"type":"record","name":"CustomerAttributes","fields":[
	{"name":"plan","type":["null","string"],"default":null,"feature":{"kind":"categorical","actionable":true}},
	{"name":"tenure","type":["null","double"],"default":null,"feature":{"kind":"numeric"}},
	{"name":"spend","type":["null","double"],"default":null,"feature":{"kind":"numeric"}},
	{"name":"complaints","type":["null","double"],"default":null,"feature":{"kind":"numeric"}}
]}`

var plans = []string{"monthly", "yearly"}

const faultsModel = `{"intercept":-1,"features":[
	{"name":"plan","kind":"categorical","levels":["monthly","yearly"],"log_odds":[0.8,-0.8],"frequency":[0.5,0.5]},
	{"name":"tenure","kind":"numeric","log_odds_per_unit":-0.05,"quartiles":[2],
	 "bins":[{"mean":1,"std":0.1,"min":0,"max":2,"frequency":0.5},{"mean":3,"std":0.1,"min":2,"max":4,"frequency":0.5}],"empirical_quantiles":[0,2,4]},
	{"name":"spend","kind":"numeric","log_odds_per_unit":0.002,"quartiles":[2],
	 "bins":[{"mean":1,"std":0.1,"min":0,"max":2,"frequency":0.5},{"mean":3,"std":0.1,"min":2,"max":4,"frequency":0.5}],"empirical_quantiles":[0,2,4]},
	{"name":"complaints","kind":"numeric","log_odds_per_unit":0.3,"quartiles":[2],
	 "bins":[{"mean":1,"std":0.1,"min":0,"max":2,"frequency":0.5},{"mean":3,"std":0.1,"min":2,"max":4,"frequency":0.5}],"empirical_quantiles":[0,2,4]}]}`

// profile is what a customer's attributes are, NaN where unknown; of plan, its
// place in plans.
type profile [attributes]float64

func (v profile) equal(w profile) bool {
	for i := range v {
		if v[i] != w[i] && !(math.IsNaN(v[i]) && math.IsNaN(w[i])) {
			return false
		}
	}
	return true
}

// probability is the model, once more and by hand; false if something is
// missing, for which the model's background would be needed.
func (v profile) probability() (float64, bool) {
	for _, x := range v {
		if math.IsNaN(x) {
			return 0, false
		}
	}
	s := -1 - 0.05*v[tenure] + 0.002*v[spend] + 0.3*v[complaints] + []float64{0.8, -0.8}[int(v[plan])]
	return 1 / (1 + math.Exp(-s)), true
}

// expected is what the score of an event must hold.
type expected struct {
	event  string
	number int
	values profile
}

// subscriber is what the test knows of a customer. It says in the plainest way
// what an event does, independently of the program under test.
type subscriber struct {
	id      string
	now     profile
	setAt   [attributes]int64
	history []expected
	recent  [][]byte // the last few events as sent
}

// eventID is the identity of the event with a number; in order of numbers.
func eventID(number int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", number) }

// load sends events at a steady rate.
type load struct {
	t           testing.TB
	rng         *rand.Rand
	codec       *schemas.Codec
	producer    *kafka.Producer
	subscribers []*subscriber
	clock       int64

	mu                       sync.Mutex
	made, acked              int // events with lower or equal numbers
	repeats, late, increment int
	once                     bool // whether upstream sends no event again

	stop, done chan struct{}
}

const (
	loadCustomers = 400
	loadBatch     = 20 // each of another customer
	loadEvery     = 100 * time.Millisecond
)

func startLoad(t testing.TB, seed uint64, c *kafka.Cluster, codec *schemas.Codec) *load {
	l := &load{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), codec: codec, producer: c.NewProducer(kafka.ProducerConfig{}),
		clock: time.Now().Add(-time.Hour).UnixMilli(), stop: make(chan struct{}), done: make(chan struct{}),
	}
	for i := range loadCustomers {
		s := &subscriber{id: fmt.Sprintf("customer-%03d", i)}
		for j := range s.now {
			s.now[j] = math.NaN()
		}
		l.subscribers = append(l.subscribers, s)
	}
	ctx := context.WithoutCancel(t.Context())
	go func() {
		defer close(l.done)
		tick := time.NewTicker(loadEvery)
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
			}
			batch, upTo := l.next()
			// It waits for as long as Kafka needs: an event given up would not
			// be known to have been stored or not.
			limited, cancel := context.WithTimeout(ctx, timeout)
			err := l.producer.Produce(limited, schemas.TopicEvents, batch...)
			cancel()
			if err != nil {
				t.Errorf("the load: %v", err)
				return
			}
			l.mu.Lock()
			l.acked = upTo
			l.mu.Unlock()
		}
	}()
	t.Cleanup(l.end)
	return l
}

// end stops the load when its last batch is acknowledged.
func (l *load) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	<-l.done
}

// sent returns up to which number all events are acknowledged.
func (l *load) sent() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked
}

// next makes the next batch. A customer comes once in it: a batch that is
// stored twice, as its acknowledgement was lost, then repeats each customer's
// last event only.
func (l *load) next() (batch []kafka.Record, upTo int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range l.rng.Perm(len(l.subscribers))[:loadBatch] {
		s := l.subscribers[i]
		if len(s.recent) > 0 && l.rng.IntN(30) == 0 && !l.once {
			// As an upstream does that is not sure.
			l.repeats++
			batch = append(batch, kafka.Record{Key: []byte(s.id), Value: s.recent[l.rng.IntN(len(s.recent))]})
			continue
		}
		batch = append(batch, l.event(s))
	}
	return batch, l.made
}

// event makes a new event of a customer and notes what must come of it.
func (l *load) event(s *subscriber) kafka.Record {
	l.made++
	l.clock++
	at := l.clock
	e := l.codec.NewEvent()
	e.EventID = []byte(eventID(l.made))
	e.CustomerID = []byte(s.id)
	set := func(i int, x float64) {
		e.Changes[i] = x
		if i == plan {
			code, err := l.codec.Set().ParseText(plan, plans[int(x)])
			if err != nil {
				l.t.Error(err)
			}
			e.Changes[i] = code
		}
		if math.IsNaN(s.now[i]) || at >= s.setAt[i] {
			s.now[i], s.setAt[i] = x, at
		}
	}
	add := func(i int, x float64) {
		l.increment++
		e.Increments[i] = x
		if !math.IsNaN(s.now[i]) && at >= s.setAt[i] {
			s.now[i] += x
		}
	}
	// Quarters add up exactly.
	amount := func() float64 { return float64(l.rng.IntN(400)) / 4 }
	switch {
	case len(s.history) == 0:
		set(plan, float64(l.rng.IntN(2)))
		set(tenure, 1)
		set(complaints, 0)
		if l.rng.IntN(4) > 0 { // else increments come before there is something to add to
			set(spend, amount())
		}
	default:
		if l.rng.IntN(10) == 0 {
			at -= int64(l.rng.IntN(20_000))
			l.late++
		}
		switch l.rng.IntN(6) {
		case 0:
			set(complaints, float64(l.rng.IntN(8)))
		case 1:
			set(plan, float64(l.rng.IntN(2)))
			add(spend, amount())
		case 2:
			set(spend, amount())
			add(spend, 0.25)
		default: // a bill
			add(tenure, 1)
			add(spend, amount())
		}
	}
	e.OccurredAt = at
	value := l.codec.AppendEvent(nil, e)
	s.history = append(s.history, expected{eventID(l.made), l.made, s.now})
	// Fewer than what a customer's state remembers, as one repeat may follow
	// another's event.
	if s.recent = append(s.recent, value); len(s.recent) > scoring.RecentEvents-1 {
		s.recent = s.recent[1:]
	}
	return kafka.Record{Key: []byte(s.id), Value: value}
}

// expectations returns what the scores of a customer must be, by its id.
func (l *load) expectations() map[string][]expected {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string][]expected{}
	for _, s := range l.subscribers {
		all[s.id] = slices.Clip(s.history)
	}
	return all
}

// progress follows the scores and knows up to which number events have one.
type progress struct {
	mu   sync.Mutex
	seen map[int]bool
	upTo int
}

func (p *progress) scored() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.upTo
}

func followScores(t testing.TB, c *kafka.Cluster, codec *schemas.Codec) *progress {
	p := &progress{seen: map[int]bool{}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- c.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicScores}}, func(ctx context.Context, records []kafka.Record) error {
			s := codec.NewScore()
			for _, r := range records {
				if r.Value == nil || schemas.IsReservedKey(r.Key) {
					continue
				}
				if err := codec.DecodeScore(ctx, r.Value, s); err != nil {
					return err
				}
				var number int
				if _, err := fmt.Sscanf(string(s.EventID[24:]), "%d", &number); err != nil {
					return fmt.Errorf("event id %s: %w", s.EventID, err)
				}
				p.mu.Lock()
				for p.seen[number] = true; p.seen[p.upTo+1]; p.upTo++ {
					delete(p.seen, p.upTo+1)
				}
				p.mu.Unlock()
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("following the scores: %v", err)
		}
	})
	return p
}

// faults is what TestFaultsUnderLoad works on.
type faults struct {
	t        testing.TB
	rng      *rand.Rand
	kafka    *Kafka
	cluster  *kafka.Cluster
	client   *kafkago.Client
	codec    *schemas.Codec
	store    *ClickHouse
	rows     driver.Conn
	registry *Process
	scorers  []*Role
	sink     *Role
	load     *load
	progress *progress
	tight    int     // the broker whose disk can be filled, −1 if none
	disks    []*disk // of that broker and of ClickHouse, nil if they cannot be had
	report   []string
}

// recovery bounds how long anything may take to be as before.
const recovery = 2 * time.Minute

// ahead is how many more events have to pass for things to have recovered.
const ahead = 100

// more waits until the load has sent n more events, and returns the number of
// the last one.
func (f *faults) more(n int) int {
	f.t.Helper()
	want := f.load.sent() + n
	Eventually(f.t, recovery, "events", func() error {
		if got := f.load.sent(); got < want {
			return fmt.Errorf("%d of %d are sent", got, want)
		}
		return nil
	})
	return want
}

// scored waits until all events up to a number have scores.
func (f *faults) scored(upTo int) {
	f.t.Helper()
	Eventually(f.t, recovery, fmt.Sprintf("scores of events up to %d", upTo), func() error {
		if got := f.progress.scored(); got < upTo {
			return fmt.Errorf("all up to %d have one", got)
		}
		return nil
	})
}

// stored waits until ClickHouse has a row of every event up to a number. One
// too many is an error.
func (f *faults) stored(upTo int) {
	f.t.Helper()
	query := fmt.Sprintf("SELECT count() FROM churn_scores FINAL WHERE event_id <= '%s'", eventID(upTo))
	Eventually(f.t, recovery, fmt.Sprintf("rows of events up to %d", upTo), func() error {
		n, err := f.store.Count(f.rows, query)
		switch {
		case err != nil:
			return err
		case int(n) > upTo:
			f.t.Fatalf("ClickHouse has %d rows of the first %d events", n, upTo)
		case int(n) < upTo:
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

// settled waits until the load of some time after the fault, or after its end,
// is scored and in ClickHouse, and notes how long that took.
func (f *faults) settled(what string, since time.Time) {
	f.t.Helper()
	upTo := f.more(ahead)
	f.scored(upTo)
	scores := time.Since(since)
	f.stored(upTo)
	f.note("%s: scores up to date after %.1f s, rows after %.1f s", what, scores.Seconds(), time.Since(since).Seconds())
}

func (f *faults) note(format string, args ...any) {
	f.t.Helper()
	line := fmt.Sprintf(format, args...)
	f.report = append(f.report, line)
	f.t.Log(line)
}

// members waits until a consumer group is at work with n members.
func (f *faults) members(group string, n int) {
	f.t.Helper()
	Eventually(f.t, recovery, fmt.Sprintf("%d members of %s", n, group), func() error {
		ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
		defer cancel()
		got, err := f.cluster.GroupMembers(ctx, group)
		if err != nil {
			return err
		}
		if got != n {
			return fmt.Errorf("it has %d", got)
		}
		return nil
	})
}

// inSync waits until all replicas of all partitions are.
func (f *faults) inSync() {
	f.t.Helper()
	Eventually(f.t, recovery, "replicas in sync", func() error {
		ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
		defer cancel()
		res, err := f.client.Metadata(ctx, &kafkago.MetadataRequest{})
		if err != nil {
			return err
		}
		for _, topic := range res.Topics {
			for _, p := range topic.Partitions {
				if len(p.Isr) < len(p.Replicas) {
					return fmt.Errorf("%s/%d has %d of %d", topic.Name, p.ID, len(p.Isr), len(p.Replicas))
				}
			}
		}
		return nil
	})
}

// healthy waits until everything is as it was before a fault.
func (f *faults) healthy() {
	f.t.Helper()
	for _, r := range append(slices.Clip(f.scorers), f.sink) {
		r.WaitReady(recovery)
	}
	f.members(scorer.DefaultGroup, len(f.scorers))
	f.members(sinkGroup, 1)
	f.kafka.WaitBrokers(3)
	f.inSync()
}

const sinkGroup = "churn-sink-clickhouse"

func (f *faults) killScorer() {
	victim := f.scorers[f.rng.IntN(len(f.scorers))]
	begin := time.Now()
	victim.Kill9()
	f.settled("scorer killed with -9, two others take over", begin)
	begin = time.Now()
	victim.Start()
	victim.WaitReady(recovery)
	f.settled("the killed scorer started again", begin)
}

func (f *faults) freezeScorer() {
	victim := f.scorers[f.rng.IntN(len(f.scorers))]
	before, err := victim.Metric("churn_scorer_fenced_total")
	if err != nil {
		f.t.Fatal(err)
	}
	begin := time.Now()
	victim.Freeze()
	f.settled("scorer frozen beyond its session, two others take over", begin)
	f.members(scorer.DefaultGroup, len(f.scorers)-1)
	frozen := time.Since(begin)
	begin = time.Now()
	victim.Thaw()
	f.settled(fmt.Sprintf("the frozen scorer goes on after %.1f s", frozen.Seconds()), begin)
	f.members(scorer.DefaultGroup, len(f.scorers))
	after, err := victim.Metric("churn_scorer_fenced_total")
	if err != nil {
		f.t.Fatal(err)
	}
	f.note("the thawed scorer was refused as a former owner on %v partitions", after-before)
}

func (f *faults) killSink() {
	f.sink.Kill9()
	f.scored(f.more(ahead)) // without it
	begin := time.Now()
	f.sink.Start()
	f.settled("sink killed with -9, from its new start", begin)
}

func (f *faults) killBroker() {
	topics := []string{schemas.TopicEvents, schemas.TopicScores, "__consumer_offsets", "__transaction_state"}
	topic := topics[f.rng.IntN(len(topics))]
	leader := f.kafka.Leader(topic, f.rng.IntN(4))
	begin := time.Now()
	f.kafka.Kill9(leader)
	f.settled(fmt.Sprintf("broker of three killed with -9, a leader of %s", topic), begin)
	begin = time.Now()
	f.kafka.Start(leader)
	f.kafka.WaitBrokers(3)
	f.inSync()
	f.settled("the killed broker started again and in sync", begin)
}

func (f *faults) killClickHouse() {
	f.store.Kill9()
	f.scored(f.more(ahead)) // without it
	f.sink.Unready(recovery, "", "")
	f.store.Start()
	begin := time.Now()
	f.settled("ClickHouse killed with -9, from when it was back", begin)
}

// restless has the scorers come and go.
func (f *faults) restless() {
	kills, stops, starts := 0, 0, 0
	for range 8 {
		r := f.scorers[f.rng.IntN(len(f.scorers))]
		switch {
		case !r.Running():
			r.Start()
			starts++
		case f.rng.IntN(2) == 0:
			r.Kill9()
			kills++
		default:
			r.Stop()
			stops++
		}
		f.more(loadBatch * (1 + f.rng.IntN(20)))
	}
	begin := time.Now()
	for _, r := range f.scorers {
		if !r.Running() {
			r.Start()
			starts++
		}
	}
	f.settled(fmt.Sprintf("three scorers leaving and joining at random (%d kills, %d stops, %d starts), from the last start", kills, stops, starts), begin)
}

func (f *faults) registryDown() {
	f.registry.Kill9()
	victim := f.scorers[f.rng.IntN(len(f.scorers))]
	begin := time.Now()
	victim.Kill9()
	victim.Start()
	why := victim.Unready(recovery, "", "")
	f.settled("registry down and a scorer restarted, two others take over", begin)
	if again := victim.Unready(recovery, "", ""); !strings.Contains(again, "registry") {
		f.t.Errorf("without a registry the restarted scorer says %q", again)
	} else {
		why = again
	}
	begin = time.Now()
	f.registry.Start()
	victim.WaitReady(recovery)
	f.note("registry back: the waiting scorer ready after %.1f s; it had said %q", time.Since(begin).Seconds(), why)
	f.settled("registry back", begin)
}

// refuseInserts has ClickHouse answer queries and refuse rows.
func (f *faults) refuseInserts() {
	f.alter("MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1")
	f.scored(f.more(ahead)) // without it
	why := f.sink.Unready(recovery, "", "")
	f.alter("RESET SETTING parts_to_delay_insert, parts_to_throw_insert")
	begin := time.Now()
	f.settled("ClickHouse refuses inserts, from when it takes them", begin)
	f.note("meanwhile the sink said %q", why)
}

// readOnly has ClickHouse come back in a state in which its user may only read,
// and then in one in which it may write again.
func (f *faults) readOnly() {
	f.store.Stop()
	f.store.allow(true)
	f.store.Start()
	f.scored(f.more(ahead)) // without it
	why := f.sink.Unready(recovery, "", "readonly")
	f.store.Stop()
	f.store.allow(false)
	f.store.Start()
	begin := time.Now()
	f.settled("ClickHouse read-only, from when it could be written to", begin)
	f.note("meanwhile the sink said %q", why)
}

func (f *faults) alter(what string) {
	f.t.Helper()
	if err := f.rows.Exec(testContext(f.t), "ALTER TABLE churn_scores "+what); err != nil {
		f.t.Fatal(err)
	}
}

// clickHouseDiskFull fills the disk of ClickHouse.
func (f *faults) clickHouseDiskFull() {
	d := f.disks[1]
	if d == nil {
		f.note("ClickHouse's disk full: NOT TRIED, a file system of its own cannot be mounted here")
		return
	}
	// A merge that the full disk breaks off can leave a part in this engine that
	// it cannot read any more. What is tried here is that it takes no rows.
	merges := func(what string) {
		f.t.Helper()
		if err := f.rows.Exec(testContext(f.t), "SYSTEM "+what+" MERGES"); err != nil {
			f.t.Fatal(err)
		}
	}
	merges("STOP")
	d.fill(f.t)
	f.scored(f.more(ahead)) // without it
	why := f.sink.Unready(recovery, "", "")
	d.free(f.t)
	merges("START")
	begin := time.Now()
	f.settled("ClickHouse's disk full, from when it had room again", begin)
	f.note("meanwhile the sink said %q", why)
}

// brokerDiskFull fills the disk of a broker.
func (f *faults) brokerDiskFull() {
	d := f.disks[0]
	if d == nil {
		f.note("broker's disk full: NOT TRIED, a file system of its own cannot be mounted here")
		return
	}
	begin := time.Now()
	d.fill(f.t)
	broker := f.kafka.brokers[f.tight].process
	f.settled("disk of one of three brokers full", begin)
	// A broker gives up when it cannot write its only directory.
	select {
	case <-broker.Ended():
		f.note("the broker ended by itself: %v", broker.cmd.ProcessState)
	case <-time.After(30 * time.Second):
		f.note("the broker went on for 30 s with a full disk and was killed")
		f.kafka.Kill9(f.tight)
	}
	d.free(f.t)
	begin = time.Now()
	f.kafka.Start(f.tight)
	f.kafka.WaitBrokers(3)
	f.inSync()
	f.settled("that broker started again with room and in sync", begin)
}

// disk is a small file system of its own. Only processes started after it was
// mounted see it, and it goes with the last of them.
type disk struct {
	dir string
	// stop ends keeping it full.
	stop func()
}

// ownMounts gives the thread that starts processes, and so these, mounts of
// their own: nothing that is mounted for a test outlives it.
var ownMounts = sync.OnceValue(func() error {
	if err := syscall.Unshare(syscall.CLONE_NEWNS); err != nil {
		return fmt.Errorf("taking mounts of our own: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping our mounts to ourselves: %w", err)
	}
	return nil
})

// inside runs fn on the thread that starts processes, which sees what they see.
func inside(fn func() error) error {
	failed := make(chan error)
	spawn() <- func() { failed <- fn() }
	return <-failed
}

// mountDisk puts a disk in the place of a directory that nobody uses now, with
// the same files.
func mountDisk(t testing.TB, dir, size string) (*disk, error) {
	t.Helper()
	aside := t.TempDir()
	err := inside(func() error {
		if err := ownMounts(); err != nil {
			return err
		}
		if err := os.CopyFS(aside, os.DirFS(dir)); err != nil {
			return fmt.Errorf("copying %s: %w", dir, err)
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
			return fmt.Errorf("mounting a file system: %w", err)
		}
		return os.CopyFS(dir, os.DirFS(aside))
	})
	if err != nil {
		return nil, err
	}
	return &disk{dir: dir}, nil
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill leaves no room until free is called, whatever the disk's user deletes.
func (d *disk) fill(t testing.TB) {
	t.Helper()
	if err := d.topUp(); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	d.stop = sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(d.stop)
	go func() {
		defer close(stopped)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				if err := d.topUp(); err != nil {
					t.Errorf("keeping a disk full: %v", err)
					return
				}
			}
		}
	}()
}

func (d *disk) topUp() error {
	return inside(func() error {
		file, err := os.OpenFile(d.ballast(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		chunk := make([]byte, 1<<16)
		for len(chunk) > 0 {
			if _, err := file.Write(chunk); errors.Is(err, syscall.ENOSPC) {
				chunk = chunk[:len(chunk)/2]
			} else if err != nil {
				return err
			}
		}
		return nil
	})
}

// free makes room again.
func (d *disk) free(t testing.TB) {
	t.Helper()
	d.stop()
	if err := inside(func() error { return os.Remove(d.ballast()) }); err != nil {
		t.Fatal(err)
	}
}

// check reads all scores there are and fails the test unless, for every
// customer, they are those of the first events of its history, each once, in
// order, with the attributes and probabilities that follow; at the end of all.
func (f *faults) check(all bool) []Score {
	f.t.Helper()
	upTo := f.load.sent()
	f.scored(upTo)
	var scores []Score
	type held struct {
		values   profile
		previous float64
	}
	var holds []held
	repeated := 0
	s := f.codec.NewScore()
	last := map[string]Score{}
	each(f.t, f.cluster, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
		if r.Value == nil || schemas.IsReservedKey(r.Key) {
			return nil
		}
		if err := f.codec.DecodeScore(ctx, r.Value, s); err != nil {
			return err
		}
		if string(r.Key) != string(s.CustomerID) || r.Partition != int(s.SourcePartition) {
			return fmt.Errorf("score of customer %s, from partition %d, has key %s", s.CustomerID, s.SourcePartition, r.Key)
		}
		score := Score{
			EventID: string(s.EventID), Customer: string(s.CustomerID),
			Source: Position{int(s.SourcePartition), s.SourceOffset}, ModelVersion: s.ModelVersion, Probability: s.Probability,
		}
		if last[score.Customer] == score {
			repeated++ // has the same identity
			return nil
		}
		last[score.Customer] = score
		h := held{previous: s.Previous}
		copy(h.values[:], s.Attributes)
		if !scoring.IsMissing(h.values[plan]) {
			h.values[plan] = float64(slices.Index(plans, f.codec.Set().Text(plan, h.values[plan], s.Levels)))
		}
		scores, holds = append(scores, score), append(holds, h)
		return nil
	})
	// After the scores, so that what they rest on is known.
	want := f.load.expectations()
	events := Events(f.t, f.cluster, f.codec)
	var wrong []string
	complain := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	count := map[string]int{}
	before := map[string]Score{}
	for i, s := range scores {
		n := count[s.Customer]
		count[s.Customer]++
		if n >= len(want[s.Customer]) {
			complain("score %+v is one too many", s)
			continue
		}
		w := want[s.Customer][n]
		if s.EventID != w.event {
			complain("score %d of the customer is %+v, want that of event %s", n, s, w.event)
			continue
		}
		if !holds[i].values.equal(w.values) {
			complain("score %+v was computed from %v, want %v", s, holds[i].values, w.values)
		}
		if p, ok := w.values.probability(); ok && math.Abs(p-s.Probability) > 1e-9 {
			complain("score %+v, want probability %v", s, p)
		}
		if n == 0 && !scoring.IsMissing(holds[i].previous) || n > 0 && holds[i].previous != before[s.Customer].Probability {
			complain("score %+v has the previous probability %v, the one before it was %+v", s, holds[i].previous, before[s.Customer])
		}
		if n > 0 && s.Source.Offset <= before[s.Customer].Source.Offset {
			complain("score %+v comes after %+v", s, before[s.Customer])
		}
		if e := events[s.Source]; e != (Event{s.EventID, s.Customer}) {
			complain("score %+v, but where it says that its event stands is %+v", s, e)
		}
		before[s.Customer] = s
	}
	for customer, w := range want {
		for _, e := range w[min(count[customer], len(w)):] {
			if e.number <= upTo || all {
				complain("event %s of %s has no score", e.event, customer)
			}
		}
	}
	if len(wrong) > 0 {
		f.t.Fatalf("%d scores; %d things are wrong:\n%s", len(scores), len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
	if repeated > 0 {
		f.note("%d records repeat the identity of the one before", repeated)
	}
	if all {
		CheckScores(f.t, events, scores)
	}
	return scores
}

// audit fails the test unless the scorers' own account of the events adds up, and
// is that of the topics.
func (f *faults) audit(scores int) {
	f.t.Helper()
	n, err := f.cluster.Partitions(testContext(f.t), schemas.TopicEvents)
	if err != nil {
		f.t.Fatal(err)
	}
	var found schemas.Sums
	markers := 0
	for p := range n {
		var a *scorer.Audit
		// The last events' marker may come a minute later.
		Eventually(f.t, 2*time.Minute, "a marker after the last event", func() error {
			if a, err = scorer.RunAudit(testContext(f.t), scorer.AuditConfig{Cluster: f.cluster, Codec: f.codec, Partition: p, From: -1, To: -1}); err != nil {
				return err
			}
			if last := end(f.t, f.cluster, schemas.TopicEvents, p); a.To < last {
				return fmt.Errorf("partition %d is marked up to %d of %d", p, a.To, last)
			}
			return nil
		})
		if !a.OK() || a.Superseded+a.Expired != 0 || a.Found.Total() != a.To-a.From {
			f.t.Errorf("audit of partition %d: %+v", p, a)
		}
		found.Scored += a.Found.Scored
		found.Duplicates += a.Found.Duplicates
		found.NoRecord += a.Found.NoRecord
		markers += a.Markers
	}
	if found.Scored != int64(scores) {
		f.t.Errorf("the audit finds %d events scored, there are %d scores", found.Scored, scores)
	}
	f.note("audit: %d scored, %d duplicates, %d offsets without a record; %d pairs of markers agree", found.Scored, found.Duplicates, found.NoRecord, markers)
}

// checkRows fails the test unless ClickHouse has exactly the scores.
func (f *faults) checkRows(scores []Score) {
	f.t.Helper()
	f.stored(len(scores))
	stored := storedScores(f.t, f.rows)
	for _, s := range scores {
		if stored[s] != 1 {
			f.t.Errorf("score %+v is %d times in ClickHouse", s, stored[s])
		}
	}
	if len(stored) != len(scores) {
		f.t.Errorf("ClickHouse has %d rows for %d scores", len(stored), len(scores))
	}
	latest := map[string]profile{}
	for customer, history := range f.load.expectations() {
		if len(history) > 0 {
			latest[customer] = history[len(history)-1].values
		}
	}
	rows, err := f.rows.Query(testContext(f.t), "SELECT customer_id, plan, tenure, spend, complaints FROM churn_scores_latest")
	if err != nil {
		f.t.Fatal(err)
	}
	defer rows.Close()
	n := 0
	for ; rows.Next(); n++ {
		var customer string
		var level *string
		var numbers [attributes]*float64
		if err := rows.Scan(&customer, &level, &numbers[tenure], &numbers[spend], &numbers[complaints]); err != nil {
			f.t.Fatal(err)
		}
		got := profile{math.NaN(), math.NaN(), math.NaN(), math.NaN()}
		if level != nil {
			got[plan] = float64(slices.Index(plans, *level))
		}
		for i, x := range numbers {
			if x != nil {
				got[i] = *x
			}
		}
		if want, ok := latest[customer]; !ok || !got.equal(want) {
			f.t.Errorf("ClickHouse's latest of %s is %v, want %v", customer, got, want)
		}
	}
	if err := rows.Err(); err != nil {
		f.t.Fatal(err)
	}
	if n != len(latest) {
		f.t.Errorf("churn_scores_latest has %d customers, want %d", n, len(latest))
	}
}

// noLag waits until a consumer group has committed all that a topic holds.
func (f *faults) noLag(group, topic string) {
	f.t.Helper()
	n, err := f.cluster.Partitions(testContext(f.t), topic)
	if err != nil {
		f.t.Fatal(err)
	}
	partitions := make([]int, n)
	for i := range partitions {
		partitions[i] = i
	}
	Eventually(f.t, recovery, fmt.Sprintf("no lag of %s in %s", group, topic), func() error {
		ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
		defer cancel()
		res, err := f.client.OffsetFetch(ctx, &kafkago.OffsetFetchRequest{GroupID: group, Topics: map[string][]int{topic: partitions}})
		if err != nil {
			return err
		}
		if res.Error != nil {
			return res.Error
		}
		for _, p := range res.Topics[topic] {
			_, end, err := f.cluster.Offsets(ctx, topic, p.Partition)
			if err != nil {
				return err
			}
			if p.Error != nil || p.CommittedOffset != end {
				return fmt.Errorf("partition %d: committed %d of %d, %v", p.Partition, p.CommittedOffset, end, p.Error)
			}
		}
		return nil
	})
}

// startFaults starts three brokers, ClickHouse, a registry, three scorers, a
// sink and the load.
func startFaults(t *testing.T, seed uint64) *faults {
	t.Helper()
	set, err := schemas.Parse([]byte(faultsTable))
	if err != nil {
		t.Fatal(err)
	}
	f := &faults{t: t, rng: rand.New(rand.NewPCG(seed, 2)), tight: -1, disks: make([]*disk, 2)}
	f.kafka = StartKafka(t, KafkaConfig{Brokers: 3})
	f.store = StartClickHouse(t, ClickHouseConfig{User: "writer", Password: "of the writer"})

	// Disks that can be filled, while there is nothing on them yet.
	tight := f.rng.IntN(3)
	f.kafka.Stop(tight)
	if f.disks[0], err = mountDisk(t, filepath.Join(f.kafka.brokers[tight].dir, "data"), "384m"); err != nil {
		t.Logf("no full disk of a broker: %v", err)
	}
	f.tight = tight
	f.kafka.Start(tight)
	f.store.Stop()
	if f.disks[1], err = mountDisk(t, f.store.data, "384m"); err != nil {
		t.Logf("no full disk of ClickHouse: %v", err)
	}
	f.store.Start()
	f.kafka.WaitBrokers(3)

	f.cluster, _ = f.kafka.Connect()
	follower, _ := f.kafka.Connect()
	loading, _ := f.kafka.Connect()
	var closeClient func()
	f.client, closeClient = f.kafka.client(5 * time.Second)
	t.Cleanup(closeClient)
	f.rows = f.store.Connect()

	dir := t.TempDir()
	schema := filepath.Join(dir, "customers.avsc")
	if err := os.WriteFile(schema, []byte(faultsTable), 0o600); err != nil {
		t.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0])
	f.registry = StartProcess(t, "registry", nil, installed(t, "bin", "churnstream-registry"), "--listen", at, "--data", filepath.Join(dir, "registry"))
	client, err := registry.New(registry.Config{URL: "http://" + at})
	if err != nil {
		t.Fatal(err)
	}
	f.codec = schemas.NewCodec(set, client)
	Eventually(t, time.Minute, "a registry", func() error { return f.codec.Register(testContext(t)) })

	n := 0
	role := func(args ...string) *Role {
		n++
		listen := fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0])
		all := append(args, "--brokers", f.kafka.Brokers(), "--registry", "http://"+at, "--schema", schema, "--replication", "3")
		return newRole(t, fmt.Sprintf("churnstream %s (%d)", args[0], n), []string{"CHURN_CLICKHOUSE_PASSWORD=" + f.store.cfg.Password}, listen, all...)
	}
	for i := range 3 {
		f.scorers = append(f.scorers, role("score", "--session-timeout", "6s", "--snapshot-interval", "3s", "--state-dir", filepath.Join(dir, fmt.Sprint("state-", i))))
	}
	f.sink = role("sink", "--clickhouse", f.store.Addr(), "--clickhouse-user", f.store.cfg.User)

	version := schemas.ModelVersion{
		Version: 1, CreatedAt: time.Now().UnixMilli(), Stage: schemas.StageChampion, Reason: "handmade",
		Payload: faultsModel, SHA256: models.SHA256(faultsModel), FeatureFingerprint: set.Spec().Fingerprint(),
		MediumThreshold: 0.3, HighThreshold: 0.6,
	}
	// The roles make the topics.
	Eventually(t, time.Minute, "the topic of models", func() error {
		return f.cluster.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), schemas.TopicModels,
			kafka.Record{Key: models.Key(1), Value: f.codec.AppendModel(nil, &version)})
	})
	f.healthy()
	f.progress = followScores(t, follower, f.codec)
	f.load = startLoad(t, seed, loading, f.codec)
	return f
}

// TestFaultsUnderLoad kills, freezes and starves each part of a real platform
// while events keep coming, in an order and with victims drawn from the seed,
// and checks after each that nothing is lost, doubled, out of order or stuck.
func TestFaultsUnderLoad(t *testing.T) {
	seed := *faultsSeed
	t.Logf("seed %d; again with -faults.seed=%d", seed, seed)
	begin := time.Now()
	f := startFaults(t, seed)
	f.settled("without a fault", time.Now())
	f.check(false)

	all := []struct {
		name   string
		inject func()
	}{
		{"kill a scorer", f.killScorer},
		{"freeze a scorer", f.freezeScorer},
		{"kill the sink", f.killSink},
		{"kill a broker", f.killBroker},
		{"kill ClickHouse", f.killClickHouse},
		{"restless scorers", f.restless},
		{"registry down", f.registryDown},
		{"ClickHouse read-only", f.readOnly},
		{"ClickHouse refuses inserts", f.refuseInserts},
		{"ClickHouse's disk full", f.clickHouseDiskFull},
		{"broker's disk full", f.brokerDiskFull},
	}
	for range *faultsRounds {
		for _, i := range f.rng.Perm(len(all)) {
			if !strings.Contains(all[i].name, *faultsOnly) {
				continue
			}
			t.Logf("--- %s, %.0f s after the start", all[i].name, time.Since(begin).Seconds())
			all[i].inject()
			f.healthy()
			f.check(false)
		}
	}

	f.load.end()
	scores := f.check(true)
	f.noLag(scorer.DefaultGroup, schemas.TopicEvents)
	f.noLag(sinkGroup, schemas.TopicScores)
	f.audit(len(scores))
	f.checkRows(scores)
	if n := ends(t, f.cluster, schemas.TopicDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
	raw, err := f.store.Count(f.rows, "SELECT count() FROM churn_scores")
	if err != nil {
		t.Error(err)
	}
	t.Logf("seed %d, %.0f s: %d events of %d customers (%d late, %d amounts to add, %d sent again by their producer), stored at %d offsets; %d scores, each event exactly one, in order, with the attributes it must have; ClickHouse has the same %d rows with FINAL (%d without); no lag, no dead letter\n%s",
		seed, time.Since(begin).Seconds(), f.load.made, loadCustomers, f.load.late, f.load.increment, f.load.repeats,
		ends(t, f.cluster, schemas.TopicEvents), len(scores), len(scores), raw, strings.Join(f.report, "\n"))
}
