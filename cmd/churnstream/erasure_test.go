package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/churnstream/churnstream/consumers/labeler"
	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/trainer"
)

const erasureToken = "for the erasure test"

// everything is all roles in this process, on a broker that outlives them.
type everything struct {
	url  string
	stop func()
}

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func startEverything(t *testing.T, c *connection, database string) *everything {
	t.Helper()
	log := &lines{}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(erasureToken), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &listener{HTTP: "127.0.0.1:0", HTTPTokenFile: token}
	p, err := c.process(l, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range roles {
		config := d.Config()
		switch cfg := config.(type) {
		case *labeler.Config:
			cfg.Horizon, cfg.ScoreInterval, cfg.Grace = 30*time.Second, 0, time.Second
		case *trainer.Config:
			cfg.MinInterval, cfg.MaxExamples = time.Second, 10_000
		case *sink.StoresConfig:
			cfg.SQLite = database
		}
		if _, err := p.Add(d, config); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx, p) }()
	e := &everything{stop: sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log:\n%s", log)
		}
	})}
	t.Cleanup(e.stop)
	address := regexp.MustCompile(`msg=listening url=(\S+)/ `)
	until(t, "the listener", func() bool { return address.FindStringSubmatch(log.String()) != nil })
	e.url = address.FindStringSubmatch(log.String())[1]
	return e
}

func (e *everything) metric(t *testing.T, name string) float64 {
	return metric(get(t, e.url+"/metrics"), name)
}

// customer returns what REST says of a customer; nil if it knows none.
func (e *everything) customer(t *testing.T, id string) (c *shownCustomer) {
	t.Helper()
	resp, err := http.Get(e.url + "/v1/customers/" + url.PathEscape(id))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(&c); err != nil {
		t.Fatal(err)
	}
	return c
}

type shownCustomer struct {
	Previous *float64 `json:"previous_probability"`
	Data     map[string]any
	History  []struct{ Probability float64 }
}

func (e *everything) delete(t *testing.T, id, token string) (status int, body string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodDelete, e.url+"/v1/customers/"+url.PathEscape(id), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(answer)
}

// company is what is outside: who produces events and outcomes.
type company struct {
	t        *testing.T
	cluster  *kafka.Cluster
	codec    *schemas.Codec
	producer *kafka.Producer
}

func (c *company) write(topic string, records ...kafka.Record) {
	c.t.Helper()
	if err := c.producer.Produce(c.t.Context(), topic, records...); err != nil {
		c.t.Fatal(err)
	}
}

func (c *company) event(id string, at time.Time, changes scoring.Vector) {
	c.t.Helper()
	e := c.codec.NewEvent()
	e.CustomerID, e.EventID, e.Source = []byte(id), []byte(uuid.NewString()), []byte("test")
	e.OccurredAt, e.Changes = at.UnixMilli(), changes
	c.write(schemas.TopicEvents, kafka.Record{Key: e.CustomerID, Value: c.codec.AppendEvent(nil, e)})
}

func (c *company) outcomes(list ...schemas.ChurnOutcome) {
	c.t.Helper()
	var records []kafka.Record
	for i := range list {
		records = append(records, kafka.Record{Key: []byte(list[i].CustomerID), Value: c.codec.AppendOutcome(nil, &list[i])})
	}
	c.write(schemas.TopicOutcomes, records...)
}

// last returns the last record of a customer in a topic.
func (c *company) last(topic, id string) (last *kafka.Record) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	var mu sync.Mutex
	err := c.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{topic}, OnCaughtUp: cancel},
		func(_ context.Context, records []kafka.Record) error {
			mu.Lock()
			defer mu.Unlock()
			for _, r := range records {
				if string(r.Key) == id {
					last = &kafka.Record{Value: bytes.Clone(r.Value)}
					for _, h := range r.Headers {
						last.Headers = append(last.Headers, kafka.Header{Key: strings.Clone(h.Key), Value: bytes.Clone(h.Value)})
					}
				}
			}
			return nil
		})
	if err != nil && c.t.Context().Err() == nil && ctx.Err() == nil {
		c.t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return last
}

