//go:build integration

package integration

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/churnstream/churnstream/deploy/grafana"
)

// TestObserved runs all roles in one process and looks at them as people do: with
// Prometheus, and with a browser.
func TestObserved(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{})
	roles := p.StartRole("run", "--roles", "score,label,train,monitor,sink,serve", "--horizon", "0s", "--score-interval", "0s",
		"--window", "1000", // of some 1,400 examples, so that there are some from before it
		"--sqlite", filepath.Join(t.TempDir(), "churn.db"))
	// It sees everything from the start, so that there are rates.
	prometheus := StartPrometheus(t, PrometheusConfig{Targets: []string{roles.http}})
	replay := p.StartRole("replay", "--rate", "0", "--history-share", "0.8", "--outcome-delay", "0s")
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	roles.WaitReady(time.Minute)
	Eventually(t, time.Minute, "scores and joined outcomes", func() error {
		if n, err := roles.Metric("churn_outcomes_total"); err != nil || n < 1000 {
			return fmt.Errorf("%v outcomes, %v", n, err)
		}
		return nil
	})
	// In this order: there are no figures on requests before there was one.
	t.Run("browser", func(t *testing.T) { browse(t, roles) })
	t.Run("Prometheus", func(t *testing.T) { scrape(t, prometheus) })
}

