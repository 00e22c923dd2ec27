package labeler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

var (
	// errNobody ends a pass for which there are no shards any more.
	errNobody = errors.New("no shards")
	// errGrown means that there are more partitions than those that are read.
	errGrown = errors.New("a topic has more partitions now")
)

// pass reads all scores and outcomes once, for some shards, in the order of the
// records' times.
//
// Records of different partitions are handed over in that order as far as it is
// known: an outcome not before all scores have been read that lay in Kafka when it
// was. What comes out of an outcome does not depend on what was handed over beyond
// that; see join.
type pass struct {
	*reading
	feeds  []*feed
	cancel context.CancelFunc
	done   chan struct{}
	left   atomic.Int64 // records to go; −1 while that is not known

	sources []*source
	counts  map[string]int
	arrived chan struct{} // holds a token when something may have arrived
	chunks  map[*feed]*chunk
	bytes   int
	records int
	now     int64 // time of the records handed over
}

func (p *pass) stop() {
	p.cancel()
	<-p.done
}

// source is one of the inputs, as a pass reads it.
type source struct {
	in       input
	start    int64
	goal     int64 // end of the partition at the start
	arrivals chan *arrival

	records []record
	arrival // the last one, without its records
}

// arrival is what one fetch brought.
type arrival struct {
	records []record // of customers of the shards
	next    int64    // offset after all that was fetched
	end     int64    // of the partition
	// frontier is the time up to which there will be no more, as far as times tell.
	frontier int64
	// drained says that nothing more could be read. An open transaction may end what
	// can be read before the end.
	drained bool
	// asked is when the fetch began, got when it came back.
	asked, got time.Time
	// clock is the time of Config.Now when the fetch began, in milliseconds.
	clock int64
}

// position returns the offset before which everything is handed over.
func (s *source) position() int64 {
	if len(s.records) > 0 {
		return s.records[0].Offset
	}
	return s.next
}

// open finds the inputs and where to begin with each.
func (p *pass) open(ctx context.Context) error {
	p.feeds = slices.DeleteFunc(p.feeds, (*feed).left)
	if len(p.feeds) == 0 {
		return errNobody
	}
	p.sources, p.counts, p.chunks = nil, map[string]int{}, map[*feed]*chunk{}
	p.bytes, p.records = 0, 0
	for _, topic := range inputTopics {
		spans, err := p.l.cfg.Cluster.Spans(ctx, topic)
		if err != nil {
			return fmt.Errorf("looking for partitions of %s: %w", topic, err)
		}
		p.counts[topic] = len(spans)
		for _, span := range spans {
			in := input{topic, span.Partition}
			start := span.End
			for _, f := range p.feeds {
				start = min(start, max(span.Start, f.at[in]))
			}
			s := &source{in: in, start: start, arrivals: make(chan *arrival, 1)}
			s.next, s.end, s.goal, s.frontier = start, span.End, span.End, math.MinInt64
			p.sources = append(p.sources, s)
		}
	}
	slices.SortFunc(p.sources, func(a, b *source) int { return a.in.compare(b.in) })
	p.measure()
	return nil
}

// left reports whether the shard of a feed wants no more.
func (f *feed) left() bool {
	select {
	case <-f.gone:
		return true
	default:
		return false
	}
}

// measure notes how far there is to go.
func (p *pass) measure() {
	left := int64(0)
	for _, s := range p.sources {
		left += max(0, s.end-s.position())
	}
	p.left.Store(left)
}

func (p *pass) run(ctx context.Context) error {
	if err := p.open(ctx); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	p.arrived = make(chan struct{}, 1)
	together := kafka.NewTogether(len(p.sources))
	owners := intake.NewOwners(p.l.intake, p.l.cfg.Cluster, p.l.cfg.Codec)
	shards := map[int]*feed{}
	from := map[*feed]map[input]int64{}
	for _, f := range p.feeds {
		shards[f.shard], from[f] = f, maps.Clone(f.at)
	}
	for _, s := range p.sources {
		p.l.positions.follow(s.in, s.start)
	}
	for _, s := range p.sources {
		group.Go(func() error { return p.fetch(ctx, s, shards, from, owners, together) })
	}
	group.Go(func() error { return p.merge(p.l.positions.watch(ctx)) })
	group.Go(func() error {
		return p.l.cfg.Cluster.Growth(ctx, p.l.topicsInterval, maps.Clone(p.counts), func(topic string, partition int) error {
			return fmt.Errorf("%w: %s has partition %d", errGrown, topic, partition)
		})
	})
	return group.Wait()
}