// TestErasure follows one customer through every role, erases the customer
// over REST, and looks for what is left: nothing, neither now nor after all
// roles have started again and read the topics anew.
func TestErasure(t *testing.T) {
	t.Parallel() // most of it is waiting
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	registry, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	conn := &connection{Kafka: kafka.Config{Brokers: []string{broker.Addr()}}, Registry: registry.URL()}
	client, err := conn.process(&listener{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Cluster.Close)
	if err := client.Cluster.EnsureTopics(t.Context(), topics.EmbeddedConfigs(3)...); err != nil {
		t.Fatal(err)
	}
	if err := client.Codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	outside := &company{t, client.Cluster, client.Codec, client.Cluster.NewProducer(kafka.ProducerConfig{})}
	examples, err := replay.Load(client.Codec.Set())
	if err != nil {
		t.Fatal(err)
	}

	const history = 600
	victim, other := "to be/forgotten", "to be kept"
	attributes := examples[history].Attributes
	start := time.Now().Add(-time.Hour)
	past := schemas.ChurnOutcome{CustomerID: victim, ObservedAt: start.UnixMilli(), Attributes: attributes, Source: "test"}
	database := filepath.Join(t.TempDir(), "churn.db")
	rows := func(query string, args ...any) (n int) {
		db, err := sql.Open("sqlite", database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if err := db.QueryRow(query, args...).Scan(&n); err != nil {
			return -1 // the tables may not be there yet
		}
		return n
	}
	stored := func(id string) string {
		return fmt.Sprintf("%d scores, %d outcomes, %d examples, %d latest",
			rows("SELECT count(*) FROM churn_scores WHERE customer_id = ?", id),
			rows("SELECT count(*) FROM churn_outcomes WHERE customer_id = ?", id),
			rows("SELECT count(*) FROM training_set WHERE customer_id = ?", id),
			rows("SELECT count(*) FROM churn_scores_latest WHERE customer_id = ?", id))
	}

	all := startEverything(t, conn, database)
	outside.outcomes(append(examples[:history:history], past)...)
	until(t, "a champion", func() bool { return all.metric(t, "churn_models_champion_version") > 0 })
	outside.event(victim, start.Add(time.Minute), attributes)
	outside.event(other, start.Add(time.Minute), attributes)
	until(t, "both customers over REST", func() bool { return all.customer(t, victim) != nil && all.customer(t, other) != nil })
	outcome := func(id string, after time.Duration) schemas.ChurnOutcome {
		return schemas.ChurnOutcome{CustomerID: id, Churned: true, ObservedAt: start.Add(after).UnixMilli(), Source: "test"}
	}
	outside.outcomes(outcome(victim, 2*time.Minute), outcome(other, 2*time.Minute))

	// Everyone knows the customer.
	until(t, "the examples", func() bool { return all.metric(t, "churn_trainer_examples") == history+3 })
	until(t, "the monitor's examples", func() bool { return all.metric(t, "churn_outcomes_total") == 2 })
	until(t, "the scorer's state", func() bool { return all.metric(t, "churn_scorer_customers") == 2 })
	until(t, "the store", func() bool { return stored(victim) == "1 scores, 2 outcomes, 2 examples, 1 latest" })
	for _, topic := range []string{schemas.TopicScores, schemas.TopicExamples} {
		if r := outside.last(topic, victim); r == nil || r.Value == nil {
			t.Fatalf("%s has nothing of the customer", topic)
		}
	}

	if status, body := all.delete(t, victim, "a guess"); status != http.StatusUnauthorized {
		t.Fatalf("with a wrong token: status %d: %s", status, body)
	}
	if r := outside.last(schemas.TopicScores, victim); r.Value == nil {
		t.Fatal("a wrong token erased the customer")
	}
	status, body := all.delete(t, victim, erasureToken)
	if status != http.StatusAccepted {
		t.Fatalf("status %d: %s", status, body)
	}

	// Nobody does.
	until(t, "serving to forget", func() bool { return all.customer(t, victim) == nil })
	until(t, "the scorer to forget", func() bool { return all.metric(t, "churn_scorer_customers") == 1 })
	until(t, "the trainer to forget", func() bool { return all.metric(t, "churn_trainer_examples") == history+1 })
	until(t, "the store to forget", func() bool { return stored(victim) == "0 scores, 0 outcomes, 0 examples, 0 latest" })
	last := outside.last(schemas.TopicScores, victim)
	if last == nil || last.Value != nil {
		t.Error("the topic of scores has no tombstone")
	} else if position := fmt.Sprintf("%s", last.Headers); !strings.Contains(position, "source-offset") {
		t.Errorf("the tombstone does not say where it comes from: %s", position)
	}
	if last := outside.last(schemas.TopicExamples, victim); last == nil || last.Value != nil {
		t.Error("the topic of examples has no tombstone")
	}
	// An outcome from when the customer had a score finds none.
	outside.outcomes(outcome(victim, 3*time.Minute), outcome(other, 3*time.Minute))
	until(t, "the monitor to have forgotten", func() bool {
		return all.metric(t, "churn_outcomes_total") == 3 && all.metric(t, "churn_model_window_outcomes") == 2
	})
	// The other customer is as before.
	if all.customer(t, other) == nil {
		t.Error("the other customer is gone")
	}
	until(t, "the other customer's outcome", func() bool { return stored(other) == "1 scores, 2 outcomes, 2 examples, 1 latest" })
	until(t, "the labeler to have forgotten", func() bool { return all.metric(t, "churn_labeler_unmatched_total") == 1 })

	// The next event is a new customer's.
	tenure, _ := client.Codec.Set().Spec().Index("tenure")
	changes := scoring.NewVector(client.Codec.Set().Spec().Len())
	changes[tenure] = 1
	outside.event(victim, start.Add(4*time.Minute), changes)
	fresh := func(e *everything) {
		t.Helper()
		until(t, "the new customer", func() bool { return e.customer(t, victim) != nil })
		c := e.customer(t, victim)
		if c.Previous != nil || len(c.History) != 1 {
			t.Errorf("the new customer has a past: previous %v, %d scores", c.Previous, len(c.History))
		}
		for name, value := range c.Data {
			if (value != nil) != (name == "tenure") {
				t.Errorf("the new customer has %s = %v", name, value)
			}
		}
	}
	fresh(all)

	// All of it holds for those who read the topics from the start.
	all.stop()
	again := startEverything(t, conn, database)
	until(t, "everyone to be ready", func() bool {
		resp, err := http.Get(again.url + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	fresh(again)
	if n := again.metric(t, "churn_trainer_examples"); n != history+2 {
		t.Errorf("%v examples after a restart, not %d", n, history+2)
	}
	until(t, "the monitor's examples after a restart", func() bool { return again.metric(t, "churn_outcomes_total") == 2 })
	until(t, "the scorer's state after a restart", func() bool { return again.metric(t, "churn_scorer_customers") == 2 })
	until(t, "the store after a restart", func() bool { return stored(victim) == "1 scores, 1 outcomes, 0 examples, 1 latest" })

	// Examples begin anew, with what is known of the new customer.
	outside.outcomes(outcome(victim, 5*time.Minute))
	until(t, "the new customer's example", func() bool { return stored(victim) == "1 scores, 2 outcomes, 1 examples, 1 latest" })
	if n := rows("SELECT count(*) FROM training_set WHERE customer_id = ? AND tenure = 1 AND Contract IS NULL", victim); n != 1 {
		t.Error("the new customer's example is not of what is known now")
	}
}
