package deadletters

import (
	"fmt"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// What an erased customer did stays where it is, wherever the tombstone lies.
func TestErasedCustomersAreNotRedriven(t *testing.T) {
	// The letters are those of the records at events/1:3, anna's, and
	// outcomes/0:3, bert's; both failed an hour after origin.
	type tombstone struct {
		topic     string
		partition int
		key       string
		at        time.Duration // after origin
	}
	hour := time.Hour
	for name, c := range map[string]struct {
		before []tombstone // below the offsets of the letters' records
		after  []tombstone // above them
		change func(*schemas.DeadLetter)
		want   string // what is redriven
	}{
		"nobody erased":             {nil, nil, nil, "0:0 0:1"},
		"where the event was":       {nil, []tombstone{{schemas.TopicEvents, 1, "anna", 2 * hour}}, nil, "0:1"},
		"where the outcome was":     {nil, []tombstone{{schemas.TopicOutcomes, 0, "bert", 2 * hour}}, nil, "0:0"},
		"among the outcomes":        {nil, []tombstone{{schemas.TopicOutcomes, 1, "anna", 2 * hour}}, nil, "0:1"},
		"among the scores":          {nil, []tombstone{{schemas.TopicScores, 0, "anna", 2 * hour}, {schemas.TopicScores, 1, "bert", 2 * hour}}, nil, ""},
		"another customer":          {nil, []tombstone{{schemas.TopicScores, 0, "carl", 2 * hour}}, nil, "0:0 0:1"},
		"before all":                {[]tombstone{{schemas.TopicEvents, 1, "anna", -hour}, {schemas.TopicScores, 0, "bert", -hour}}, nil, nil, "0:0 0:1"},
		"of the same moment":        {nil, []tombstone{{schemas.TopicScores, 0, "anna", 3 * time.Millisecond}}, nil, "0:1"},
		"before it failed":          {nil, []tombstone{{schemas.TopicScores, 0, "anna", time.Minute}}, nil, "0:1"},
		"by a clock that is behind": {nil, []tombstone{{schemas.TopicEvents, 1, "anna", -hour}}, nil, "0:1"},
		"by a clock that is ahead": {nil, []tombstone{{schemas.TopicScores, 0, "anna", 2 * hour}},
			func(l *schemas.DeadLetter) { l.Timestamp += (24 * hour).Milliseconds() }, "0:1"},
		"after a record without a time": {[]tombstone{{schemas.TopicScores, 0, "anna", -1000 * hour}}, nil,
			func(l *schemas.DeadLetter) { l.Timestamp = -1 }, "0:1"},
		"between a record and its redrive": {nil, []tombstone{{schemas.TopicScores, 0, "anna", -hour}},
			func(l *schemas.DeadLetter) {
				l.Headers = []schemas.Header{{Key: HeaderWrittenAt, Value: fmt.Append(nil, origin.Add(-2*hour).UnixMilli())}}
			}, "0:1"},
		"a topic made anew": {nil, []tombstone{{schemas.TopicEvents, 1, "anna", 2 * hour}},
			func(l *schemas.DeadLetter) { l.Offset = 1000 }, "0:1"},
		"no customer": {nil, []tombstone{{schemas.TopicScores, 0, "", 2 * hour}},
			func(l *schemas.DeadLetter) { l.Key = nil }, "0:0 0:1"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			erase := func(all []tombstone) {
				for _, s := range all {
					d.produce(s.topic, s.partition, kafka.Record{Key: []byte(s.key), Time: origin.Add(s.at)})
				}
			}
			live := kafka.Record{Key: []byte("anna"), Value: []byte("x"), Time: origin}
			erase(c.before)
			for topic, partition := range map[string]int{schemas.TopicEvents: 1, schemas.TopicOutcomes: 0} {
				for n := len(d.records(topic, partition)); n < 4; n++ {
					d.produce(topic, partition, live)
				}
			}
			erase(c.after)
			d.file(0, letter(3, c.change), letter(3, func(l *schemas.DeadLetter) {
				l.Topic, l.Partition, l.Key = schemas.TopicOutcomes, 0, []byte("bert")
			}))
			plan := d.plan(Filter{}, 0)
			if got := positions(plan.Letters); got != c.want {
				t.Errorf("letters %s, want %s; refused %s", got, c.want, shown(plan.Refused))
			}
			if n := 2 - len(plan.Letters); n > 0 && plan.Refused[RefusedErased].Count != n {
				t.Errorf("refused %s", shown(plan.Refused))
			}
			// Who names them means it.
			plan, err := d.queue.PlanFor(d.ctx, []Position{{0, 0}, {0, 1}})
			if err != nil || len(plan.Letters) != 2 {
				t.Errorf("the plan by positions %+v, %v", plan, err)
			}
		})
	}
}

// Of the outcomes and scores only what is young enough to matter is read.
func TestErasuresAreLookedForSinceTheOldestLetter(t *testing.T) {
	d := newDesk(t)
	for i := range 100 {
		at := origin.Add(time.Duration(i-90) * time.Hour)
		d.produce(schemas.TopicScores, 0, kafka.Record{Key: []byte("carl"), Value: []byte("x"), Time: at})
	}
	d.file(0, letter(0, nil))
	var read int64
	d.queue = New(Config{Cluster: d.cluster, Codec: d.codec, Progress: func(what string, _, total int64) {
		if what == "erased customers" {
			read = total
		}
	}})
	d.plan(Filter{}, 0)
	if read != 11 { // from clockSkew before the letter on
		t.Errorf("%d records read", read)
	}
}

func TestSince(t *testing.T) {
	d := newDesk(t)
	const topic = "since"
	if err := d.cluster.EnsureTopics(d.ctx, kafka.TopicConfig{Name: topic, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		d.produce(topic, 0, kafka.Record{Time: time.UnixMilli(int64(100 + i/2*10))}) // two at a time
	}
	for _, c := range []struct{ millis, start, end, want int64 }{
		{0, 0, 50, 0}, {100, 0, 50, 0}, {101, 0, 50, 2}, {110, 0, 50, 2}, {200, 0, 50, 20}, {205, 0, 50, 22},
		{340, 0, 50, 48}, {341, 0, 50, 50}, {0, 7, 50, 7}, {110, 7, 50, 7}, {341, 7, 9, 9}, {100, 5, 5, 5}, {-5, 0, 50, 0},
	} {
		if got, err := d.queue.since(d.ctx, kafka.Span{Topic: topic, Start: c.start, End: c.end}, c.millis); err != nil || got != c.want {
			t.Errorf("since %d in %d to %d: %d, %v, want %d", c.millis, c.start, c.end, got, err, c.want)
		}
	}
}
