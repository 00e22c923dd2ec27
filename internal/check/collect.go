package check

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Example is a labelled example and whose it is.
type Example struct {
	CustomerID string
	schemas.LabelledExample
	// Levels are those in Attributes without a number in the vocabulary.
	Levels scoring.Levels
}

// Customer is the newest score of a customer.
type Customer struct {
	ID string
	intake.Standing
	ModelVersion int64
	Probability  float64
	Attributes   scoring.Vector
	Levels       scoring.Levels
}

// Data is what a report is made of, in an order that depends on nothing but the
// data.
type Data struct {
	// Since and Until bound the examples by observed_at: from Since up to before
	// Until.
	Since, Until time.Time
	// Examples are those, and Reference those of the same length of time before,
	// by observed_at and customer.
	Examples, Reference []Example
	// Customers are those whose newest score speaks of a moment from Since up to
	// before Until, by id.
	Customers []Customer
	// Refused counts records that could not be read, by topic and reason.
	Refused map[string]int
}

// Tailer reads topics to their end, and looks up who owns those of scores; it is what
// Collect needs of a *kafka.Cluster.
type Tailer interface {
	intake.ScoresLog
	Tail(ctx context.Context, cfg kafka.TailConfig, handle func(ctx context.Context, records []kafka.Record) error) error
}

// Source is where Collect reads. Cluster and Codec are required.
type Source struct {
	Cluster Tailer
	Codec   *schemas.Codec
	// NoScores leaves out churn.scores, and with it drift and what to expect.
	NoScores bool
	// Logger receives what an operator should know. Default none.
	Logger *slog.Logger
}

// Collect reads the examples observed from since up to before until, those of as
// long before, and the newest score of every customer in that time. It needs some
// 550 bytes of memory for each of them, with 19 features. Model versions should have been read before,
// with the same codec, so that the levels they know have their numbers.
//
// It waits while Kafka or the registry are down, until ctx ends, and passes over
// what cannot be read, which it counts.
func Collect(ctx context.Context, src Source, since, until time.Time) (*Data, error) {
	if !since.Before(until) {
		return nil, fmt.Errorf("nothing is from %s and before %s", since.Format(time.RFC3339), until.Format(time.RFC3339))
	}
	log := src.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &collection{
		since: since.UnixMilli(), until: until.UnixMilli(),
		examples: map[string][]Example{}, customers: map[string]Customer{}, refused: map[string]int{},
	}
	c.before = c.since - (c.until - c.since)
	in := intake.New(intake.Config{Logger: log})
	passOver := in.PassOver(func(topic string, reason schemas.Reason) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refused[fmt.Sprintf("%s: %s", topic, reason)]++
	})
	examples := intake.Examples(src.Codec)
	examples.Poison = passOver
	if err := src.Cluster.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicExamples}, ToEnd: true}, intake.Handle(in, examples, c.example)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", schemas.TopicExamples, err)
	}
	if !src.NoScores {
		scores := intake.Scores(src.Codec, intake.NewOwners(in, src.Cluster, src.Codec))
		scores.Poison = passOver
		if err := src.Cluster.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicScores}, ToEnd: true}, intake.Handle(in, scores, c.score)); err != nil {
			return nil, fmt.Errorf("reading %s: %w", schemas.TopicScores, err)
		}
	}
	// At its end Tail says nothing of a context that ended first.
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return c.data(since, until), nil
}

// collection is what has been read so far.
type collection struct {
	since, until, before int64

	mu        sync.Mutex
	examples  map[string][]Example // of a customer, from before on
	customers map[string]Customer
	refused   map[string]int
}

// example takes a record of churn.examples, which replaces the customer's former.
func (c *collection) example(_ context.Context, r *kafka.Record, m *schemas.CustomerExamples) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.examples, string(r.Key))
	if m == nil {
		return nil
	}
	var kept []Example
	levels := slices.Clone(m.Levels)
	for _, e := range m.Examples {
		if e.ObservedAt < c.before || e.ObservedAt >= c.until {
			continue
		}
		e.Attributes = slices.Clone(e.Attributes)
		kept = append(kept, Example{CustomerID: string(r.Key), LabelledExample: e, Levels: levels})
	}
	if kept != nil {
		c.examples[string(r.Key)] = kept
	}
	return nil
}

// score takes a record of churn.scores.
func (c *collection) score(_ context.Context, r *kafka.Record, s *schemas.ChurnScore) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, known := c.customers[string(r.Key)]
	if s == nil {
		if !known || !was.Outlives(r.Partition, r.Time) {
			delete(c.customers, string(r.Key))
		}
		return nil
	}
	if s.AsOf < c.since || s.AsOf >= c.until {
		return nil
	}
	standing := intake.StandingOf(s)
	if known && !standing.Supersedes(was.Standing) {
		return nil
	}
	c.customers[string(r.Key)] = Customer{ID: string(r.Key), Standing: standing, ModelVersion: s.ModelVersion,
		Probability: s.Probability, Attributes: append(was.Attributes[:0], s.Attributes...), Levels: slices.Clone(s.Levels)}
	return nil
}

func (c *collection) data(since, until time.Time) *Data {
	d := &Data{Since: since.UTC(), Until: until.UTC(), Refused: c.refused}
	for _, list := range c.examples {
		for _, e := range list {
			if e.ObservedAt < c.since {
				d.Reference = append(d.Reference, e)
			} else {
				d.Examples = append(d.Examples, e)
			}
		}
	}
	for _, list := range [][]Example{d.Examples, d.Reference} {
		slices.SortFunc(list, func(a, b Example) int {
			return cmp.Or(cmp.Compare(a.ObservedAt, b.ObservedAt), strings.Compare(a.CustomerID, b.CustomerID))
		})
	}
	for _, customer := range c.customers {
		d.Customers = append(d.Customers, customer)
	}
	slices.SortFunc(d.Customers, func(a, b Customer) int { return strings.Compare(a.ID, b.ID) })
	return d
}