// fetch reads a source, and keeps of its records those of the shards' customers.
func (p *pass) fetch(ctx context.Context, s *source, shards map[int]*feed, from map[*feed]map[input]int64, owners *intake.Owners, together *kafka.Together) error {
	position := p.l.positions.follow(s.in, s.start)
	ctx = position.Watch(ctx)
	fetcher := p.l.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: s.in.topic, Partition: s.in.partition, Offset: s.start, MaxWait: p.l.pollWait, Position: position, Together: together,
	})
	defer fetcher.Close()
	frontier, now := int64(math.MinInt64), p.l.cfg.Now
	for {
		a := &arrival{asked: time.Now(), clock: now().UnixMilli()}
		before := fetcher.Offset()
		records, err := fetcher.Fetch(ctx)
		if err != nil {
			return err
		}
		a.got, a.next, a.end = time.Now(), fetcher.Offset(), fetcher.HighWatermark()
		if a.next < before {
			return fmt.Errorf("%s/%d ends at offset %d, before what was read of it", s.in.topic, s.in.partition, a.next)
		}
		a.drained = a.end <= a.next || a.next == before
		clock := now().UnixMilli()
		var arena []byte
		for i := range records {
			r := &records[i]
			at := min(r.Time.UnixMilli(), clock) // one that has not come yet says nothing
			frontier = max(frontier, at)
			id := r.Key
			if s.in.topic == schemas.TopicOutcomes {
				id = intake.CustomerID(p.l.cfg.Codec.Keys, r)
			} else if schemas.IsReservedKey(id) {
				if _, err := owners.Admit(ctx, r); err != nil { // who owns the partition
					return err
				}
				continue
			}
			f := shards[kafka.PartitionOf(id, p.l.partitions)]
			if f == nil || r.Offset < from[f][s.in] {
				continue
			}
			if s.in.topic == schemas.TopicScores {
				switch foreign, err := owners.Admit(ctx, r); {
				case err != nil:
					return err
				case foreign:
					p.l.metrics.skipped.WithLabelValues(string(schemas.ReasonForeign)).Inc()
					continue
				}
			}
			a.records = append(a.records, record{Record: own(r, &arena), to: f, at: at})
		}
		a.frontier = frontier
		select {
		case s.arrivals <- a:
		case <-ctx.Done():
			return ctx.Err()
		}
		select {
		case p.arrived <- struct{}{}:
		default:
		}
	}
}

// own returns a record that shares no memory with what was fetched, but an arena.
func own(r *kafka.Record, arena *[]byte) kafka.Record {
	if r.Topic != schemas.TopicScores || r.Value == nil || r.Header(schemas.ValueSchemaHeader) != nil || r.Unreadable != nil {
		return r.Clone()
	}
	// Of a score nobody asks for the headers.
	c := *r
	keep := func(b []byte) []byte {
		if cap(*arena)-len(*arena) < len(b) {
			*arena = make([]byte, 0, max(64<<10, len(b)))
		}
		start := len(*arena)
		*arena = append(*arena, b...)
		return (*arena)[start:len(*arena):len(*arena)]
	}
	c.Key, c.Value, c.Headers = keep(r.Key), keep(r.Value), nil
	return c
}

// merge hands the records over in the order of their times.
func (p *pass) merge(ctx context.Context) error {
	ticker := time.NewTicker(idleInterval)
	defer ticker.Stop()
	idle := false
	for {
		p.refill()
		for p.emit() {
			if p.records >= chunkRecords || p.bytes >= chunkBytes {
				if err := p.send(ctx, false); err != nil {
					return err
				}
			}
			p.refill()
		}
		if p.records > 0 || idle {
			if err := p.send(ctx, idle); err != nil {
				return err
			}
			idle = false
			continue
		}
		end := func() {}
		if from, until := p.first(); from != nil && until != nil {
			end = retry.Begin(ctx, fmt.Sprintf("records of %s/%d, some of which may come before those of %s/%d",
				until.in.topic, until.in.partition, from.in.topic, from.in.partition))
		}
		select {
		case <-p.arrived:
		case <-ticker.C:
			idle = true
		case <-ctx.Done():
			end()
			return ctx.Err()
		}
		end()
	}
}

