package process_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// defines reports whether a metric's name stands in the program as a string, or as
// two of which the first ends in an underscore.
func defines(program, metric string) bool {
	if strings.Contains(program, `"`+metric+`"`) {
		return true
	}
	for i := range metric {
		if metric[i] == '_' && strings.Contains(program, `"`+metric[:i+1]+`" +`) && strings.Contains(program, `"`+metric[i+1:]+`"`) {
			return true
		}
	}
	return false
}

// TestAlertsAreWhole: every alert has a runbook and a test, and speaks of metrics
// that the program has.
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
	rules, tests, runbooks := read("deploy/prometheus/rules.yml"), read("deploy/prometheus/rules_test.yml"), read("docs/runbooks.md")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, a := range alerts {
		name := a[1]
		if !strings.Contains(runbooks, "\n## "+name+"\n") {
			t.Errorf("%s has no section in docs/runbooks.md", name)
		}
		if !strings.Contains(rules, "docs/runbooks.md#"+strings.ToLower(name)+"\n") {
			t.Errorf("%s does not point to its section", name)
		}
		fires := regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:`)
		silent := regexp.MustCompile(`(?m)\{eval_time: \w+, alertname: ` + name + `\}`)
		if !fires.MatchString(tests) || !silent.MatchString(tests) {
			t.Errorf("rules_test.yml does not try whether %s fires and whether it is silent", name)
		}
	}

	var program strings.Builder
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") {
			program.WriteString(read(strings.TrimPrefix(path, root)))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	recorded := regexp.MustCompile(`\w+:churn_\w+:\w+`)
	for _, line := range strings.Split(recorded.ReplaceAllString(rules, ""), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, metric := range regexp.MustCompile(`\bchurn_[a-z0-9_]+`).FindAllString(line, -1) {
			if !defines(program.String(), metric) {
				t.Errorf("rules.yml speaks of %s, which there is not", metric)
			}
		}
	}
}
