//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/churnstream/churnstream/internal/quality"
)

// TestLoopCloses changes what makes customers leave, and lets Prometheus and
// Alertmanager see to it: the model in use falls, an alert fires, its webhook asks
// the trainer, a version that has learnt the change comes into use, the alert ends.
// Nobody looks on but the test.
//
// Rules and routes are those of deploy/prometheus, in a hurry: what takes minutes
// there, so that nobody is woken for nothing, takes seconds here.
func TestLoopCloses(t *testing.T) {
	const (
		driftAfter = 40 * time.Second
		delay      = "1s"
		fallen     = `ALERTS{action="retrain", alertstate="firing"}`
	)
	p := StartPlatform(t, KafkaConfig{})
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the loop's own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	roles := p.StartRole("run", "--roles", "score,label,train,monitor,serve", "--http-token-file", token,
		"--horizon", delay, "--score-interval", "0s", "--label-grace", "5s", "--window", "2000",
		// Only who asks gets a training, and one after the other.
		"--min-new-labels", "1000000000", "--min-interval", "5s")
	alertmanager := StartAlertmanager(t, hurriedRoutes(t, roles.http, token))
	prometheus := StartPrometheus(t, PrometheusConfig{Targets: []string{roles.http}, Rules: []string{hurriedRules(t)}, Alertmanager: alertmanager})

	if code := p.StartRole("replay", "--history-share", "1", "--rate", "0").ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	roles.WaitReady(time.Minute)
	first := champion(t, roles, time.Minute, func(v *quality.Version) error { return nil })

	simulate := p.StartRole("simulate", "--rate", "300", "--outcome-delay", delay, "--drift-after", driftAfter.String())
	began := time.Now()
	before := champion(t, roles, driftAfter, func(v *quality.Version) error {
		if rows := v.Judged().Rows; rows < 1000 {
			return fmt.Errorf("%d outcomes", rows)
		}
		return nil
	})
	if found, has := before.Fallen(); has {
		t.Errorf("before the change, version %d has fallen: %+v", before.Version, found)
	}
	t.Logf("before the change, version %d: %s", before.Version, figuresOf(before))
	// Somebody has the page open, and does not touch it any more.
	browser := StartBrowser(t)
	browser.Do(chromedp.Navigate(roles.http+"/model"), chromedp.WaitVisible(chromedp.CSS("#quality .verdict.good")))
	says := func(verdict string, version int64) {
		t.Helper()
		Eventually(t, 30*time.Second, "the page saying "+verdict, func() error {
			text := browser.Text("#quality .verdict")
			if !strings.HasPrefix(text, verdict) || !strings.Contains(text, fmt.Sprintf("version %d", version)) {
				return fmt.Errorf("it says %q", text)
			}
			return nil
		})
	}
	says("As promised", before.Version)
	if alerts, err := prometheus.Query(fallen); err != nil || len(alerts) > 0 {
		t.Errorf("before the change, alerts fire: %v, %v", alerts, err)
	}

	change := began.Add(driftAfter)
	since := func() time.Duration { return time.Since(change).Round(100 * time.Millisecond) }
	Eventually(t, driftAfter+time.Minute, "an alert", func() error {
		if alerts, err := prometheus.Query(fallen); err != nil || len(alerts) == 0 {
			return fmt.Errorf("none, %v", err)
		}
		return nil
	})
	if since() < 0 {
		t.Errorf("an alert fired %v before the change", -since())
	}
	alerts, _ := prometheus.Query(fallen)
	var names []string
	for _, a := range alerts {
		names = append(names, a.Labels["alertname"])
	}
	at := champion(t, roles, 10*time.Second, func(v *quality.Version) error { return nil })
	t.Logf("%v after the change: %s fires; version %d: %s", since(), strings.Join(names, " and "), at.Version, figuresOf(at))

	says("Worse than promised", at.Version)
	t.Logf("%v after the change, the page: %s", since(), browser.Text("#quality .verdict"))

	published := champion(t, roles, time.Minute, func(v *quality.Version) error {
		if v.Version == first.Version {
			return fmt.Errorf("version %d is still in use", v.Version)
		}
		return nil
	})
	t.Logf("%v after the change: version %d is in use, on its holdout log loss %.3f: %s", since(), published.Version,
		published.Holdout["log_loss"].Value, reason(t, roles, published.Version))
	if !strings.Contains(roles.Log(), "alert Churn") {
		t.Error("the trainer was not asked by an alert")
	}

	after := champion(t, roles, time.Minute, func(v *quality.Version) error {
		if _, has := v.Fallen(); has || v.Judged().Rows < 500 {
			return fmt.Errorf("version %d: %s", v.Version, figuresOf(v))
		}
		return nil
	})
	t.Logf("%v after the change: recovered, version %d: %s", since(), after.Version, figuresOf(after))
	says("As promised", after.Version)
	if text := browser.Text("#happened"); !strings.Contains(text, "A training was asked for") {
		t.Errorf("the page tells that this happened: %s", text)
	}
	for _, width := range []int64{1280, 360} {
		if err := browser.Fits(width); err != nil {
			t.Error(err)
		}
	}
	if problems := browser.Problems(); len(problems) > 0 {
		t.Errorf("the browser complains: %v", problems)
	}
	if skill := after.Judged().Figures["log_loss_skill"]; skill.Lower < .1 {
		t.Errorf("version %d has a skill of %.3f", after.Version, skill.Value)
	}
	Eventually(t, time.Minute, "the end of the alert", func() error {
		alerts, err := prometheus.Query(fallen)
		if err != nil || len(alerts) > 0 {
			return fmt.Errorf("%v, %v", alerts, err)
		}
		return resolved(alertmanager)
	})
	t.Logf("%v after the change: the alerts have ended, in Prometheus and in Alertmanager", since())
	if !simulate.Running() {
		t.Error("the simulator ended on the way")
	}
}