// scrape looks at how a Prometheus evaluates the rules.
func scrape(t *testing.T, prometheus *Prometheus) {
	Eventually(t, time.Minute, "every rule evaluated", func() error {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		if err := prometheus.Ask("rules", &data); err != nil {
			return err
		}
		n := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if r.Health != "ok" {
					return fmt.Errorf("%s is %s: %s", r.Name, r.Health, r.LastError)
				}
				n++
			}
		}
		if n == 0 {
			return fmt.Errorf("no rules")
		}
		return nil
	})
	// What the rules speak of exists.
	source, err := os.ReadFile(filepath.Join(repository(t), "deploy", "prometheus", "rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	recorded := regexp.MustCompile(`\w+:churn_\w+:\w+`)
	// What has just been counted for the first time comes with the next scrape.
	Eventually(t, time.Minute, "every metric that rules speak of", func() error {
		names = nil
		if err := prometheus.Ask("label/__name__/values", &names); err != nil {
			return err
		}
		missing := map[string]bool{}
		for _, line := range strings.Split(recorded.ReplaceAllString(string(source), ""), "\n") {
			for _, name := range regexp.MustCompile(`\bchurn_[a-z0-9_]+`).FindAllString(line, -1) {
				// Those of dead letters begin with the first one, those of the shadow
				// with a challenger that is newer than the champion.
				if !slices.Contains(names, name) && !strings.Contains(name, "dead_letters") && !strings.HasPrefix(name, "churn_shadow_") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
					missing[name] = true
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("there are not: %v", missing)
		}
		return nil
	})
	accuracy, err := prometheus.Value(`sum(churn_outcomes_total{predicted="churn",actual="churn"} or churn_outcomes_total{predicted="stay",actual="stay"}) / sum(churn_outcomes_total)`)
	if err != nil || accuracy < 0.7 || accuracy > 0.95 {
		t.Errorf("accuracy by Prometheus %v, %v", accuracy, err)
	}
	t.Logf("Prometheus scrapes %d metrics, evaluates every rule, and finds an accuracy of %.3f", len(names), accuracy)
	// All is well, so that no alert should wait for its time to fire. But events had
	// to wait for the first model.
	alerts, err := prometheus.Query(`ALERTS{alertstate=~"pending|firing",alertname!~"ChurnScores(Often)?Late"}`)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		t.Errorf("the alert %v in a system that is well", a.Labels)
	}
	t.Run("reference", func(t *testing.T) { compareReference(t, prometheus) })
	t.Run("dashboards", func(t *testing.T) { askPanels(t, prometheus) })
}

// compareReference holds docs/metrics.md against what Prometheus has been told of
// the metrics.
func compareReference(t *testing.T, prometheus *Prometheus) {
	document, err := os.ReadFile(filepath.Join(repository(t), "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(churn_\\w+)` \\| (\\w+) \\|").FindAllStringSubmatch(string(document), -1) {
		documented[row[1]] = row[2]
	}
	var told map[string][]struct{ Type string }
	if err := prometheus.Ask("metadata", &told); err != nil {
		t.Fatal(err)
	}
	n := 0
	for name, all := range told {
		// OpenMetrics names counters without their ending.
		if all[0].Type == "counter" && documented[name] == "" {
			name += "_total"
		}
		if !strings.HasPrefix(name, "churn_") {
			continue
		}
		if n++; documented[name] != all[0].Type {
			t.Errorf("%s is a %s, and in docs/metrics.md %q", name, all[0].Type, documented[name])
		}
	}
	t.Logf("%d of %d metrics in docs/metrics.md are scraped, of the type that it says", n, len(documented))
}

// askPanels asks what the dashboards ask.
func askPanels(t *testing.T, prometheus *Prometheus) {
	type question struct {
		where string
		grafana.Query
	}
	var open []question
	for _, d := range grafana.Dashboards {
		for _, r := range d.Rows {
			for _, p := range r.Panels {
				for _, q := range p.Queries {
					open = append(open, question{d.Title + ", " + r.Title + ", " + p.Title, q})
				}
			}
		}
	}
	for _, q := range grafana.Annotations() {
		open = append(open, question{"annotations", q})
	}
	answered := 0
	ask := func() error {
		var failed []string
		var rest []question
		for _, q := range open {
			switch all, err := prometheus.Query(q.Runnable()); {
			case err != nil:
				t.Fatalf("%s: %v", q.where, err) // as one that is no PromQL
			case len(all) > 0 && !slices.ContainsFunc(all, func(s Sample) bool { return math.IsNaN(s.Value) }):
				answered++
			default:
				if rest = append(rest, q); q.Empty == "" {
					failed = append(failed, fmt.Sprintf("%s (%s): %v", q.where, q.Runnable(), all))
				}
			}
		}
		if open = rest; len(failed) > 0 {
			return fmt.Errorf("no data in\n%s", strings.Join(failed, "\n"))
		}
		return nil
	}
	Eventually(t, time.Minute, "every panel having data", ask)
	for _, q := range open {
		t.Logf("%s shows nothing: %s", q.where, q.Empty)
	}
	t.Logf("%d queries of %d dashboards have data", answered, len(grafana.Dashboards))
}

// browse opens the web application and asks what would change.
func browse(t *testing.T, roles *Role) {
	browser := StartBrowser(t)
	do, text := browser.Do, browser.Text
	const first = "#list tbody tr:first-child th a"
	do(chromedp.Navigate(roles.http+"/?risk=HIGH"), chromedp.WaitVisible(chromedp.CSS(first)))
	customer, err := chromedp.Run(browser.ctx, chromedp.Evaluate[string](fmt.Sprintf(
		"(link => { link.click(); return link.textContent })(document.querySelector(%q))", first)))
	if err != nil {
		t.Fatal(err)
	}
	do(chromedp.WaitVisible(chromedp.CSS("#whatif")))
	before := text("#now")
	do(chromedp.SetValue(chromedp.CSS(`#whatif select[data-name="Contract"]`), "Two year"))
	changed := `document.querySelector('#whatif select[data-name="Contract"]').dispatchEvent(new Event("input", {bubbles: true})),
		document.querySelector('#whatif select[data-name="Contract"]').dispatchEvent(new Event("change", {bubbles: true}))`
	if _, err := chromedp.Run(browser.ctx, chromedp.Evaluate[bool](changed)); err != nil {
		t.Fatal(err)
	}
	var after string
	Eventually(t, 30*time.Second, "the answer to what if", func() error {
		if after = text("#then"); after == before || text("#delta") == "unchanged" {
			return fmt.Errorf("it says %s, as before", after)
		}
		return nil
	})
	if problems := browser.Problems(); customer == "" || len(problems) > 0 {
		t.Errorf("customer %q; the browser complains: %v", customer, problems)
	}
	t.Logf("%s leaves with %s, and with a contract of two years, says the model, with %s", customer, before, after)
}
