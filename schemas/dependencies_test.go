package schemas_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Reading a customer from JSON and scoring it takes the two packages below:
// whoever embeds them gets no HTTP client, no TLS and no Kafka with them.
func TestNoNetworkAmongTheDependencies(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("there is no go command")
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".", "../scoring").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	if !slices.Contains(deps, "encoding/json") {
		t.Fatalf("go list answered %q", out)
	}
	for _, dep := range deps {
		switch {
		case dep == "net", dep == "net/http", dep == "crypto/tls", strings.Contains(dep, "kafka"), strings.Contains(dep, "franz-go"):
			t.Errorf("%s is among them", dep)
		}
	}
}
