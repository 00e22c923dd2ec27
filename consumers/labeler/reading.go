package labeler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
)

const (
	// inFlight is how long after its time a record may take to be readable.
	inFlight = time.Second
	// chunkRecords and chunkBytes bound what a shard is given at a time.
	chunkRecords = 4096
	chunkBytes   = 4 << 20
	// idleInterval is how often shards without records learn how far the topics
	// are read.
	idleInterval = time.Second
)

// errMoved means that the topics are to be read anew for a shard.
var errMoved = errors.New("the topics are not those that were read any more")

// record is a record that was handed to a shard.
type record struct {
	kafka.Record
	to *feed
	at int64 // its time in milliseconds, or now if that has not come yet
}

func (r *record) input() input { return input{r.Topic, r.Partition} }

// chunk is what a shard is given of the topics: the records of its customers in the
// order of their times, and how far that is.
type chunk struct {
	records []record
	// next are the offsets up to which there are no others of its customers.
	next map[input]int64
	// time is that of the last record, of whatever customer.
	time int64
	// caughtUp says that what there was at the start has been read.
	caughtUp bool
}

// feed is where a shard gets its records.
type feed struct {
	shard  int
	chunks chan *chunk
	broken chan struct{} // closed when they are to be read anew
	gone   chan struct{} // closed when the shard wants no more
	once   sync.Once     // for broken

	// What was handed over. The reading that has the feed owns it.
	at   map[input]int64
	sent time.Time
}

// fail has the shard ask for another feed.
func (f *feed) fail() { f.once.Do(func() { close(f.broken) }) }

// failed reports whether it is to.
func (f *feed) failed() bool {
	select {
	case <-f.broken:
		return true
	default:
		return false
	}
}

// reading reads the topics for the shards of a process: once for those of which the
// positions are about the same. A shard that comes with a longer way to go is read
// for by itself until it is about where the others are.
type reading struct {
	l   *Labeler
	ctx context.Context

	mu     sync.Mutex
	passes []*pass
	group  sync.WaitGroup
}

func newReading(l *Labeler, ctx context.Context) *reading {
	r := &reading{l: l, ctx: ctx}
	r.group.Go(r.manage)
	return r
}

func (r *reading) wait() { r.group.Wait() }

// add has the topics read for a shard from some offsets on, or the first there are.
func (r *reading) add(shard int, from map[input]int64) *feed {
	f := &feed{
		shard: shard, at: maps.Clone(from),
		chunks: make(chan *chunk, 1), broken: make(chan struct{}), gone: make(chan struct{}),
	}
	r.l.positions.set(shard, from)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passes = append(r.passes, r.begin([]*feed{f}))
	return f
}

// remove ends that.
func (r *reading) remove(f *feed) { close(f.gone) }

// manage brings passes together that are about as far.
func (r *reading) manage() {
	ticker := time.NewTicker(idleInterval / 4)
	defer ticker.Stop()
	for {
		select {
		case <-r.ctx.Done():
			r.mu.Lock()
			passes := r.passes
			r.passes = nil
			r.mu.Unlock()
			for _, p := range passes {
				p.stop()
			}
			return
		case <-ticker.C:
		}
		r.mu.Lock()
		r.passes = slices.DeleteFunc(r.passes, func(p *pass) bool {
			select {
			case <-p.done:
				return true
			default:
				return false
			}
		})
		a, b := r.alike()
		r.mu.Unlock()
		if a == nil {
			continue
		}
		a.stop()
		b.stop()
		r.mu.Lock()
		r.passes = slices.DeleteFunc(r.passes, func(p *pass) bool { return p == a || p == b })
		if r.ctx.Err() == nil {
			// One of the two may have failed before it was stopped.
			r.passes = append(r.passes, r.begin(slices.DeleteFunc(slices.Concat(a.feeds, b.feeds), (*feed).failed)))
		}
		r.mu.Unlock()
	}
}

// alike returns two passes that have about the same way to go. The caller holds mu.
func (r *reading) alike() (a, b *pass) {
	const near = 10_000 // records
	for i, a := range r.passes {
		for _, b := range r.passes[i+1:] {
			x, y := a.left.Load(), b.left.Load()
			if x >= 0 && y >= 0 && max(x, y) <= 2*min(x, y)+near {
				return a, b
			}
		}
	}
	return nil, nil
}

// begin begins a pass for feeds. The caller holds mu.
func (r *reading) begin(feeds []*feed) *pass {
	ctx, cancel := context.WithCancel(r.ctx)
	p := &pass{reading: r, feeds: feeds, cancel: cancel, done: make(chan struct{})}
	p.left.Store(-1)
	r.group.Go(func() {
		defer close(p.done)
		defer cancel()
		for ctx.Err() == nil {
			err := p.run(ctx)
			if ctx.Err() != nil || errors.Is(err, errNobody) {
				return
			}
			r.l.log.Warn("reading the topics anew", "reason", err)
			if !errors.Is(err, errGrown) {
				for _, f := range p.feeds {
					f.fail()
				}
				return
			}
		}
	})
	return p
}
