package schemas

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// backward returns why a reader of schema now cannot read what was written
// with schema before, by the rules of BACKWARD compatibility: schema
// resolution for every datum there can be, names included.
func backward(before, now string) error {
	w, err := avro.Parse([]byte(before))
	if err != nil {
		return err
	}
	r, err := avro.Parse([]byte(now))
	if err != nil {
		return err
	}
	if err := avro.Compatible(w, r); err != nil {
		return err
	}
	return sameNames(w, r)
}

// sameNames compares the names of the types that meet, which our decoders
// need not, but other readers do.
func sameNames(w, r *avro.Type) error {
	if w.Kind == avro.Union && r.Kind == avro.Union {
		for _, wb := range w.Branches {
			for _, rb := range r.Branches {
				if wb.Kind == rb.Kind {
					if err := sameNames(wb, rb); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	if w.Name != r.Name {
		return fmt.Errorf("%s is now called %q", w.Name, r.Name)
	}
	if w.Items != nil && r.Items != nil {
		return sameNames(w.Items, r.Items)
	}
	for i := range r.Fields {
		if j := r.Fields[i].In(w.Positions()); j >= 0 {
			if err := sameNames(w.Fields[j].Type, r.Fields[i].Type); err != nil {
				return err
			}
		}
	}
	return nil
}

// testdata/previous holds the schemas of the last release. When one is
// released, its schemas go there.
func TestShippedSchemasAreBackwardCompatible(t *testing.T) {
	for _, file := range schemaFiles {
		before, err := os.ReadFile(filepath.Join("testdata", "previous", file))
		if err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := backward(string(before), string(now)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// The check above can fail.
func TestBackward(t *testing.T) {
	for _, r := range []struct{ name, file, old, new, want string }{
		{"a field with a default", "customer_event.avsc", `{"name": "customer_id"`, `{"name": "channel", "type": "string", "default": ""}, {"name": "customer_id"`, ""},
		{"a field without default", "customer_event.avsc", `{"name": "customer_id"`, `{"name": "channel", "type": "string"}, {"name": "customer_id"`, "channel is missing"},
		{"an attribute with a default", "churn_score.avsc", `"name": "gender",`, `"name": "age", "type": ["null", "double"], "default": null}, {"name": "gender",`, ""},
		{"an attribute without default", "churn_score.avsc", `"name": "gender",`, `"name": "age", "type": ["null", "double"]}, {"name": "gender",`, "age is missing"},
		{"a renamed field", "churn_outcome.avsc", `"name": "churned"`, `"name": "left"`, "left is missing"},
		{"a renamed field with alias", "churn_outcome.avsc", `"name": "churned"`, `"name": "left", "aliases": ["churned"]`, ""},
		{"a narrower type", "dead_letter.avsc", `{"name": "offset", "type": "long"`, `{"name": "offset", "type": "int"`, "long cannot be read as int"},
		{"a wider type", "dead_letter.avsc", `{"name": "partition", "type": "int"`, `{"name": "partition", "type": "long"`, ""},
		{"a symbol less", "model_version.avsc", `"CHALLENGER", "CHAMPION"`, `"CHAMPION"`, "CHALLENGER is not known"},
		{"a symbol more", "model_version.avsc", `"RETIRED"]`, `"RETIRED", "SHADOW"]`, ""},
		{"no longer null", "dead_letter.avsc", `{"name": "key", "type": ["null", "bytes"]`, `{"name": "key", "type": "bytes"`, "null cannot be read as bytes"},
		{"a renamed record", "churn_score.avsc", `"name": "BestChange"`, `"name": "BestAction"`, "BestAction"},
	} {
		t.Run(r.name, func(t *testing.T) {
			before, err := os.ReadFile(filepath.Join("testdata", "previous", r.file))
			if err != nil {
				t.Fatal(err)
			}
			now := strings.Replace(string(before), r.old, r.new, 1)
			if now == string(before) {
				t.Fatal("nothing was replaced")
			}
			if r.name == "no longer null" {
				now = strings.Replace(now, `"Its key, as it was.", "default": null`, `"Its key, as it was."`, 1)
			}
			err = backward(string(before), now)
			if r.want == "" && err != nil || r.want != "" && (err == nil || !strings.Contains(err.Error(), r.want)) {
				t.Errorf("error %v, want %q", err, r.want)
			}
		})
	}
}

// A model version of the last release has its figures, and no average precision,
// skill or intervals; of its baseline neither the rows nor any reasons.
func TestModelVersionOfTheLastRelease(t *testing.T) {
	c, registry := newCodec(t, ownSet(t))
	schema, err := os.ReadFile(filepath.Join("testdata", "previous", "model_version.avsc"))
	if err != nil {
		t.Fatal(err)
	}
	value, err := os.ReadFile(filepath.Join("testdata", "previous", "model_version.bin"))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(value[1:], uint32(registry.Add(string(schema))))
	var got ModelVersion
	if err := c.DecodeModel(t.Context(), value, &got); err != nil {
		t.Fatal(err)
	}
	want := sampleModel()
	want.Horizon, want.LabelsUntil = 0, 0
	want.Metrics.Churners, want.Metrics.PRAUC, want.Metrics.LogLossSkill = 0, scoring.Missing, scoring.Missing
	want.Metrics.Lower = evaluation.Undefined()
	champion := evaluation.Figures{Accuracy: 0.8, LogLoss: 0.42, PRAUC: scoring.Missing, LogLossSkill: scoring.Missing}
	want.ChampionMetrics.Figures = champion // the others were 0 then
	for i, b := range want.Baseline {
		want.Baseline[i] = BaselineDistribution{Name: b.Name, Bins: b.Bins, Frequencies: b.Frequencies}
	}
	if got, want := dump(&got), dump(want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A score of the last release says nothing of the moment it speaks of: that is
// when its event occurred.
func TestScoreOfTheLastRelease(t *testing.T) {
	ctx := context.Background()
	c, registry := newCodec(t, ownSet(t))
	schema, err := os.ReadFile(filepath.Join("testdata", "previous", "churn_score.avsc"))
	if err != nil {
		t.Fatal(err)
	}
	value, err := os.ReadFile(filepath.Join("testdata", "previous", "churn_score.bin"))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(value[1:], uint32(registry.Add(string(schema))))
	got := c.NewScore()
	if err := c.DecodeScore(ctx, value, got); err != nil {
		t.Fatal(err)
	}
	want := sampleScore(t, c.Set())
	want.AsOf, want.Trigger = want.OccurredAt, TriggerEvent
	if got, want := dump(numbered(c.Set(), got)), dump(want); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
