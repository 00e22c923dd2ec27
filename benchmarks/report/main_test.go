package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "model.json")
	if err := os.WriteFile(model, []byte(`{"intercept":-1,"features":[
		{"name":"contract","kind":"categorical","levels":["month","year"],"log_odds":[1,-1],"frequency":[0.6,0.4]},
		{"name":"tenure","kind":"numeric","log_odds_per_unit":-0.1,"bins":[{"mean":5,"std":2,"min":0,"max":9,"frequency":1}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f := flags{Model: model, Picture: filepath.Join(dir, "images", "scatter.svg"), Sizes: []int{3}, Runs: 5, Samples: 100, Rounds: 1}
	var out bytes.Buffer
	if err := f.run(context.Background(), &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| synthetic | 3 |", "| contract |", "| tenure |", "Root mean square of z", "scatter.svg"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if picture, err := os.ReadFile(f.Picture); err != nil || !bytes.Contains(picture, []byte("<svg")) {
		t.Errorf("picture: %v, %.40q", err, picture)
	}
	f.Runs = 1
	if err := f.run(context.Background(), &out); err == nil {
		t.Error("one run is accepted, of which nothing scatters")
	}
}
