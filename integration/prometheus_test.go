//go:build integration

package integration

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestPrometheusRules has promtool check the rules and run their tests, and
// amtool look at where alerts go.
func TestPrometheusRules(t *testing.T) {
	promtool, amtool := found(t, "promtool"), found(t, "amtool")
	dir := filepath.Join(repository(t), "deploy", "prometheus")
	for _, command := range [][]string{
		{promtool, "check", "config", filepath.Join(dir, "prometheus.yml")},
		{promtool, "check", "rules", filepath.Join(dir, "rules.yml")},
		{promtool, "test", "rules", filepath.Join(dir, "rules_test.yml")},
		{promtool, "test", "rules", filepath.Join(dir, "days_test.yml")},
		{amtool, "check-config", filepath.Join(dir, "alertmanager.yml")},
	} {
		out := run(t, nil, command[0], command[1:]...)
		t.Logf("%s: %s", filepath.Base(strings.Join(command[:2], " ")), strings.Join(strings.Fields(out), " "))
	}
	for labels, receivers := range map[string]string{
		`severity=warning action=retrain`: "trainer,people",
		`severity=critical`:               "people",
	} {
		args := append([]string{"config", "routes", "test", "--config.file=" + filepath.Join(dir, "alertmanager.yml"), "--verify.receivers=" + receivers}, strings.Fields(labels)...)
		run(t, nil, amtool, args...)
	}
}
