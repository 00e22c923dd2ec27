//go:build integration

package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// TestObserved runs all roles in one process and looks at them as people do: with
// Prometheus, and with a browser.
func TestObserved(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{})
	roles := p.StartRole("run", "--roles", "score,label,train,monitor,sink,serve", "--horizon", "0s", "--score-interval", "0s", "--sqlite", filepath.Join(t.TempDir(), "churn.db"))
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
	t.Run("Prometheus", func(t *testing.T) { scrape(t, roles) })
}

// scrape has a Prometheus read the metrics and evaluate the rules.
func scrape(t *testing.T, roles *Role) {
	rules := filepath.Join(repository(t), "deploy", "prometheus", "rules.yml")
	prometheus := StartPrometheus(t, PrometheusConfig{Targets: []string{roles.http}, Rules: []string{rules}})
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
	source, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := prometheus.Ask("label/__name__/values", &names); err != nil {
		t.Fatal(err)
	}
	missing := map[string]bool{}
	recorded := regexp.MustCompile(`\w+:churn_\w+:\w+`)
	for _, line := range strings.Split(recorded.ReplaceAllString(string(source), ""), "\n") {
		for _, name := range regexp.MustCompile(`\bchurn_[a-z0-9_]+`).FindAllString(line, -1) {
			// Those of dead letters begin with the first one.
			if !slices.Contains(names, name) && !strings.Contains(name, "dead_letters") && !strings.HasPrefix(strings.TrimSpace(line), "#") {
				missing[name] = true
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("rules speak of metrics that there are not: %v", missing)
	}
	accuracy, err := prometheus.Value(`sum(churn_outcomes_total{predicted="churn",actual="churn"} or churn_outcomes_total{predicted="stay",actual="stay"}) / sum(churn_outcomes_total)`)
	if err != nil || accuracy < 0.7 || accuracy > 0.95 {
		t.Errorf("accuracy by Prometheus %v, %v", accuracy, err)
	}
	t.Logf("Prometheus scrapes %d metrics, evaluates every rule, and finds an accuracy of %.3f", len(names), accuracy)
}

// browse opens the web application and asks what would change.
func browse(t *testing.T, roles *Role) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v\nrun deploy/local/stack install browser", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.WindowSize(1280, 900))
	ctx, cancel := chromedp.NewExecAllocator(testContext(t), options...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()
	var mu sync.Mutex
	var problems []string
	complain := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, what)
	}
	err = chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			complain(fmt.Sprintf("%+v", e.ExceptionDetails))
		case *runtime.EventConsoleAPICalled:
			if e.Type == "error" {
				complain(fmt.Sprintf("%+v", e.Args))
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	do := func(steps ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		if err := chromedp.Do(ctx, steps...); err != nil {
			t.Fatal(err)
		}
	}
	text := func(selector string) string {
		t.Helper()
		s, err := chromedp.Run(ctx, chromedp.TextContent(chromedp.CSS(selector)))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const first = "#list tbody tr:first-child th a"
	do(chromedp.Navigate(roles.http+"/?risk=HIGH"), chromedp.WaitVisible(chromedp.CSS(first)))
	customer := text(first)
	do(chromedp.Click(chromedp.CSS(first)), chromedp.WaitVisible(chromedp.CSS("#whatif")))
	before := text("#now")
	do(chromedp.SetValue(chromedp.CSS(`#whatif select[data-name="Contract"]`), "Two year"))
	changed := `document.querySelector('#whatif select[data-name="Contract"]').dispatchEvent(new Event("input", {bubbles: true})),
		document.querySelector('#whatif select[data-name="Contract"]').dispatchEvent(new Event("change", {bubbles: true}))`
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[bool](changed)); err != nil {
		t.Fatal(err)
	}
	var after string
	Eventually(t, 30*time.Second, "the answer to what if", func() error {
		if after = text("#then"); after == before || text("#delta") == "unchanged" {
			return fmt.Errorf("it says %s, as before", after)
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	if customer == "" || len(problems) > 0 {
		t.Errorf("customer %q; the browser complains: %v", customer, problems)
	}
	t.Logf("%s leaves with %s, and with a contract of two years, says the model, with %s", customer, before, after)
}
