package sink

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

func openTestSQLite(t testing.TB, attributes Attributes) *opened {
	t.Helper()
	// A path that would break a careless data source name.
	path := filepath.Join(t.TempDir(), "a ?mode=memory & #1%20.db")
	reopen := func(a Attributes) Store {
		s, err := OpenSQLite(path, a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s
	}
	s := reopen(attributes)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("the file is not where it should be: %v", err)
	}
	o := &opened{Store: s, db: s.(*SQLite).db, reopen: reopen, file: path}
	itself := func(name string) string { return name }
	o.peculiarities = peculiarities{
		table: itself, json: itself, emptyList: "'[]'", scores: []string{"churn_scores", "churn_scores_current"}, atomic: true,
		dueTidy: func() {}, tidied: func() {},
		older: func(t *testing.T, version int) {
			o.exec(t, olderTables(t, "sqlite", version))
			o.exec(t, "ALTER TABLE churn_scores ADD COLUMN `dropped one` REAL")
		},
		oldErasure: func(t *testing.T) {
			o.exec(t, "INSERT INTO erasures VALUES ('old', 1, 5, strftime('%Y-%m-%d %H:%M:%f', 'now', '-91 days'))")
			o.mustMigrate(t)
		},
	}
	return o
}

// A batch is stored as a whole or not at all, and what one Write stored is
// there for a process that opens the file anew.
func TestSQLiteWriteIsOneTransaction(t *testing.T) {
	c := threeFeatures(t)
	s := openTestSQLite(t, c)
	s.mustMigrate(t)
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "first", 0, 1, 1, 0.5, "2026-01-01 00:00:00.000")}})
	if _, err := s.db.Exec("DROP TABLE model_versions"); err != nil {
		t.Fatal(err)
	}
	err := s.Write(context.Background(), &Batch{
		Erased: []Erasure{{"first", 0, 2}},
		Scores: []*schemas.ChurnScore{score(t, c, "second", 0, 2, 1, 0.5, "2026-01-01 00:00:00.000")},
		Models: []ModelRow{{}},
	})
	if err == nil {
		t.Fatal("no error for a table that is not there")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Write(ctx, &Batch{Erased: []Erasure{{"first", 0, 2}}}); err == nil {
		t.Fatal("no error for a context that ended")
	}
	again := s.reopen(c).(*SQLite)
	expectRows(t, (&opened{Store: again, db: again.db}).ask(t, "SELECT customer_id FROM churn_scores"), "first")
}

// Readers in other connections see finished batches only and do not block the
// writer.
func TestSQLiteReadersDoNotBlock(t *testing.T) {
	c := threeFeatures(t)
	path := filepath.Join(t.TempDir(), "churn.db")
	s, err := OpenSQLite(path, c)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	store := &opened{Store: s, db: s.db}
	store.mustMigrate(t)
	store.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "a", 0, 1, 1, 0.5, "2026-01-01 00:00:00.000")}})

	reader, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	tx, err := reader.Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	count := func() (n int) {
		if err := tx.QueryRow("SELECT count(*) FROM churn_scores").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := count()
	store.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "b", 0, 2, 1, 0.5, "2026-01-01 00:00:00.000")}})
	if before != 1 || count() != 1 {
		t.Errorf("a reader's transaction saw %d then %d rows, want 1 and 1", before, count())
	}
	expectRows(t, store.ask(t, "SELECT count(*) FROM churn_scores"), "2")
}

func TestOpenSQLiteSaysWhichFile(t *testing.T) {
	dir := t.TempDir()
	_, err := OpenSQLite(filepath.Join(dir, "no such directory", "x.db"), threeFeatures(t))
	if err == nil || !strings.Contains(err.Error(), dir) {
		t.Fatalf("got %v, want an error that names the file", err)
	}
}