// hurriedRules returns a copy of the rules in which nothing has to last for longer
// than two seconds until it is an alert.
func hurriedRules(t testing.TB) string {
	t.Helper()
	rules, err := os.ReadFile(filepath.Join(repository(t), "deploy", "prometheus", "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(path, regexp.MustCompile(`(?m)^(\s+for:) \S+$`).ReplaceAll(rules, []byte("$1 2s")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hurriedRoutes returns the example of routes for a trainer that is asked at once,
// and again after ten seconds.
func hurriedRoutes(t testing.TB, trainer, token string) string {
	t.Helper()
	example, err := os.ReadFile(filepath.Join(repository(t), "deploy", "prometheus", "alertmanager.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(example)
	for from, to := range map[string]string{
		"http://trainer:8080":                trainer,
		"/etc/alertmanager/churn-http-token": token,
		"group_wait: 1m":                     "group_wait: 1s\n      group_interval: 5s",
		"repeat_interval: 1h":                "repeat_interval: 10s",
	} {
		if strings.Count(text, from) != 1 {
			t.Fatalf("the example of routes has %q %d times", from, strings.Count(text, from))
		}
		text = strings.Replace(text, from, to, 1)
	}
	return text
}

// champion waits until the version in use is as it should be, and returns what the
// monitor says of it.
func champion(t testing.TB, roles *Role, limit time.Duration, check func(*quality.Version) error) *quality.Version {
	t.Helper()
	client := quality.NewClient(roles.http)
	var v *quality.Version
	Eventually(t, limit, "the version in use", func() error {
		report, err := client.Report(t.Context())
		if err != nil {
			return err
		}
		if v = report.Of(report.Champion); v == nil {
			return fmt.Errorf("there is none, or nothing is known of version %d", report.Champion)
		}
		return check(v)
	})
	return v
}

func figuresOf(v *quality.Version) string {
	judged := v.Judged()
	text := fmt.Sprintf("%d outcomes", judged.Rows)
	for _, name := range []string{"log_loss", "log_loss_skill", "roc_auc"} {
		if m, ok := judged.Figures[name]; ok {
			text += fmt.Sprintf(", %s %.3f (%.3f to %.3f; holdout %.3f)", quality.Title(name), m.Value, m.Lower, m.Upper, v.Holdout[name].Value)
		}
	}
	return text
}

// reason returns why a version has the stage it has.
func reason(t testing.TB, roles *Role, version int64) string {
	t.Helper()
	res, err := roles.get(fmt.Sprintf("/v1/models/%d", version))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct{ Reason string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer.Reason
}

// resolved returns an error while an Alertmanager has an alert that asks for a
// training.
func resolved(alertmanager string) error {
	res, err := http.Get(alertmanager + `/api/v2/alerts?filter=action%3D%22retrain%22&active=true`)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var alerts []struct {
		Labels map[string]string
	}
	if err := json.NewDecoder(res.Body).Decode(&alerts); err != nil {
		return err
	}
	if len(alerts) > 0 {
		return fmt.Errorf("Alertmanager has %v", alerts)
	}
	return nil
}
