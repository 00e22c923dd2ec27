package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
)

// TestModels lists and shows versions, and activates one after the other.
func TestModels(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBench(t)
	if got := b.command("models", "list"); strings.Count(got, "\n") != 1 || !strings.HasPrefix(got, "VERSION") {
		t.Errorf("without a version models list prints %q", got)
	}
	b.publishModel()
	second := b.model()
	second.Version, second.Stage, second.Reason = 2, schemas.StageChallenger, "not better by chance alone"
	second.Horizon, second.LabelsUntil = 30*24*3_600_000, 1_700_000_000_000
	b.produce(schemas.TopicModels, kafka.Record{Key: models.Key(2), Value: b.codec.AppendModel(nil, second)})

	// stages are those in the list, newest first.
	stages := func() string {
		t.Helper()
		var all []string
		for _, row := range regexp.MustCompile(`(?m)^(\d+)\s+(\w+)\s`).FindAllStringSubmatch(b.command("models", "list"), -1) {
			all = append(all, row[1]+" "+row[2])
		}
		return strings.Join(all, ", ")
	}
	if list := b.command("models", "list"); !strings.Contains(list, "  leaves within 30 days  ") {
		t.Errorf("listed %s", list)
	}
	if got := stages(); got != "2 CHALLENGER, 1 CHAMPION" {
		t.Errorf("listed %s", got)
	}
	for _, step := range []struct{ activate, says, stages string }{
		{"2", "version 2 is the champion now\n", "2 CHAMPION, 1 RETIRED"},
		{"2", "version 2 is the champion already\n", "2 CHAMPION, 1 RETIRED"},
		{"1", "version 1 is the champion now\n", "2 RETIRED, 1 CHAMPION"},
	} {
		if got := b.command("models", "activate", step.activate); got != step.says {
			t.Errorf("activate %s says %q", step.activate, got)
		}
		if got := stages(); got != step.stages {
			t.Errorf("after activate %s: %s, want %s", step.activate, got, step.stages)
		}
	}

	shown := b.lines(strings.ReplaceAll(b.command("models", "show", "2"), "\n", " ") + "\n")[0]
	if shown["version"] != 2.0 || shown["stage"] != "RETIRED" || shown["reason"] != "activated by hand" ||
		shown["sha256"] != second.SHA256 || shown["feature_fingerprint"] != second.FeatureFingerprint || shown["created_at"] != "2023-11-14T22:13:20Z" ||
		shown["label"] != "leaves within 30 days" || shown["horizon_seconds"] != 2592000.0 || shown["labels_until"] != "2023-11-14T22:13:20Z" {
		t.Errorf("models show prints %v", shown)
	}
	// The payload is what explain takes.
	dir := t.TempDir()
	model, customer := filepath.Join(dir, "model.json"), filepath.Join(dir, "customer.json")
	payload := b.command("models", "show", "2", "--payload")
	if err := os.WriteFile(model, []byte(payload), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(customer, []byte(`{"plan":"monthly","visits":5}`), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	if code := run([]string{"explain", "--model", model, "--customer", customer, "--schema", b.schema}, &out, &errs); code != 0 || !strings.Contains(out.String(), "plan") {
		t.Errorf("explain with the payload: exit code %d, %s%s", code, out.String(), errs.String())
	}

	for _, c := range []struct{ args, want string }{
		{"models show 3", "there is no valid model version 3; churnstream models list shows those there are"},
		{"models activate 3", "there is no valid model version 3"},
		{"models activate", "<version>"},
		{"models show first", "first"},
	} {
		if got := b.fails(strings.Fields(c.args)...); !strings.Contains(got, c.want) {
			t.Errorf("%s fails with %s", c.args, got)
		}
	}
}
