package monitor

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The first days after a release: only stayers are known, and nobody was predicted
// to leave. There is no area under a curve then, and no precision to alert on.
func TestUndefinedFiguresAreAbsent(t *testing.T) {
	v := newEvidence(200)
	for i := range 100 {
		v.take(recordOf(number(int64(i)), exampleAt(1, 1, .1, false)))
	}
	f := figuresOf(v.show(&shown{}).versions[0], nil)
	present := map[string]bool{}
	d := newFigures("churn_model_", "")
	for _, figure := range d.of {
		ch := make(chan prometheus.Metric, 100)
		gauges(ch).figures(figureDescs{of: []figureDesc{figure}, lower: d.lower, upper: d.upper}, "1", &f.metrics.Figures, &f.metrics.Lower, &f.metrics.Upper)
		close(ch)
		for metric := range ch {
			var out dto.Metric
			if err := metric.Write(&out); err != nil {
				t.Fatal(err)
			}
			present[figure.Name] = true
		}
	}
	for name, want := range map[string]bool{"accuracy": true, "log_loss": true, "brier": true, "calibration_error": true,
		"roc_auc": false, "pr_auc": false, "precision": false, "recall": false, "f1": false, "log_loss_skill": false, "top_decile_lift": false} {
		if present[name] != want {
			t.Errorf("%s is exported: %v", name, present[name])
		}
	}
}
