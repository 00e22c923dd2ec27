package process

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/metrics"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/topics"
)

// health finds out whether what the process depends on answers and whether
// what it runs gets on, and reports it. A role says of itself what only it can
// know.
type health struct {
	p       *Process
	begin   sync.Once
	kafka   chan struct{} // closed when Kafka has answered
	schemas chan struct{} // closed when the schemas are registered

	up      *prometheus.GaugeVec // dependency
	waiting *prometheus.GaugeVec // role

	mu    sync.Mutex
	waits []*roleWaits
	// named are the checks that report what stands still.
	named map[string]bool
}

// roleWaits is what a task waits for.
type roleWaits struct {
	name  string
	waits retry.Waits
}

func newHealth(p *Process) *health {
	h := &health{
		p: p, kafka: make(chan struct{}), schemas: make(chan struct{}), named: map[string]bool{},
		up: metrics.Register(p.Metrics, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_dependency_up",
			Help: "1 while Kafka, or the schema registry, answers as it should; 0 while it does not.",
		}, []string{"dependency"})),
		waiting: metrics.Register(p.Metrics, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "churn_waiting_seconds",
			Help: "How long a role has been waiting for what it waits for longest; 0 when it waits for nothing. /readyz says what it is.",
		}, []string{"role"})),
	}
	h.up.WithLabelValues("kafka")
	h.up.WithLabelValues("registry")
	return h
}

// watched returns a context for a task, whose waits are reported under its name.
func (h *health) watched(ctx context.Context, name string) context.Context {
	r := &roleWaits{name: name}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waits = append(h.waits, r)
	h.waiting.WithLabelValues(name).Set(0)
	return retry.Watch(ctx, &r.waits)
}

// run watches until ctx ends. Kafka is asked from its first answer on, and the
// registry from when it has the schemas: who waits for those at the start says so
// itself.
func (h *health) run(ctx context.Context) {
	h.begin.Do(func() {
		go h.probe(ctx, h.kafka, "kafka", "Kafka at "+h.p.brokers(), func(ctx context.Context) error {
			return h.p.Cluster.Look(ctx, topics.Names()...)
		})
		go h.probe(ctx, h.schemas, "registry", "the schema registry at "+cmp.Or(h.p.cfg.RegistryURL, "its address"), h.p.Codec.Probe)
		go func() {
			for retry.Sleep(ctx, h.p.cfg.ProbeInterval/3) {
				h.report()
			}
		}()
	})
}

func (h *health) probe(ctx context.Context, from <-chan struct{}, name, what string, ask func(context.Context) error) {
	select {
	case <-from:
	case <-ctx.Done():
		return
	}
	ops.Probe{
		Name: name, What: what, Ask: ask, Interval: h.p.cfg.ProbeInterval,
		Report: h.p.Ready.Set, Up: h.up.WithLabelValues(name), Log: h.p.Log,
	}.Run(ctx)
}

// report reports what waits for long and what stands still.
func (h *health) report() {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := map[string]string{}
	for _, r := range h.waits {
		what, since, waits := r.waits.Longest()
		lasted := time.Duration(0)
		if waits {
			lasted = time.Since(since)
		}
		h.waiting.WithLabelValues(r.name).Set(lasted.Seconds())
		if waits && lasted >= h.p.cfg.WaitPatience {
			now[r.name+" waiting"] = fmt.Sprintf("since %s: %s", since.UTC().Format(time.RFC3339), what)
		}
	}
	const most = 5 // of one reader that are named
	counts := map[string]int{}
	for _, s := range h.p.Cluster.Standstills() {
		name := s.Reader + " standstill"
		switch counts[name]++; {
		case counts[name] == 1:
			now[name] = s.String()
		case counts[name] <= most:
			now[name] += "; " + s.String()
		}
	}
	for name, n := range counts {
		if n > most {
			now[name] += fmt.Sprintf("; and %d partitions more", n-most)
		}
	}
	for name := range h.named {
		if _, still := now[name]; !still {
			h.p.Ready.Forget(name)
			delete(h.named, name)
		}
	}
	for name, why := range now {
		if !h.named[name] {
			h.p.Log.Warn("not ready", "check", name, "why", why)
		}
		h.named[name] = true
		h.p.Ready.Set(name, false, why)
	}
}
