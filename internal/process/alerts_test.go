package process_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestAlertsAreWhole: every alert has a runbook and a test. That it speaks of
// metrics that there are is tested in cmd/churnstream, with docs/metrics.md.
func TestAlertsAreWhole(t *testing.T) {
	const root = "../.."
	read := func(path string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules, tests, runbooks := read("deploy/prometheus/rules.yml"), read("deploy/prometheus/rules_test.yml")+read("deploy/prometheus/days_test.yml"), read("docs/runbooks.md")
	alerts := strings.Split(rules, "      - alert: ")[1:]
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, rule := range alerts {
		name, rule, _ := strings.Cut(rule, "\n")
		if !strings.Contains(runbooks, "\n## "+name+"\n") {
			t.Errorf("%s has no section in docs/runbooks.md", name)
		}
		for _, part := range []string{"severity: ", "summary: ", "description: ",
			"runbook_url: https://github.com/churnstream/churnstream/blob/main/docs/runbooks.md#" + strings.ToLower(name) + "\n"} {
			if !strings.Contains(rule+"\n", part) {
				t.Errorf("%s lacks %q", name, part)
			}
		}
		fires := regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:`)
		silent := regexp.MustCompile(`(?m)\{eval_time: \w+, alertname: ` + name + `\}`)
		if !fires.MatchString(tests) || !silent.MatchString(tests) {
			t.Errorf("no test of the rules tries whether %s fires and whether it is silent", name)
		}
	}
}
