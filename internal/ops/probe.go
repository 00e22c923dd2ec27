package ops

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/retry"
)

// DefaultProbeInterval is that of Probe. One that is frozen from now on is
// reported after 10 s.
const DefaultProbeInterval = 3 * time.Second

// Probe asks whether something that a process depends on answers, again and
// again, whether or not there is work for it: what nobody asks fails unseen.
// Ask and Report are required.
type Probe struct {
	// Name is that of the reports, What what is asked, in words.
	Name, What string
	// Ask asks once. It returns soon after ctx has ended.
	Ask func(ctx context.Context) error
	// Report takes a report at the first answer, and whenever two questions
	// have failed one after the other.
	Report func(name string, ready bool, why string)
	// Interval is the time between two questions, and how long an answer may
	// take. After a failure the next comes after a third of it. Default
	// DefaultProbeInterval.
	Interval time.Duration
	// Up, if set, is 1 while it answers and 0 else.
	Up prometheus.Gauge
	// Log takes when it stops to answer, and when it answers again. Default
	// none.
	Log *slog.Logger
}

// Run asks until ctx ends.
func (p Probe) Run(ctx context.Context) {
	if p.Interval <= 0 {
		p.Interval = DefaultProbeInterval
	}
	if p.Up == nil {
		p.Up = prometheus.NewGauge(prometheus.GaugeOpts{})
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	answered := time.Now() // last
	failures, reported := 0, false
	for {
		asked := time.Now()
		err := p.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := p.Interval
		switch {
		case err == nil:
			if failures > 1 {
				p.Log.Info(p.What+" answers again", "silent", time.Since(answered).Round(time.Millisecond))
			}
			if failures > 1 || !reported {
				p.Report(p.Name, true, "")
				reported = true
			}
			p.Up.Set(1)
			answered, failures = asked, 0
		default:
			pause /= 3
			if failures++; failures == 1 {
				break // a connection that broke is made anew
			}
			if failures == 2 {
				p.Log.Warn(p.What+" does not answer", "since", answered.UTC().Format(time.RFC3339), "error", err)
			}
			p.Report(p.Name, false, fmt.Sprintf("%s does not answer as it should since %s: %v", p.What, answered.UTC().Format(time.RFC3339), err))
			reported = true
			p.Up.Set(0)
		}
		if !retry.Sleep(ctx, pause) {
			return
		}
	}
}

func (p Probe) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.Interval)
	defer cancel()
	return p.Ask(ctx)
}
