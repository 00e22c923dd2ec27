package sink

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
)

// ledger says what the views must show after any sequence of writes.
type ledger struct {
	scores map[[4]int64]*schemas.ChurnScore // by partition, offset, version, as_of
	erased []Erasure
}

func newLedger() *ledger { return &ledger{scores: map[[4]int64]*schemas.ChurnScore{}} }

func (l *ledger) write(b *Batch) {
	for _, s := range b.Scores {
		l.scores[[4]int64{int64(s.SourcePartition), s.SourceOffset, s.ModelVersion, s.AsOf}] = s
	}
	l.erased = append(l.erased, b.Erased...)
	maps.DeleteFunc(l.scores, func(_ [4]int64, s *schemas.ChurnScore) bool {
		return slices.ContainsFunc(l.erased, func(e Erasure) bool {
			return e.CustomerID == string(s.CustomerID) && e.Partition == s.SourcePartition && s.SourceOffset < e.Offset
		})
	})
}

// latest returns the latest score of each customer, in their order.
func (l *ledger) latest() []*schemas.ChurnScore {
	of := map[string]*schemas.ChurnScore{}
	for _, s := range l.scores {
		have := of[string(s.CustomerID)]
		if have == nil || cmp.Or(cmp.Compare(s.AsOf, have.AsOf), cmp.Compare(s.SourceOffset, have.SourceOffset), cmp.Compare(s.ScoredAt, have.ScoredAt),
			cmp.Compare(s.ModelVersion, have.ModelVersion)) > 0 {
			of[string(s.CustomerID)] = s
		}
	}
	var list []*schemas.ChurnScore
	for _, s := range of {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *schemas.ChurnScore) int { return strings.Compare(string(a.CustomerID), string(b.CustomerID)) })
	return list
}

func (l *ledger) check(t *testing.T, s *opened) {
	t.Helper()
	latest := l.latest()
	text := func(list []*schemas.ChurnScore) (rows []string) {
		for _, s := range list {
			rows = append(rows, fmt.Sprintf("%s | %d | %d | %s", s.CustomerID, s.SourceOffset, s.ModelVersion, cellText(s.Probability)))
		}
		return rows
	}
	expectRows(t, s.ask(t, "SELECT customer_id, source_offset, model_version, churn_probability FROM churn_scores_latest ORDER BY customer_id"), text(latest)...)
	atRisk := slices.DeleteFunc(latest, func(s *schemas.ChurnScore) bool { return s.Risk != schemas.RiskHigh })
	slices.SortStableFunc(atRisk, func(a, b *schemas.ChurnScore) int { return cmp.Compare(b.Probability, a.Probability) })
	var rows []string
	for _, s := range atRisk {
		rows = append(rows, fmt.Sprintf("%s | %d | %s", s.CustomerID, s.ModelVersion, cellText(s.Probability)))
	}
	expectRows(t, s.ask(t, "SELECT customer_id, model_version, churn_probability FROM customers_at_risk"), rows...)
	expectRows(t, s.ask(t, "SELECT count(*) FROM "+s.table("churn_scores")), fmt.Sprint(len(l.scores)))
}

