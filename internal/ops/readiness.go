package ops

import (
	"maps"
	"sync"
)

// Readiness collects what the parts of a process say about being able to
// work. It is safe for concurrent use.
type Readiness struct {
	mu     sync.Mutex
	checks map[string]Check
}

// Check is what one part says of itself.
type Check struct {
	Ready bool `json:"ready"`
	// Why says what a part that is not ready waits for.
	Why string `json:"why,omitempty"`
}

// NewReadiness returns a Readiness without parts, which is ready.
func NewReadiness() *Readiness { return &Readiness{checks: map[string]Check{}} }

// Set notes whether the part called name is ready, and if not, why. A part
// counts from its first call on, so a part that takes time to become ready
// says so before it starts.
func (r *Readiness) Set(name string, ready bool, why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks[name] = Check{Ready: ready, Why: why}
}

// Forget takes a part out that has nothing more to say.
func (r *Readiness) Forget(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.checks, name)
}

// Ready reports whether all parts are ready, and what each said last. The map
// is the caller's own.
func (r *Readiness) Ready() (bool, map[string]Check) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ready := true
	for _, c := range r.checks {
		ready = ready && c.Ready
	}
	return ready, maps.Clone(r.checks)
}
