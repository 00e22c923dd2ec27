//go:build integration

package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrometheusRules has promtool check the rules and run their tests.
func TestPrometheusRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		promtool = installed(t, "bin", "promtool")
	}
	dir := filepath.Join(repository(t), "deploy", "prometheus")
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "rules.yml"},
		{"test", "rules", "rules_test.yml"},
	} {
		args[2] = filepath.Join(dir, args[2])
		out := run(t, nil, promtool, args...)
		t.Logf("promtool %s: %s", strings.Join(args[:2], " "), strings.Join(strings.Fields(out), " "))
	}
}