// Whatever order scores are written in, and however often: the views show the
// latest of each customer, nobody is at risk whose latest score is not HIGH,
// and nothing from before an erasure is there.
func testViewsFollowAnyOrderOfWrites(t *testing.T, open opener) {
	c := threeFeatures(t)
	const seed = 1
	s := open(t, c)
	s.mustMigrate(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	l := newLedger()
	for step := range 30 {
		b := &Batch{}
		if rng.IntN(8) == 0 {
			customer := rng.Int64N(6)
			b.Erased = append(b.Erased, Erasure{fmt.Sprint("c", customer), int32(customer % 3), rng.Int64N(12)})
		}
		for range rng.IntN(8) {
			// The same few positions again and again, scored anew.
			offset, version := rng.Int64N(24), 1+rng.Int64N(2)
			customer := offset % 6
			p := float64(1+rng.IntN(1<<20)) / (1<<20 + 1)
			r := score(t, c, fmt.Sprint("c", customer), int32(customer%3), offset, version, p, "2026-01-01 00:00:00.000")
			// Some were scored in an odd order, or before 1970.
			r.ScoredAt += (offset*37%5-2)*version*1000 - offset%2*(60*365*86_400_000)
			b.Scores = append(b.Scores, r)
		}
		s.mustWrite(t, b)
		switch {
		case step%10 == 9: // a restart
			s.mustMigrate(t)
		case step%3 == 0: // tidying, beside what comes next
			s.dueTidy()
		}
		l.write(b)
		l.check(t, s)
		if t.Failed() {
			t.Fatalf("seed %d, step %d", seed, step)
		}
	}
}

// A customer's way from HIGH to LOW and back, in the orders that rewriting can
// bring.
func testNobodyStaysAtRiskForAnOldScore(t *testing.T, open opener) {
	c := threeFeatures(t)
	tests := []struct{ name, batches string }{
		// h, l: offsets 1 and 2. H: offset 3. r: offset 3 under a later model,
		// LOW. x erases before offset 2, X before offset 4, T tidies.
		{"one by one", "h l"},
		{"one batch", "hl"},
		{"the first written again", "h l h"},
		{"the first written late", "l h"},
		{"late, in a batch", "l hl"},
		{"re-scored", "h l H r"},
		{"re-scored, the rest late", "r hlH"},
		{"all, then the first again", "hlHr h H"},
		{"erased", "h X"},
		{"erased, a customer again", "h x l"},
		{"erased, a customer again, all in one batch", "hxl"},
		{"erased, old ones come late", "l X l h"},
		{"erased, a customer again, old ones come late", "h x l h"},
		{"erased twice, old ones come late", "h xX hlHr"},
		{"erased before there was anything", "X hl"},
		{"tidied, the first written again", "h l T h"},
	}
	s := open(t, c)
	s.mustMigrate(t)
	l := newLedger()
	write := func(b *Batch) {
		t.Helper()
		s.mustWrite(t, b)
		l.write(b)
		l.check(t, s)
	}
	for i, test := range tests {
		at := func(offset, version int64, p float64) *schemas.ChurnScore {
			r := score(t, c, test.name, int32(i), offset, version, p, "2026-01-01 00:00:00.000")
			r.ScoredAt += version
			return r
		}
		for _, batch := range strings.Fields(test.batches) {
			b := &Batch{}
			for _, r := range batch {
				switch r {
				case 'h':
					b.Scores = append(b.Scores, at(1, 1, 0.75))
				case 'l':
					b.Scores = append(b.Scores, at(2, 1, 0.25))
				case 'H':
					b.Scores = append(b.Scores, at(3, 1, 0.875))
				case 'r':
					b.Scores = append(b.Scores, at(3, 2, 0.125))
				case 'T':
					s.mustMigrate(t)
				case 'x':
					b.Erased = append(b.Erased, Erasure{test.name, int32(i), 2})
				case 'X':
					b.Erased = append(b.Erased, Erasure{test.name, int32(i), 4})
				}
			}
			write(b)
		}
		atRisk := "SELECT churn_probability FROM customers_at_risk WHERE customer_id = '" + test.name + "'"
		expectRows(t, s.ask(t, atRisk))
		write(&Batch{Scores: []*schemas.ChurnScore{at(9, 1, 0.625)}})
		expectRows(t, s.ask(t, atRisk), "0.625")
		if t.Failed() {
			t.Fatal(test.name)
		}
	}
}

// insertByHand writes a plain score as something else than this program does.
func insertByHand(t *testing.T, s *opened, table, customer string, offset int64, p float64, more ...string) *schemas.ChurnScore {
	t.Helper()
	r := score(t, threeFeatures(t), customer, 1, offset, 1, p, "2026-01-01 00:00:00.000")
	names, values := "", ""
	for i := 0; i < len(more); i += 2 {
		names, values = names+", `"+more[i]+"`", values+", "+more[i+1]
	}
	s.exec(t, fmt.Sprintf("INSERT INTO %s (customer_id, event_id, occurred_at, scored_at, model_version, churn_probability, risk, "+
		"expected_probability, explanations, missing, source_partition, source_offset%s) "+
		"VALUES ('%s', 'e', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.005', 1, %v, '%s', 0.25, %s, %s, 1, %d%s)",
		table, names, customer, p, r.Risk, s.emptyList, s.emptyList, offset, values))
	return r
}

// A customer's scores of before the erasure go again, whoever brings them back,
// and those of after it stay.
func testErasedStayErased(t *testing.T, open opener) {
	c := threeFeatures(t)
	comeBack := []struct {
		name  string
		write func(t *testing.T, s *opened)
		now   bool // are they gone when write returns?
	}{
		{"a sink that was held up", func(t *testing.T, s *opened) {
			b := &Batch{}
			for version := range int64(40) {
				b.Scores = append(b.Scores,
					score(t, c, "erased", 1, 1, version, 0.75, "2026-01-01 00:00:00.000"),
					score(t, c, "other", 1, 2, 1, 0.75, "2026-01-01 00:00:00.000"),
					score(t, c, "back", 1, 3, version, 0.75, "2026-01-01 00:00:00.000"))
			}
			s.mustWrite(t, b)
		}, true},
		{"a sink that ended before it could erase them", func(t *testing.T, s *opened) {
			insertByHand(t, s, "churn_scores", "erased", 1, 0.75)
			insertByHand(t, s, "churn_scores", "back", 3, 0.75)
		}, false},
		{"the migration of another sink", func(t *testing.T, s *opened) {
			if s.atomic {
				t.Skip("a migration is one transaction")
			}
			for _, table := range s.scores[1:] {
				insertByHand(t, s, table, "erased", 1, 0.75)
				insertByHand(t, s, table, "back", 3, 0.75)
			}
		}, false},
	}
	ends := []struct {
		name string
		end  func(t *testing.T, s *opened)
	}{
		{"tidied", func(t *testing.T, s *opened) {
			s.dueTidy()
			s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "next", 0, 90, 1, 0.25, "2026-01-01 00:00:00.000")}})
			s.tidied()
		}},
		{"started again", func(t *testing.T, s *opened) { s.mustMigrate(t) }},
	}
	s := open(t, c)
	s.mustMigrate(t)
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{
		score(t, c, "erased", 1, 1, 1, 0.75, "2026-01-01 00:00:00.000"),
		score(t, c, "other", 1, 2, 1, 0.75, "2026-01-01 00:00:00.000"),
		score(t, c, "back", 1, 3, 1, 0.75, "2026-01-01 00:00:00.000"),
	}})
	s.mustWrite(t, &Batch{
		Erased: []Erasure{{"erased", 1, 4}, {"back", 1, 5}},
		Scores: []*schemas.ChurnScore{score(t, c, "back", 1, 6, 1, 0.875, "2026-01-01 00:00:00.000")},
	})
	check := func(t *testing.T) {
		t.Helper()
		for _, table := range s.scores {
			expectRows(t, s.ask(t, "SELECT customer_id, source_offset FROM "+s.table(table)+" WHERE source_partition = 1 ORDER BY 1"), "back | 6", "other | 2")
		}
		expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk"), "back", "other")
	}
	check(t)
	for _, how := range comeBack {
		for _, end := range ends {
			t.Run(how.name+", "+end.name, func(t *testing.T) {
				how.write(t, s)
				if how.now || s.atomic {
					check(t)
				}
				end.end(t, s)
				check(t)
			})
		}
	}

	// In the end nothing is left of the customer.
	s.oldErasure(t)
	expectRows(t, s.ask(t, "SELECT customer_id, source_partition, source_offset FROM "+s.table("erasures")+" ORDER BY 1"), "back | 1 | 5", "erased | 1 | 4")
}

