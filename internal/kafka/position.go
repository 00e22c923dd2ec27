package kafka

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/retry"
)

// Position is how far a reader has come in a partition. The cluster compares
// it with what the broker says of the partition, whether or not the reader gets
// records; see Cluster.Look. It is safe for concurrent use. The methods of a nil
// Position do nothing.
type Position struct {
	c      *Cluster
	reader string
	of     partitionOf
	waits  retry.Waits

	offset  atomic.Int64 // next to be dealt with; −1 for the first there is
	fetched atomic.Int64 // next to be fetched; −1 before the first fetch
	known   atomic.Bool  // offset is no estimate
	blocked atomic.Bool  // by an open transaction

	lag, stuck, expiring prometheus.Gauge
	lost                 prometheus.Counter
	shown                prometheus.Gauge

	mu      sync.Mutex
	closed  bool
	counted int64     // up to which what was lost is counted; −1 at first
	looked  time.Time // when the broker was last asked
	seen    int64     // offset at the last look
	since   time.Time // since when offset is that, or nothing was left to read
	records int64     // lag at the last look
}

// Follow has the cluster look at a partition for a reader, whose name stands in
// metrics and reports. Until the first Advance the reader's position is taken to
// be estimate, −1 for the first record there is. The caller closes it.
func (c *Cluster) Follow(reader, topic string, partition int, estimate int64) *Position {
	labels := []string{reader, topic, strconv.Itoa(partition)}
	p := &Position{
		c: c, reader: reader, of: partitionOf{topic, partition}, counted: -1,
		lag:      c.metrics.lag.WithLabelValues(labels...),
		stuck:    c.metrics.stuck.WithLabelValues(labels...),
		expiring: c.metrics.expiring.WithLabelValues(labels...),
		lost:     c.metrics.lost.WithLabelValues(labels...),
	}
	p.offset.Store(max(estimate, -1))
	p.fetched.Store(-1)
	c.positionsMu.Lock()
	defer c.positionsMu.Unlock()
	c.positions[p] = struct{}{}
	return p
}

// Show has a gauge of the reader's own show the lag too.
func (p *Position) Show(lag prometheus.Gauge) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = lag
	if !p.looked.IsZero() {
		lag.Set(float64(p.records))
	}
}

// Advance notes the offset of the record to be dealt with next; −1 is that of
// the first record there is. From the first call on, records that leave the log
// before they are fetched are counted as lost.
func (p *Position) Advance(offset int64) {
	if p == nil {
		return
	}
	p.offset.Store(offset)
	p.known.Store(true)
}

// Watch returns a context below which waits count as the reason for which the
// position does not move.
func (p *Position) Watch(ctx context.Context) context.Context {
	if p == nil {
		return ctx
	}
	return retry.Watch(ctx, &p.waits)
}

// Close ends what Follow began, and takes the position out of the metrics.
func (p *Position) Close() {
	if p == nil {
		return
	}
	p.c.positionsMu.Lock()
	delete(p.c.positions, p)
	p.c.positionsMu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	for _, vec := range []*prometheus.GaugeVec{p.c.metrics.lag, p.c.metrics.stuck, p.c.metrics.expiring} {
		vec.DeleteLabelValues(p.reader, p.of.topic, strconv.Itoa(p.of.number))
	}
}

// fetch notes that a fetcher goes on from offset.
func (p *Position) fetch(offset int64) {
	if p != nil {
		p.fetched.Store(offset)
	}
}

// starts notes that the log starts at an offset. What lay before it and was not
// fetched is lost.
func (p *Position) starts(first int64) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.known.Load() {
		return
	}
	at := max(p.offset.Load(), p.fetched.Load(), p.counted)
	if at >= 0 && first > at {
		p.lost.Add(float64(first - at))
		p.c.log.Error("records left the log before they were read", "reader", p.reader, "topic", p.of.topic, "partition", p.of.number,
			"first_lost", at, "log_starts_at", first, "records", first-at)
	}
	p.counted = max(p.counted, first)
	// "The first there is" means this one from now on.
	p.offset.CompareAndSwap(-1, first)
}

// outage is for how long at least no look can have succeeded for the time before
// not to count as standing still.
const outage = 15 * time.Second

// look takes in where the partition starts and ends.
func (p *Position) look(first, end int64, now time.Time) {
	p.starts(first)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	offset := p.offset.Load()
	p.records = max(0, end-max(offset, first))
	// While the broker did not answer, nobody could move on.
	silent := now.Sub(p.looked) > max(p.c.cfg.StuckAfter, outage)
	p.looked = now
	if silent || offset != p.seen || p.records == 0 {
		p.seen, p.since = offset, now
	}
	p.lag.Set(float64(p.records))
	if p.shown != nil {
		p.shown.Set(float64(p.records))
	}
	p.stuck.Set(now.Sub(p.since).Seconds())
}

// behind returns the lag at the last look.
func (p *Position) behind() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.records
}

// still reports whether the reader has not moved on for a while though there
// are records for it.
func (p *Position) still(after time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.looked.IsZero() && p.records > 0 && time.Since(p.since) >= after
}

// Standstill is a partition in which a reader has records to read and has not
// moved on for longer than Config.StuckAfter.
type Standstill struct {
	Reader, Topic string
	Partition     int
	// Offset is that of the record to be dealt with next, Lag how many there
	// are from there on.
	Offset, Lag int64
	Since       time.Time
	// Why says what the reader waits for, "" if it does not say.
	Why string
}

// String returns it in words.
func (s Standstill) String() string {
	text := fmt.Sprintf("%s/%d stands at offset %d since %s, %d records to go", s.Topic, s.Partition, s.Offset, s.Since.UTC().Format(time.RFC3339), s.Lag)
	if s.Why != "" {
		text += ": " + s.Why
	}
	return text
}

// Standstills returns what stood still at the last look, by reader, topic and
// partition.
func (c *Cluster) Standstills() []Standstill {
	var stuck []Standstill
	for _, p := range c.followed() {
		still := p.still(c.cfg.StuckAfter)
		p.mu.Lock()
		s := Standstill{
			Reader: p.reader, Topic: p.of.topic, Partition: p.of.number,
			Offset: p.seen, Lag: p.records, Since: p.since,
		}
		p.mu.Unlock()
		if !still {
			continue
		}
		var waits bool
		if s.Why, _, waits = p.waits.Longest(); !waits && p.blocked.Load() {
			s.Why = "a producer has not ended the transaction that the next records belong to"
		}
		stuck = append(stuck, s)
	}
	slices.SortFunc(stuck, func(a, b Standstill) int {
		return cmp.Or(strings.Compare(a.Reader, b.Reader), strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return stuck
}

func (c *Cluster) followed() []*Position {
	c.positionsMu.Lock()
	defer c.positionsMu.Unlock()
	return slices.Collect(maps.Keys(c.positions))
}
