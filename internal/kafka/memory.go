package kafka

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/churnstream/churnstream/internal/retry"
)

// recordBytes is what a record takes in memory besides its bytes.
const recordBytes = int(unsafe.Sizeof(Record{}))

// memory bounds what the large batches of a process are together, however many
// partitions they come from. A batch is large when it is more, in memory, than a
// fetcher keeps for itself; all others take nothing and never wait.
//
// What a fetcher needs it takes at once, before it allocates, and gives back at
// the next Fetch or by Close. So nobody holds a part and waits for the rest, and
// the one who has waited longest goes on as soon as there is room: there always
// is for one. A reader that waits for one fetcher while it still has records of
// another takes for both at once; see Together.
type memory struct {
	limit int64
	room  *semaphore.Weighted
	// slots holds a token per decompression under way: a decompressor's own
	// memory can be a few times that of ordinary batches.
	slots chan struct{}
	// arenas are those that were given back, until the next garbage
	// collection: without them there were as much garbage as there is room.
	arenas sync.Pool // *[]byte

	used, waiting prometheus.Gauge
}

func newMemory(limit int64, used, waiting prometheus.Gauge) *memory {
	return &memory{
		limit: limit, room: semaphore.NewWeighted(limit),
		slots: make(chan struct{}, runtime.GOMAXPROCS(0)),
		used:  used, waiting: waiting,
	}
}

// take waits until there is room for n bytes; at most all there is are taken.
func (m *memory) take(ctx context.Context, n int64) (taken int64, err error) {
	n = min(n, m.limit)
	if !m.room.TryAcquire(n) {
		m.waiting.Inc()
		end := retry.Begin(ctx, fmt.Sprintf("memory for a large batch: %d bytes of the %d that all partitions have together", n, m.limit))
		err := m.room.Acquire(ctx, n)
		end()
		m.waiting.Dec()
		if err != nil {
			return 0, err
		}
	}
	m.used.Add(float64(n))
	return n, nil
}

// arena returns memory for n bytes.
func (m *memory) arena(n int) []byte {
	if a, _ := m.arenas.Get().(*[]byte); a != nil && cap(*a) >= n {
		return (*a)[:0]
	}
	return make([]byte, 0, n)
}

func (m *memory) give(n int64) {
	if n > 0 {
		m.used.Sub(float64(n))
		m.room.Release(n)
	}
}

// Together is for a reader that waits for one fetcher while it still has records
// of another: its fetchers take memory for large batches once for all of them,
// so that they never wait for each other. It is safe for concurrent use.
type Together struct {
	fetchers int

	mu    sync.Mutex
	held  int64
	users int // fetchers with a large batch
}

// NewTogether returns what so many fetchers have in common.
func NewTogether(fetchers int) *Together { return &Together{fetchers: fetchers} }

// take takes what all fetchers may need, unless that is taken.
func (t *Together) take(ctx context.Context, m *memory, each int64) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users == 0 {
		var err error
		if t.held, err = m.take(ctx, each*int64(t.fetchers)); err != nil {
			return err
		}
	}
	t.users++
	return nil
}

func (t *Together) give(m *memory) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.users--; t.users == 0 {
		m.give(t.held)
		t.held = 0
	}
}

// hold takes memory for a large batch.
func (f *Fetcher) hold(ctx context.Context, n int) (err error) {
	f.letGo()
	if f.cfg.Together != nil {
		if err = f.cfg.Together.take(ctx, f.c.memory, 2*int64(f.c.cfg.LargestBatch)); err == nil {
			f.held = -1
		}
		return err
	}
	f.held, err = f.c.memory.take(ctx, int64(n))
	return err
}

// letGo gives back what hold has taken.
func (f *Fetcher) letGo() {
	if f.held != 0 && f.decoder.arena != nil {
		arena := f.decoder.arena
		f.decoder.arena = nil
		f.c.memory.arenas.Put(&arena)
	}
	if f.held < 0 {
		f.cfg.Together.give(f.c.memory)
	} else {
		f.c.memory.give(f.held)
	}
	f.held = 0
}

// Close gives back the memory of the records that were fetched last, which are
// not valid any more. A Fetcher that was closed can be used again.
func (f *Fetcher) Close() {
	clear(f.records)
	f.records = f.records[:0]
	f.letGo()
	f.decoder.reset()
}
