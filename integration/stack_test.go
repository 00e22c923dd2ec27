//go:build integration

package integration

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// TestStack starts everything that make up starts, on ports of its own, and stops
// it again.
func TestStack(t *testing.T) {
	stack := filepath.Join(repository(t), "deploy", "local", "stack")
	env := []string{"CHURN_STACK_RUN=" + t.TempDir()}
	for _, name := range []string{"KAFKA", "REGISTRY", "CLICKHOUSE", "CLICKHOUSE_HTTP", "PROMETHEUS", "ALERTMANAGER"} {
		env = append(env, "CHURN_STACK_"+name+"_PORT=0")
	}
	t.Cleanup(func() { _, _ = output(context.WithoutCancel(t.Context()), env, stack, "down") })
	up := run(t, env, stack, "up")
	for _, part := range []string{"kafka", "registry", "clickhouse", "prometheus", "alertmanager"} {
		if !strings.Contains(up, part) || strings.Contains(up, "down") {
			t.Errorf("%s is not up:\n%s", part, up)
		}
	}
	run(t, env, stack, "down")
	status := run(t, env, stack, "status")
	if n := strings.Count(status, "down"); n != 5 {
		t.Errorf("after down:\n%s", status)
	}
	t.Logf("up:\n%s", up)
}