// Tables of an older version, with rows and a column of a feature that the
// schema has dropped since, become those of today; the views have the same
// columns.
func testMigrateFromOlderVersions(t *testing.T, open opener) {
	for version := 1; version <= 4; version++ {
		t.Run(fmt.Sprint("version ", version), func(t *testing.T) { testMigrateFrom(t, open(t, schemas.Telco()), version) })
	}
}

// A feature may have been called what an own column is called now.
func testMigrateRefusesAFeatureOfAnOwnName(t *testing.T, open opener) {
	s := open(t, schemas.Telco())
	s.older(t, 3)
	s.exec(t, "ALTER TABLE churn_scores ADD COLUMN `trigger` REAL")
	if err := s.Migrate(t.Context()); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "trigger") {
		t.Errorf("got %v, want ErrSchema naming the column", err)
	}
}

// olderTables returns the statements that make the tables of an older version.
func olderTables(t *testing.T, store string, version int) string {
	t.Helper()
	statements, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("version_%d_%s.sql", version, store)))
	if err != nil {
		t.Fatal(err)
	}
	return string(statements)
}

func testMigrateFrom(t *testing.T, s *opened, version int) {
	s.older(t, version)
	l := newLedger()
	old := func(customer string, offset int64, p float64) {
		t.Helper()
		r := insertByHand(t, s, "churn_scores", customer, offset, p, "Contract", "'One year'", "tenure", "7", "dropped one", "3")
		l.write(&Batch{Scores: []*schemas.ChurnScore{r}})
	}
	for i := range 20 {
		old(fmt.Sprint("c", i%5), int64(i), []float64{0.25, 0.75, 0.875}[i%3])
	}
	columnsOf := func(view string) []string {
		rows, err := s.db.Query("SELECT * FROM " + view)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		names, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		// In ClickHouse a view has the columns of the time it was made.
		return slices.DeleteFunc(names, func(name string) bool { return name == "dropped one" })
	}
	views := []string{"churn_scores_latest", "customers_at_risk"}
	var before [][]string
	for _, view := range views {
		before = append(before, columnsOf(view))
	}
	if version == 1 { // later ones have work for settle
		l.check(t, s) // the ledger reads the old views as it does the new
	}

	s.mustMigrate(t)
	l.check(t, s)
	// Own columns that there have been since.
	before[0] = append(before[0], columns.Names(columns.Score)...)
	slices.Sort(before[0])
	before[0] = slices.Compact(before[0])
	for i, view := range views {
		expectRows(t, columnsOf(view), before[i]...)
	}
	expectRows(t, s.ask(t, "SELECT DISTINCT `trigger` FROM "+s.table("churn_scores")+" WHERE as_of = occurred_at"), "EVENT")
	expectRows(t, s.ask(t, "SELECT DISTINCT Contract, tenure, `dropped one` FROM churn_scores_latest"), "One year | 7 | 3")
	expectRows(t, s.ask(t, "SELECT max(version) FROM schema_migrations"), "5")

	// A program of the old version that has yet to end writes on. What it
	// leaves undone, the next start does.
	old("c1", 30, 0.125)
	old("c2", 31, 0.9375)
	old("new", 32, 0.9375)
	s.mustMigrate(t)
	l.check(t, s)

	// It knows nothing of erasures either.
	b := &Batch{Erased: []Erasure{{"c2", 1, 40}, {"c3", 1, 40}}}
	s.mustWrite(t, b)
	l.write(b)
	l.check(t, s)
	old("c2", 33, 0.9375)
	old("c3", 43, 0.9375)
	s.mustMigrate(t)
	l.check(t, s)

	// Broken off before the version was noted.
	if !s.atomic {
		s.exec(t, "TRUNCATE TABLE schema_migrations")
		s.exec(t, fmt.Sprintf("INSERT INTO schema_migrations (version, applied_at) SELECT %d, now64(3)", version))
		s.mustMigrate(t)
		l.check(t, s)
	}
	b = &Batch{}
	for _, r := range telcoBatch(t, 4, 4, 1000).Scores {
		r.Probability, r.Risk = 0.25, schemas.RiskLow
		b.Scores = append(b.Scores, r)
	}
	b.Scores[0].CustomerID = []byte("new")
	b.Scores[0].SourceOffset = 400
	s.mustWrite(t, b)
	l.write(b)
	l.check(t, s)
}

