package monitor

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The first days after a release: only stayers are known, and nobody was predicted
// to leave. There is no area under a curve then, and no precision to alert on.
func TestUndefinedFiguresAreAbsent(t *testing.T) {
	w := windows{limit: 200, byVersion: map[int64]*window{}}
	for range 100 {
		w.add(1, .1, false)
	}
	m := w.stats()[0].Metrics
	present := map[string]bool{}
	for _, f := range newFigures("churn_model_", "") {
		ch := make(chan prometheus.Metric, 1)
		f.collect(ch, &m, "1")
		close(ch)
		for metric := range ch {
			var out dto.Metric
			if err := metric.Write(&out); err != nil {
				t.Fatal(err)
			}
			present[f.name] = true
		}
	}
	for name, want := range map[string]bool{"accuracy": true, "log_loss": true, "brier": true, "calibration_error": true,
		"roc_auc": false, "pr_auc": false, "precision": false, "recall": false, "f1": false, "log_loss_skill": false, "top_decile_lift": false} {
		if present[name] != want {
			t.Errorf("%s is exported: %v", name, present[name])
		}
	}
}
