package metrics_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/churnstream/churnstream/internal/metrics"
)

func TestRegister(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := func(r prometheus.Registerer) prometheus.Counter {
		return metrics.Register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: "churn_things_total", Help: "Things."}))
	}
	counter(registry).Inc()
	counter(registry).Inc()
	if got := testutil.ToFloat64(counter(registry)); got != 2 {
		t.Errorf("counted %v together, want 2", got)
	}
	if got := testutil.ToFloat64(counter(nil)); got != 0 {
		t.Errorf("counted %v without a registerer", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("two different metrics of one name were taken")
		}
	}()
	metrics.Register(registry, prometheus.NewGauge(prometheus.GaugeOpts{Name: "churn_things_total", Help: "Things."}))
}