func TestClickHouseRetention(t *testing.T) {
	c := threeFeatures(t)
	s := openTestClickHouse(t, c)
	ch := s.Store.(*ClickHouse)
	ttl := func() string {
		return s.ask(t, "SELECT extract(engine_full, 'TTL [^ ]+ . [^ ]+') FROM system.tables WHERE database = currentDatabase() AND name = 'churn_scores'")[0]
	}
	s.mustMigrate(t)
	if got := ttl(); got != "" {
		t.Errorf("without a setting there is a %s", got)
	}
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "old", 0, 1, 1, 0.75, "2020-01-01 00:00:00.000")}})
	for _, days := range []int{400, 400, 30} {
		ch.retention = days
		s.mustMigrate(t)
		if want := fmt.Sprintf("TTL toDateTime(scored_at) + toIntervalDay(%d)", days); ttl() != want {
			t.Errorf("got %q, want %q", ttl(), want)
		}
	}
	ch.retention = 0
	s.mustMigrate(t)
	if ttl() == "" {
		t.Error("a TTL that was set by hand is gone")
	}
	eventually(t, "the old score gone", func() bool {
		s.db.Exec("OPTIMIZE TABLE churn_scores FINAL")
		return s.ask(t, "SELECT count() FROM churn_scores")[0] == "0"
	})
	expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk"), "old")
	expectRows(t, s.ask(t, "SELECT customer_id FROM churn_scores_latest"), "old")
	if _, err := OpenClickHouse(ClickHouseConfig{Addr: "127.0.0.1:1", RetentionDays: -1}, c); err == nil {
		t.Error("no error for a negative retention")
	}
	if _, err := OpenClickHouse(ClickHouseConfig{Addr: "127.0.0.1:1", Protocol: "grpc"}, c); err == nil {
		t.Error("no error for an unknown protocol")
	}
}