// What is erased is not in the file either, nor beside it; after 90 days nor is
// that it was erased.
func TestSQLiteOverwritesWhatIsErased(t *testing.T) {
	c := threeFeatures(t)
	s := openTestSQLite(t, c)
	s.mustMigrate(t)
	b := &Batch{Erased: []Erasure{{"erased customer", 0, 1000}}, ErasedOutcomes: []string{"erased customer"}}
	for i := range int64(500) {
		id := []string{"erased customer", "customer who stays"}[i%2]
		r := score(t, c, id, 0, i, 1, 0.75, "2026-01-01 00:00:00.000")
		r.EventID = fmt.Appendf(nil, "event of %s %d", id, i)
		s.mustWrite(t, &Batch{
			Scores:   []*schemas.ChurnScore{r},
			Outcomes: []*schemas.ChurnOutcome{{CustomerID: id, ObservedAt: r.OccurredAt + i}},
		})
	}
	// found counts what is legible when nobody has the file open.
	found := func(text string) (n int) {
		t.Helper()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{s.file, s.file + "-wal"} {
			data, err := os.ReadFile(name)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			n += bytes.Count(data, []byte(text))
		}
		s.Store = s.reopen(c)
		s.db = s.Store.(*SQLite).db
		return n
	}
	if found("event of erased customer") < 250 || found("erased customer") < 500 {
		t.Fatal("the file is not what it is taken for")
	}
	s.mustWrite(t, b)
	if n := found("event of erased customer"); n > 0 {
		t.Errorf("%d of the customer's events are legible in the file", n)
	}
	if n := found("erased customer"); n != 1 {
		t.Errorf("the customer's id is legible %d times in the file, want once, in erasures", n)
	}
	s.exec(t, "UPDATE erasures SET erased_at = '2020-01-01 00:00:00.000'")
	s.mustMigrate(t)
	if n := found("erased customer"); n > 0 {
		t.Errorf("the customer's id is legible %d times in the file", n)
	}
	if n := found("event of customer who stays"); n < 250 {
		t.Errorf("%d events of another customer are left", n)
	}
}

func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "Month-to-month", `"\`, "\x00\x7f", "ü", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		quoted, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, got string
		if err := json.Unmarshal(quoted, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(appendJSONString(nil, s), &got); err != nil || got != want {
			t.Fatalf("%q became %s, read back as %q (%v)", s, appendJSONString(nil, s), got, err)
		}
	})
}

// telcoBatch returns rows scores of customers customers with all of the
// shipped features and five explanations.
func telcoBatch(tb testing.TB, rows, customers int, from int64) *Batch {
	set := schemas.Telco()
	var levels scoring.Levels
	x, err := set.AttributesFromJSON([]byte(`{"gender":"Female","SeniorCitizen":"No","Partner":"Yes","Dependents":"No","tenure":1,
		"PhoneService":"No","MultipleLines":"No phone service","InternetService":"DSL","OnlineSecurity":"No","OnlineBackup":"Yes",
		"DeviceProtection":"No","TechSupport":"No","StreamingTV":"No","StreamingMovies":"No","Contract":"Month-to-month",
		"PaperlessBilling":"Yes","PaymentMethod":"Electronic check","MonthlyCharges":29.85,"TotalCharges":29.85}`), &levels)
	if err != nil {
		tb.Fatal(err)
	}
	b := &Batch{}
	for i := range rows {
		n := from + int64(i)
		s := &schemas.ChurnScore{
			CustomerID: []byte(fmt.Sprintf("%06d-CUST", (n*7919)%int64(customers))), EventID: []byte("6f1c1a52-7d0e-4a4b-9a50-6b6f6d1f0b3e"),
			OccurredAt: 1767225600000 + n, AsOf: 1767225600000 + n, ScoredAt: 1767225600005 + n, ModelVersion: 1,
			Probability: float64(n%1000) / 1000, Previous: 0.5, ExpectedProbability: 0.265,
			Attributes: x, Levels: levels, SourcePartition: int32(n % 6), SourceOffset: n / 6,
		}
		if s.Probability > 0.9 {
			s.Risk = schemas.RiskHigh
		}
		for j := range 5 {
			s.Explanations = append(s.Explanations, schemas.Explanation{Feature: 3 * j, LIME: 0.123456789 / float64(j+1), SHAP: 0.23456789 / float64(j+1)})
		}
		b.Scores = append(b.Scores, s)
	}
	return b
}

func benchmarkWrite(b *testing.B, s *opened) {
	s.mustMigrate(b)
	const rows = 10_000
	batch := telcoBatch(b, rows, 50_000, 0)
	var from int64
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for i, c := range batch.Scores {
			c.SourceOffset = (from + int64(i)) / 6
			c.CustomerID = fmt.Appendf(c.CustomerID[:0], "%06d-CUST", ((from+int64(i))*7919)%50_000)
		}
		from += rows
		b.StartTimer()
		s.mustWrite(b, batch)
	}
	b.ReportMetric(float64(from)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkSQLiteWrite(b *testing.B) { benchmarkWrite(b, openTestSQLite(b, schemas.Telco())) }
func BenchmarkClickHouseWrite(b *testing.B) {
	benchmarkWrite(b, openTestClickHouse(b, schemas.Telco()))
}
