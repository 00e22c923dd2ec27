//go:build integration

package integration

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// decoded is what a client says of a topic: how many values it has, or that it
// cannot read one.
type decoded struct {
	Topic   string
	Values  int
	Markers int // of progress, among the values
	Error   string
}

// foreignRecord is what has to become of a record that a foreign writer wrote.
type foreignRecord struct {
	Name      string
	Topic     string
	Partition int
	Offset    int64

	Customer   string            // scored, or
	Attributes map[string]string // with these
	Letter     string            // a dead letter for this reason, "*" for any or a score
	Outcome    string            // an outcome of this customer
	Erased     string            // this customer is forgotten
}

// TestForeignWriters writes what other producers write, good and hostile: schemas
// of their own, ids in headers, framed keys, extreme times, junk. Each is scored
// with the right attributes, or a dead letter that says why; and all that we write
// of it, in every topic, is read by Confluent's client, fastavro and Java's Avro.
func TestForeignWriters(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{})
	c, _ := p.Connect()
	codec := p.Codec(schemas.Telco())
	ctx := testContext(t)

	db := filepath.Join(t.TempDir(), "churn.db")
	// Plain keys are read as well, so that all producers are served at once.
	roles := p.StartRole("run", "--roles", "score,label,train,monitor,sink", "--sqlite", db, "--horizon", "0s", "--score-interval", "0s", "--key-format", "avro")
	replay := p.StartRole("replay", "--rate", "0", "--history-share", "0.9", "--outcome-delay", "0s")
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	roles.WaitReady(time.Minute)
	readable(t, p, schemas.TopicEvents, schemas.TopicOutcomes) // while all in them is ours

	var wanted []foreignRecord
	for _, line := range python(t, "foreign_writers.py", p.Brokers(), p.Registry.URL()) {
		wanted = append(wanted, unmarshal[foreignRecord](t, line))
	}
	t.Logf("%d foreign records", len(wanted))

	type at struct {
		topic string
		Position
	}
	store, err := sql.Open("sqlite", "file:"+db+"?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	// check returns what is not yet as it has to be.
	check := func() error {
		letters := map[at]schemas.DeadLetter{}
		each(t, c, schemas.TopicDeadLetters, func(ctx context.Context, r kafka.Record) error {
			var l schemas.DeadLetter
			if err := codec.DecodeDeadLetter(ctx, r.Value, &l); err != nil {
				return err
			}
			letters[at{l.Topic, Position{int(l.Partition), l.Offset}}] = l
			return nil
		})
		type made struct {
			customer   string
			attributes map[string]string
		}
		scores := map[at]made{}
		erased := map[string]bool{}
		score := codec.NewScore()
		spec := codec.Set().Spec()
		each(t, c, schemas.TopicScores, func(ctx context.Context, r kafka.Record) error {
			switch {
			case schemas.IsReservedKey(r.Key):
				return nil
			case r.Value == nil:
				erased[string(r.Key)] = true
				return nil
			}
			if err := codec.DecodeScore(ctx, r.Value, score); err != nil {
				return err
			}
			got := made{string(score.CustomerID), map[string]string{}}
			for i := range spec.Len() {
				got.attributes[spec.Feature(i).Name] = codec.Set().Text(i, score.Attributes[i], score.Levels)
			}
			scores[at{schemas.TopicEvents, Position{int(score.SourcePartition), score.SourceOffset}}] = got
			return nil
		})
		var problems []error
		for _, w := range wanted {
			where := at{w.Topic, Position{w.Partition, w.Offset}}
			letter, isLetter := letters[where]
			got, isScored := scores[where]
			fail := func(format string, args ...any) {
				problems = append(problems, fmt.Errorf("%s (%s/%d at %d): %s", w.Name, w.Topic, w.Partition, w.Offset, fmt.Sprintf(format, args...)))
			}
			switch {
			case w.Letter == "*":
				if !isLetter && !isScored {
					fail("neither a score nor a dead letter")
				}
			case w.Letter != "":
				if string(letter.Reason) != w.Letter {
					fail("dead letter %q (%s), want %q", letter.Reason, letter.Detail, w.Letter)
				}
			case isLetter:
				fail("a dead letter: %s: %s", letter.Reason, letter.Detail)
			case w.Erased != "":
				if !erased[w.Erased] {
					fail("not erased")
				}
			case w.Outcome != "":
				var n int
				if err := store.QueryRowContext(ctx, `SELECT count(*) FROM churn_outcomes WHERE customer_id = ?`, w.Outcome).Scan(&n); err != nil || n != 1 {
					fail("%d rows of outcomes, %v", n, err)
				}
			case !isScored:
				fail("no score")
			default:
				if got.customer != w.Customer {
					fail("customer %q, want %q", got.customer, w.Customer)
				}
				for name, want := range w.Attributes {
					if got.attributes[name] != want {
						fail("%s is %q, want %q", name, got.attributes[name], want)
					}
				}
			}
		}
		return errors.Join(problems...)
	}
	Eventually(t, time.Minute, "everything as it has to be", check)
	if n, err := roles.Metric("churn_scorer_misplaced_events_total"); err != nil || n != 0 {
		t.Errorf("%v events misplaced, %v", n, err)
	}
	if !roles.Running() {
		t.Fatal("the roles ended")
	}
	if log := roles.Log(); strings.Contains(log, "panic") {
		t.Error("a role panicked")
	}

	readable(t, p, schemas.TopicScores, schemas.TopicDeadLetters, schemas.TopicModels)
}

// readable fails the test unless Confluent's client for Python, fastavro and Java's
// Avro read all values of topics.
func readable(t testing.TB, p *Platform, topics ...string) {
	t.Helper()
	for name, lines := range map[string][]string{
		"Python": python(t, "read_everything.py", append([]string{p.Brokers(), p.Registry.URL()}, topics...)...),
		"Java":   java(t, append([]string{"read", p.Brokers(), p.Registry.URL()}, topics...)...),
	} {
		read, markers := map[string]int{}, 0
		for _, line := range lines {
			d := unmarshal[decoded](t, line)
			if d.Error != "" {
				t.Errorf("%s cannot read %s: %s", name, d.Topic, d.Error)
			}
			read[d.Topic] += d.Values
			markers += d.Markers
		}
		t.Logf("%s reads %v", name, read)
		if name == "Python" && markers == 0 && slices.Contains(topics, schemas.TopicScores) {
			t.Error("Python reads no marker of progress")
		}
		for _, topic := range topics {
			if read[topic] == 0 {
				t.Errorf("%s reads nothing of %s", name, topic)
			}
		}
	}
}
