package sink

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
)

// The queries of docs/tables.md run in every store, and find something.
func TestDocumentedQueries(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "tables.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range columns.Names(exampleColumns) {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the column %s of churn_examples is not described", name)
		}
	}
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 6 {
		t.Fatalf("%d queries", len(blocks))
	}
	eachStore(t, schemas.Telco(), func(t *testing.T, s *opened) {
		s.mustMigrate(t)
		rng := rand.New(rand.NewPCG(1, 0))
		b := &Batch{}
		for i, score := range telcoBatch(t, 200, 200, 0).Scores {
			when := time.Date(2026, 1, 1+i%20, i%24, 0, 0, 0, time.UTC).UnixMilli()
			p := rng.Float64()
			e := schemas.LabelledExample{
				AsOf: when - 800*hour, ObservedAt: when, LabelledAt: when, Horizon: 720 * hour, Churned: rng.Float64() < p,
				ModelVersion: int64(1 + i%2), Probability: p, Attributes: score.Attributes,
			}
			rows := record(fmt.Sprint("c", i), 0, int64(i), e)
			rows[0].Levels = score.Levels
			b.Examples = append(b.Examples, rows...)
			b.Outcomes = append(b.Outcomes, &schemas.ChurnOutcome{CustomerID: fmt.Sprint("c", i), ObservedAt: when, Churned: e.Churned})
		}
		s.mustWrite(t, b)
		for _, block := range blocks {
			if rows := s.ask(t, block[1]); len(rows) == 0 {
				t.Errorf("no rows:\n%s", block[1])
			} else {
				t.Logf("%s\n%s", block[1], strings.Join(rows[:min(len(rows), 3)], "\n"))
			}
		}
	})
}
