package fitting

import (
	"os/exec"
	"strings"
	"testing"
)

// A batch job fits models without Kafka, a registry, HTTP or metrics. Nothing
// that this package builds on, however indirectly, may bring them in.
func TestFittingDoesNoInputOrOutput(t *testing.T) {
	const module = "github.com/churnstream/churnstream/"
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	for _, dep := range deps {
		own, isOwn := strings.CutPrefix(dep, module)
		switch {
		case isOwn && own != "trainer/fitting" && own != "scoring" && !strings.HasPrefix(own, "scoring/"),
			dep == "net", strings.HasPrefix(dep, "net/"),
			strings.HasPrefix(dep, "github.com/prometheus/"),
			strings.HasPrefix(dep, "github.com/segmentio/"), strings.HasPrefix(dep, "github.com/twmb/"):
			t.Errorf("it depends on %s", dep)
		}
	}
	if len(deps) < 10 {
		t.Errorf("go list names only %v", deps)
	}
}
