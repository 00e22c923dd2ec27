package pace

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/metrics"
	"github.com/churnstream/churnstream/schemas"
)

// batch bounds the records of one Produce call.
const batch = 1000

// Producer writes records and returns when they are acknowledged. It keeps
// their order, and may not keep their bytes after it returns.
type Producer interface {
	Produce(ctx context.Context, topic string, records ...kafka.Record) error
}

// Stats counts what was published and acknowledged.
type Stats struct {
	// Events on churn.customer-events.
	Events int64
	// Outcomes on churn.outcomes.
	Outcomes int64
}

// Publisher encodes events and outcomes and publishes them in batches. It is
// for one goroutine, but for Stats.
type Publisher struct {
	producer Producer
	codec    *schemas.Codec

	eventsTotal, outcomesTotal *prometheus.CounterVec
	events, outcomes           atomic.Int64

	event   *schemas.CustomerEvent
	records []kafka.Record
	bytes   []byte
}

// NewPublisher returns a publisher. The codec must be registered before the
// first record. Several publishers may share a registerer; nil means no metrics.
func NewPublisher(producer Producer, codec *schemas.Codec, registerer prometheus.Registerer) *Publisher {
	counter := func(name, help string) *prometheus.CounterVec {
		return metrics.Register(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"source"}))
	}
	return &Publisher{
		producer: producer, codec: codec, event: codec.NewEvent(),
		eventsTotal: counter("churn_producer_events_total",
			"Customer events published and acknowledged, by their source."),
		outcomesTotal: counter("churn_producer_outcomes_total",
			"Outcomes published and acknowledged, by their source."),
	}
}

// Stats returns what was published so far. It is safe for concurrent use.
func (p *Publisher) Stats() Stats {
	return Stats{Events: p.events.Load(), Outcomes: p.outcomes.Load()}
}

// Outcomes publishes outcomes of one source in their order. The error is the
// producer's; the outcomes acknowledged before it are counted.
func (p *Publisher) Outcomes(ctx context.Context, outcomes []schemas.ChurnOutcome) error {
	for len(outcomes) > 0 {
		n := min(len(outcomes), batch)
		p.reset()
		for i := range outcomes[:n] {
			o := &outcomes[i]
			start := len(p.bytes)
			p.bytes = append(p.bytes, o.CustomerID...)
			value := len(p.bytes)
			p.bytes = p.codec.AppendOutcome(p.bytes, o)
			p.add(start, value)
		}
		if err := p.produce(ctx, schemas.TopicOutcomes); err != nil {
			return err
		}
		p.outcomes.Add(int64(n))
		p.outcomesTotal.WithLabelValues(outcomes[0].Source).Add(float64(n))
		outcomes = outcomes[n:]
	}
	return nil
}

func (p *Publisher) reset() {
	p.records, p.bytes = p.records[:0], p.bytes[:0]
}

// addEvent encodes p.event.
func (p *Publisher) addEvent() {
	start := len(p.bytes)
	p.bytes = append(p.bytes, p.event.CustomerID...)
	value := len(p.bytes)
	p.bytes = p.codec.AppendEvent(p.bytes, p.event)
	p.add(start, value)
}

// add makes a record of the encoded key and value. Slices stay valid when
// p.bytes grows: they then hold on to the array it left.
func (p *Publisher) add(key, value int) {
	p.records = append(p.records, kafka.Record{Key: p.bytes[key:value:value], Value: p.bytes[value:len(p.bytes):len(p.bytes)]})
}

// publishEvents publishes the encoded events of a source.
func (p *Publisher) publishEvents(ctx context.Context, source string) error {
	if len(p.records) == 0 {
		return nil
	}
	if err := p.produce(ctx, schemas.TopicEvents); err != nil {
		return err
	}
	p.events.Add(int64(len(p.records)))
	p.eventsTotal.WithLabelValues(source).Add(float64(len(p.records)))
	return nil
}

func (p *Publisher) produce(ctx context.Context, topic string) error {
	if err := p.producer.Produce(ctx, topic, p.records...); err != nil {
		return fmt.Errorf("publishing to %s: %w", topic, err)
	}
	return nil
}