// first returns the source of the first record that there is, and the source of which
// it waits for more; nil where there is none.
func (p *pass) first() (from, until *source) {
	for _, s := range p.sources {
		if len(s.records) > 0 && (from == nil || s.records[0].at < from.records[0].at) {
			from = s
		}
	}
	if from == nil {
		return nil, nil
	}
	for _, s := range p.sources {
		if s != from && len(s.records) == 0 && !s.done(from) && s.frontier <= from.records[0].at {
			return from, s
		}
	}
	return from, nil
}

// refill takes what has arrived from the sources that have nothing left.
func (p *pass) refill() {
	for _, s := range p.sources {
		for len(s.records) == 0 {
			select {
			case a := <-s.arrivals:
				s.records, s.arrival = a.records, *a
				s.arrival.records = nil
				continue
			default:
			}
			break
		}
	}
}

// emit moves records of one source to the shards' chunks, as many as come before
// those of the others for certain. It reports false if there are none.
func (p *pass) emit() bool {
	from, waits := p.first()
	if from == nil || waits != nil {
		return false
	}
	// until is the time before which records come first.
	until, before := int64(math.MaxInt64), true
	for _, s := range p.sources {
		switch {
		case s == from:
			before = false
		case len(s.records) > 0 && before:
			until = min(until, s.records[0].at)
		case len(s.records) > 0:
			until = min(until, s.records[0].at+1)
		case !s.done(from):
			until = min(until, s.frontier)
		}
	}
	if from.records[0].at >= until {
		return false
	}
	n := 0
	for n < len(from.records) && from.records[n].at < until && p.records < chunkRecords && p.bytes < chunkBytes {
		r := &from.records[n]
		c := p.chunks[r.to]
		if c == nil {
			c = &chunk{}
			p.chunks[r.to] = c
		}
		c.records = append(c.records, *r)
		p.records++
		p.bytes += len(r.Value) + len(r.Key) + recordOverhead
		p.now = max(p.now, r.at)
		n++
	}
	from.records = from.records[n:]
	return true
}

// done reports whether a source without records will bring none that come before the
// next of another one.
func (s *source) done(next *source) bool {
	if next.in.topic == schemas.TopicOutcomes && s.in.topic == schemas.TopicScores {
		// Whatever was written before the outcome was there when it had been read.
		return s.drained && s.asked.After(next.got)
	}
	return s.drained
}

// send hands chunks over: to the shards that have records, and now and then to the
// others.
func (p *pass) send(ctx context.Context, idle bool) error {
	next := map[input]int64{}
	drained, caughtUp := true, true
	oldest := int64(math.MaxInt64)
	for _, s := range p.sources {
		next[s.in] = s.position()
		drained = drained && s.drained && len(s.records) == 0
		caughtUp = caughtUp && s.position() >= s.goal
		oldest = min(oldest, s.clock)
	}
	if drained && idle {
		// Nothing older is to come than what is in flight.
		p.now = max(p.now, oldest-inFlight.Milliseconds())
	}
	p.measure()
	wait := retry.Begin(ctx, "the shards take what was read")
	defer wait()
	for i := 0; i < len(p.feeds); i++ {
		f := p.feeds[i]
		c := p.chunks[f]
		if c == nil {
			if now := time.Now(); now.Sub(f.sent) < idleInterval {
				continue
			}
			c = &chunk{}
		}
		c.next, c.time, c.caughtUp = next, p.now, caughtUp
		select {
		case f.chunks <- c:
			f.sent = time.Now()
			maps.Copy(f.at, next)
		case <-f.gone:
			p.feeds = slices.Delete(p.feeds, i, i+1)
			i--
			if len(p.feeds) == 0 {
				return errNobody
			}
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	clear(p.chunks)
	p.records, p.bytes = 0, 0
	return nil
}
