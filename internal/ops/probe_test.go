package ops_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/ops"
)

func TestProbe(t *testing.T) {
	var mu sync.Mutex
	answer := func(context.Context) error { return nil }
	become := func(ask func(context.Context) error) {
		mu.Lock()
		defer mu.Unlock()
		answer = ask
	}
	refuse := func(context.Context) error { return errors.New("connection refused") }
	frozen := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	well := func(context.Context) error { return nil }

	for name, fault := range map[string]func(context.Context) error{"refuses": refuse, "frozen": frozen} {
		t.Run(name, func(t *testing.T) {
			become(well)
			synctest.Test(t, func(t *testing.T) {
				ready := ops.NewReadiness()
				up := prometheus.NewGauge(prometheus.GaugeOpts{})
				go ops.Probe{Name: "kafka", What: "Kafka at b:1", Report: ready.Set, Up: up, Ask: func(ctx context.Context) error {
					mu.Lock()
					ask := answer
					mu.Unlock()
					return ask(ctx)
				}}.Run(t.Context())
				expect := func(when string, want bool) string {
					t.Helper()
					synctest.Wait()
					got, checks := ready.Ready()
					if got != want || (testutil.ToFloat64(up) == 1) != want {
						t.Errorf("%s: ready %t, up %v, want %t: %v", when, got, testutil.ToFloat64(up), want, checks)
					}
					return checks["kafka"].Why
				}
				expect("at first", true)
				time.Sleep(time.Minute)
				expect("after a minute", true)

				become(func(ctx context.Context) error { become(well); return fault(ctx) })
				time.Sleep(time.Minute)
				expect("after one failure", true)

				// The worst moment is right after an answer, of which the time
				// is up to an interval ago.
				began := time.Now()
				become(fault)
				for {
					if ok, _ := ready.Ready(); !ok {
						break
					}
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
				}
				if took := time.Since(began); took > 11*time.Second {
					t.Errorf("it was noticed after %v", took)
				}
				why := expect("not answering", false)
				_, rest, _ := strings.Cut(why, " since ")
				stamp, _, _ := strings.Cut(rest, ": ")
				since, err := time.Parse(time.RFC3339, stamp)
				if err != nil || since.After(began) || since.Before(began.Add(-4*time.Second)) || !strings.Contains(why, "Kafka at b:1") {
					t.Errorf("it says %q, %v; began at %v", why, err, began)
				}
				time.Sleep(time.Hour)
				if later := expect("for an hour", false); later != why {
					t.Errorf("it says %q, and later %q", why, later)
				}
				become(well)
				time.Sleep(4 * time.Second)
				expect("back", true)
			})
		})
	}
}

func TestReadinessForgets(t *testing.T) {
	r := ops.NewReadiness()
	r.Set("a", true, "")
	r.Set("b", false, "why")
	r.Forget("b")
	if ready, checks := r.Ready(); !ready || len(checks) != 1 {
		t.Errorf("%t, %v", ready, checks)
	}
}
