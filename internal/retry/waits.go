package retry

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Waits are the waits under way below a context: of every Loop that fails and
// tries again, and of whatever else said so with Begin. Its zero value has none.
// It is safe for concurrent use.
type Waits struct {
	mu   sync.Mutex
	list []*wait // the oldest first
}

// wait is one of them.
type wait struct {
	what  string
	since time.Time
	last  atomic.Pointer[error]
}

func (w *wait) String() string {
	if err := w.last.Load(); err != nil {
		return w.what + ": " + (*err).Error()
	}
	return w.what
}

// Longest returns what has been waited for longest, with the last error if it is
// one that is tried again, and since when. It reports false when nothing waits.
func (w *Waits) Longest() (what string, since time.Time, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return "", time.Time{}, false
	}
	return w.list[0].String(), w.list[0].since, true
}

// watchers is the value of a context: where waits are noted, innermost first.
type watchers struct {
	waits *Waits
	outer *watchers
}

type watchersKey struct{}

func watchersOf(ctx context.Context) *watchers {
	w, _ := ctx.Value(watchersKey{}).(*watchers)
	return w
}

// Watch returns a context below which waits are noted in w, and where they are
// noted below ctx.
func Watch(ctx context.Context, w *Waits) context.Context {
	return context.WithValue(ctx, watchersKey{}, &watchers{w, watchersOf(ctx)})
}

// Begin notes below ctx that something waits, and for what; end notes that it
// goes on. A Loop does so by itself.
func Begin(ctx context.Context, what string) (end func()) {
	_, end = begin(ctx, what)
	return end
}

func begin(ctx context.Context, what string) (w *wait, end func()) {
	at := watchersOf(ctx)
	w = &wait{what: what, since: time.Now()}
	for o := at; o != nil; o = o.outer {
		o.waits.mu.Lock()
		o.waits.list = append(o.waits.list, w)
		o.waits.mu.Unlock()
	}
	return w, func() {
		for o := at; o != nil; o = o.outer {
			o.waits.mu.Lock()
			if i := slices.Index(o.waits.list, w); i >= 0 {
				o.waits.list = slices.Delete(o.waits.list, i, i+1)
			}
			o.waits.mu.Unlock()
		}
	}
}