// scoreRows is how many scores the tables hold when the views are timed:
// CHURN_SINK_ROWS, or few.
func scoreRows(t *testing.T) int {
	rows, err := strconv.Atoi(cmp.Or(os.Getenv("CHURN_SINK_ROWS"), "5000"))
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// Tidying leaves those at risk, and no other rows.
func TestClickHouseTidies(t *testing.T) {
	c := threeFeatures(t)
	s := openTestClickHouse(t, c)
	ch := s.Store.(*ClickHouse)
	s.mustMigrate(t)
	for i, p := range []float64{0.75, 0.25, 0.875} {
		b := &Batch{}
		for k := range int64(3) {
			if i < 2 || k == 0 {
				b.Scores = append(b.Scores, score(t, c, fmt.Sprint("c", k), 0, int64(i)*10+k, 1, p, "2026-01-01 00:00:00.000"))
			}
		}
		s.mustWrite(t, b)
	}
	rows := func() []string {
		return s.ask(t, "SELECT customer_id, churn_probability FROM churn_scores_at_risk ORDER BY ALL")
	}
	if len(rows()) < 4 {
		t.Errorf("there is nothing to tidy: %q", rows())
	}
	ch.tidied.Store(0)
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "other", 0, 40, 1, 0.25, "2026-01-01 00:00:00.000")}})
	ch.tidying.Wait()
	expectRows(t, rows(), "c0 | 0.875")
	expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk"), "c0")
}

// A query's times do not depend on how many scores there are, only on how
// many customers are at risk. Ten scores per customer, a twentieth HIGH.
func TestCustomersAtRiskIsQuick(t *testing.T) {
	set := schemas.Telco()
	rows := scoreRows(t)
	timeViews := func(t *testing.T, s *opened, rows int) {
		s.mustWrite(t, telcoBatch(t, 1000, max(rows/10, 1), int64(rows)))
		p50 := func(query string, n int) time.Duration {
			var times []time.Duration
			for range n {
				start := time.Now()
				if got := s.ask(t, query); len(got) == 0 {
					t.Fatalf("%s: no rows", query)
				}
				times = append(times, time.Since(start))
			}
			slices.Sort(times)
			t.Logf("%d scores, p50 %v, p95 %v: %s", rows, times[n/2].Round(10*time.Microsecond), times[n*19/20].Round(10*time.Microsecond), query)
			return times[n/2]
		}
		quick := p50("SELECT * FROM customers_at_risk LIMIT 100", 40)
		p50(fmt.Sprintf("SELECT * FROM churn_scores_latest WHERE customer_id = '%06d-CUST'", rows/20), 40)
		all := p50("SELECT risk, count(*) FROM churn_scores_latest GROUP BY risk", 5)
		t.Logf("customers_at_risk takes %.3f of the time that it takes to look at every customer", quick.Seconds()/all.Seconds())
		if rows >= 1_000_000 && quick > all {
			t.Errorf("those at risk are found in %v, all are looked at in %v", quick, all)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		s := openTestSQLite(t, set)
		s.mustMigrate(t)
		rows := min(rows, 400_000)
		start := time.Now()
		for from := 0; from < rows; from += 10_000 {
			s.mustWrite(t, telcoBatch(t, min(10_000, rows-from), max(rows/10, 1), int64(from)))
		}
		t.Logf("%d scores written in %v", rows, time.Since(start).Round(time.Millisecond))
		timeViews(t, s, rows)
	})
	t.Run("clickhouse", func(t *testing.T) {
		s := openTestClickHouse(t, set)
		s.mustMigrate(t)
		start := time.Now()
		// The server makes the rows by itself: the copying is what takes time.
		base := telcoBatch(t, 1, 1, 0)
		base.Scores[0].CustomerID = []byte("template")
		s.mustWrite(t, base)
		const step = 200_000
		for from := 0; from < rows; from += step {
			_, err := s.db.Exec(fmt.Sprintf(`INSERT INTO churn_scores
SELECT s.* REPLACE (
    leftPad(toString((n * 7919) %% %d), 6, '0') || '-CUST' AS customer_id,
    toString(generateUUIDv4(n)) AS event_id,
    scored_at + n / 1000 AS scored_at,
    intHash32(n) / 4294967296 AS churn_probability,
    if(intHash32(n) / 4294967296 > 0.95, 'HIGH', 'LOW') AS risk,
    n %% 6 AS source_partition,
    1 + intDiv(n, 6) AS source_offset,
    n %% 72 AS tenure)
FROM churn_scores AS s CROSS JOIN (SELECT number AS n FROM numbers(%d, %d)) AS numbers
WHERE s.customer_id = 'template'`, max(rows/10, 1), from, min(step, rows-from)))
			if err != nil {
				t.Fatal(err)
			}
		}
		s.mustMigrate(t)
		t.Logf("%d scores made in %v", rows, time.Since(start).Round(time.Millisecond))
		timeViews(t, s, rows)
	})
}
