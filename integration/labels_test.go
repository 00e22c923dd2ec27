//go:build integration

package integration

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// TestLabels kills labelers with -9 at any moment while outcomes come, on a real Kafka
// whose cleaner takes superseded records, and once the broker under them: every outcome
// is one example, a correction of one or counted, none twice, and the share of churn
// among examples is that among outcomes.
func TestLabels(t *testing.T) {
	const customers, day = 400, 24 * time.Hour
	seed := *faultsSeed
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	p := StartPlatform(t, KafkaConfig{Settings: map[string]string{"log.cleaner.backoff.ms": "500"}})
	cluster, _ := p.Connect()
	codec := p.Codec(schemas.Telco())
	ensureTopic(t, cluster, schemas.TopicScores, 6, map[string]string{
		"cleanup.policy": "compact", "min.compaction.lag.ms": strconv.FormatInt((46 * day).Milliseconds(), 10), "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01",
	})
	ensureTopic(t, cluster, schemas.TopicOutcomes, 6, map[string]string{"message.timestamp.type": "LogAppendTime"})
	ensureTopic(t, cluster, schemas.TopicExamples, 4, map[string]string{
		"cleanup.policy": "compact", "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01",
	})

	// Who leaves was silent for weeks, who stays is scored every day.
	now := time.Now()
	id := func(i int) string { return fmt.Sprint("customer-", i) }
	leaves := func(i int) bool { return i%3 == 0 }
	producer := cluster.NewProducer(kafka.ProducerConfig{})
	for d := 70; d >= 0; d-- {
		var records []kafka.Record
		for i := range customers {
			if leaves(i) && (d < 32 || d%20 != 0) {
				continue
			}
			at := now.Add(-time.Duration(d)*day - time.Duration(i)*time.Second)
			s := codec.NewScore()
			s.CustomerID, s.EventID = []byte(id(i)), []byte("0b5c4a52-6a3c-4b8e-9f0d-0123456789ab")
			s.OccurredAt, s.AsOf, s.ScoredAt = at.UnixMilli(), at.UnixMilli(), at.UnixMilli()
			s.ModelVersion, s.Probability, s.SourceOffset = 1, float64(d)/100, int64(100-d)
			records = append(records, kafka.Record{Key: s.CustomerID, Value: codec.AppendScore(nil, s), Time: at})
		}
		if err := producer.Produce(testContext(t), schemas.TopicScores, records...); err != nil {
			t.Fatal(err)
		}
	}

	dirs := []string{t.TempDir(), t.TempDir()}
	start := func(i int) *Role {
		return p.StartRole("label", "--label-state-dir", dirs[i], "--label-session-timeout", "6s", "--label-grace", "1s")
	}
	labelers := []*Role{start(0), start(1)}
	for _, l := range labelers {
		l.WaitReady(time.Minute)
	}

	type identity struct {
		customer string
		observed int64
	}
	var sent atomic.Int64
	want := map[identity]bool{} // the last label
	unknown := 0
	stop := make(chan struct{})
	loaded := make(chan error, 1)
	go func() { // outcomes come all the time
		load := rand.New(rand.NewPCG(seed, 1))
		var err error
		for n := 0; err == nil; n++ {
			select {
			case <-stop:
				loaded <- nil
				return
			case <-time.After(5 * time.Millisecond):
			}
			i := load.IntN(customers)
			o := schemas.ChurnOutcome{CustomerID: id(i), Churned: leaves(i), ObservedAt: now.Add(-time.Duration(load.IntN(20)) * time.Hour).UnixMilli()}
			switch load.IntN(10) {
			case 0:
				o.CustomerID = fmt.Sprint("nobody-", n)
				unknown++
			default:
				want[identity{o.CustomerID, o.ObservedAt}] = o.Churned
			}
			// CRMs have partitioners of their own.
			err = producer.ProduceTo(testContext(t), schemas.TopicOutcomes, i%6, []kafka.Record{{Key: []byte(o.CustomerID), Value: codec.AppendOutcome(nil, &o)}})
			sent.Add(1)
		}
		loaded <- err
	}()

	begin := time.Now()
	for round := range 8 {
		before := sent.Load()
		Eventually(t, time.Minute, "more outcomes", func() error {
			if sent.Load() < before+int64(50+rng.IntN(300)) {
				return fmt.Errorf("%d", sent.Load())
			}
			return nil
		})
		if round == 5 {
			p.Kill9(0)
			p.Start(0)
			continue
		}
		i := rng.IntN(len(labelers))
		labelers[i].Kill9()
		if rng.IntN(3) == 0 {
			dirs[i] = t.TempDir()
			labelers[i] = start(i)
		} else {
			labelers[i].Start()
		}
	}
	close(stop)
	if err := <-loaded; err != nil {
		t.Fatal(err)
	}

	type sums map[string]int64
	read := func() (examples map[identity]schemas.LabelledExample, total sums) {
		byCustomer, progress := map[string][]schemas.LabelledExample{}, map[int]schemas.LabelerProgress{}
		each(t, cluster, schemas.TopicExamples, func(ctx context.Context, r kafka.Record) error {
			switch {
			case string(r.Key) == schemas.ProgressKey:
				var m schemas.LabelerProgress
				if err := codec.DecodeLabelerProgress(ctx, r.Header(schemas.HeaderProgress), &m); err != nil {
					return err
				}
				progress[r.Partition] = m
			case !schemas.IsReservedKey(r.Key):
				var m schemas.CustomerExamples
				if err := codec.DecodeExamples(ctx, r.Value, &m); err != nil {
					return err
				}
				byCustomer[string(r.Key)] = m.Examples
			}
			return nil
		})
		examples, total = map[identity]schemas.LabelledExample{}, sums{}
		for customer, all := range byCustomer {
			for _, e := range all {
				examples[identity{customer, e.ObservedAt}] = e
			}
		}
		for _, m := range progress {
			for _, s := range m.Sums {
				total[s.Result] += s.Outcomes
			}
		}
		return examples, total
	}
	Eventually(t, 2*time.Minute, "every outcome settled", func() error {
		_, total := read()
		n := int64(0)
		for _, of := range total {
			n += of
		}
		// A producer repeats what was not acknowledged, so there may be more than sent.
		written := int64(0)
		for partition := range 6 {
			written += end(t, cluster, schemas.TopicOutcomes, partition)
		}
		if n != written {
			return fmt.Errorf("%d of %d: %v", n, written, total)
		}
		return nil
	})
	examples, total := read()
	t.Logf("%d outcomes in %v: %v", sent.Load(), time.Since(begin).Round(time.Second), total)
	if len(examples) != len(want) || total["example"] != int64(len(want)) {
		t.Errorf("%d examples, %d counted, of %d outcomes that are different", len(examples), total["example"], len(want))
	}
	if n := total["no_score"]; n < int64(unknown) || n > int64(unknown)+2 {
		t.Errorf("%d outcomes of nobody, want %d", n, unknown)
	}
	for _, k := range slices.SortedFunc(maps.Keys(want), func(a, b identity) int { return int(a.observed - b.observed) }) {
		e, there := examples[k]
		if !there {
			t.Errorf("no example of %s observed at %d", k.customer, k.observed)
			continue
		}
		if decision := k.observed - (30 * day).Milliseconds(); e.Churned != want[k] || e.AsOf > decision || !want[k] && decision-e.AsOf > (2*day).Milliseconds() {
			t.Errorf("example of %s: %+v, decided at %d", k.customer, e, decision)
		}
	}
}
