//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// TestCheckAgreesWithScikitLearn runs the roles on real customers, checks the models,
// and compares the figures with those that scikit-learn gives the same examples, as
// another command reads them, and with the monitor's, to the bit.
func TestCheckAgreesWithScikitLearn(t *testing.T) {
	installed(t, "python")
	p := StartPlatform(t, KafkaConfig{})
	roles := p.StartRole("run", "--roles", "score,label,train,monitor", "--horizon", "0s", "--label-state-dir", filepath.Join(t.TempDir(), "labels"))
	replay := p.StartRole("replay", "--rate", "0", "--history-share", "0.6", "--outcome-delay", "1s")
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	roles.WaitReady(time.Minute)
	command := func(args ...string) string { return run(t, nil, Program(t), append(args, p.connection()...)...) }

	var examples []evaluation.Example
	Eventually(t, 2*time.Minute, "examples of scores", func() error {
		newest := map[string]json.RawMessage{} // by customer
		for line := range strings.Lines(command("tail", schemas.TopicExamples, "--from-start")) {
			record := unmarshal[struct {
				Key   string
				Value json.RawMessage
			}](t, line)
			if record.Key != "" && record.Key[0] != 0 {
				newest[record.Key] = record.Value
			}
		}
		examples = nil
		for customer, value := range newest {
			var m struct {
				Examples []struct {
					Churned     bool
					Version     *int64   `json:"model_version"`
					Probability *float64 `json:"churn_probability"`
				}
			}
			if err := json.Unmarshal(value, &m); err != nil {
				t.Fatalf("%v in %s", err, value)
			}
			h := fnv.New64a()
			h.Write([]byte(customer))
			for _, e := range m.Examples {
				if e.Version != nil {
					examples = append(examples, evaluation.Example{Customer: h.Sum64(), Probability: *e.Probability, Churned: e.Churned})
				}
			}
		}
		if len(examples) < 2500 {
			return fmt.Errorf("%d examples", len(examples))
		}
		if waiting, err := roles.Metric("churn_labeler_waiting_outcomes"); err != nil || waiting > 0 {
			return fmt.Errorf("%v outcomes wait, %v", waiting, err)
		}
		return nil
	})

	page := filepath.Join(t.TempDir(), "report.html")
	report := unmarshal[struct {
		Champion int64
		Overall  struct {
			Rows    int64
			Figures map[string]struct{ Value, Lower, Upper float64 }
		}
	}](t, command("check", "--since", "12h", "--output", "json", "--out", page, "--min-skill", "0.1", "--min-roc-auc", "0.7"))
	if report.Champion == 0 || report.Overall.Rows != int64(len(examples)) {
		t.Fatalf("the check is of %d examples, %d there are; champion %d", report.Overall.Rows, len(examples), report.Champion)
	}
	want := scikitLearn(t, [][]evaluation.Example{examples})[0]
	for name, x := range want.Figures {
		got, is := report.Overall.Figures[name]
		if !is || x == nil || math.Abs(got.Value-*x) > 1e-9 || !(got.Lower < got.Upper) {
			t.Errorf("%s is %+v, scikit-learn has %v", name, got, x)
			continue
		}
		t.Logf("%-18s %.6f (%.4f to %.4f)", name, got.Value, got.Lower, got.Upper)
	}
	// The monitor tells the same of them.
	client := quality.NewClient(roles.http)
	Eventually(t, time.Minute, "the monitor's figures of all examples", func() error {
		q, err := client.Report(t.Context())
		if err != nil {
			return err
		}
		v := q.Of(report.Champion)
		if v == nil || v.Rows != report.Overall.Rows {
			return fmt.Errorf("it knows %+v", v)
		}
		for name, got := range v.Measured {
			of := report.Overall.Figures[name]
			if float64(got.Value) != of.Value || float64(got.Lower) != of.Lower || float64(got.Upper) != of.Upper {
				t.Errorf("the monitor's %s is %+v, the check's %+v", name, got, of)
			}
		}
		if len(v.Measured) != len(want.Figures) {
			t.Errorf("the monitor has %d figures", len(v.Measured))
		}
		return nil
	})
	if len(want.Figures) != len(report.Overall.Figures) {
		t.Errorf("%d figures, scikit-learn has %d", len(report.Overall.Figures), len(want.Figures))
	}
	if text, err := os.ReadFile(page); err != nil || !strings.Contains(string(text), "All thresholds are met.") {
		t.Errorf("the page: %v", err)
	}
}
