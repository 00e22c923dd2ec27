package sink

import (
	"database/sql"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

const hour = int64(time.Hour / time.Millisecond)

// example returns a plain example of a customer, by model 1.
func example(t testing.TB, c *company, observed string, churned bool, p float64) schemas.LabelledExample {
	t.Helper()
	when := at(t, observed)
	return schemas.LabelledExample{
		AsOf: when - 25*hour, ObservedAt: when, LabelledAt: when + 2*hour, Horizon: 24 * hour, Churned: churned,
		ModelVersion: 1, Probability: p, SourcePartition: 2, SourceOffset: 7, Attributes: scoring.NewVector(c.spec.Len()),
	}
}

// record returns the rows of a record of churn.examples.
func record(customer string, partition int32, offset int64, examples ...schemas.LabelledExample) (rows []ExampleRow) {
	for i := range examples {
		rows = append(rows, ExampleRow{LabelledExample: &examples[i], CustomerID: customer, RecordPartition: partition, RecordOffset: offset})
	}
	return rows
}

// corrected returns an example with a newer label.
func corrected(e schemas.LabelledExample, churned bool) schemas.LabelledExample {
	e.Churned, e.LabelledAt, e.Corrections = churned, e.LabelledAt+hour, e.Corrections+1
	return e
}

func testExamples(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	full := example(t, c, "2026-01-02 10:00:00.123", true, 0.75)
	full.Attributes = c.vector(t, `Month "to" month\`, 7.5, "it's üñ?")
	own := schemas.LabelledExample{ // of an outcome with attributes of its own
		AsOf: full.ObservedAt + hour, ObservedAt: full.ObservedAt + hour, LabelledAt: full.LabelledAt, Probability: scoring.Missing,
		SourcePartition: -1, SourceOffset: -1, Attributes: c.vector(t, nil, 0.0, nil),
	}
	odd := example(t, c, "2026-01-02 10:00:00.000", false, 0.25)
	odd.ObservedAt, odd.LabelledAt, odd.AsOf = math.MaxInt64, math.MinInt64, math.MinInt64
	s.mustWrite(t, &Batch{Examples: slices.Concat(record("anna", 4, 1<<40, full, own), record("odd", 1, 7, odd))})
	expectRows(t, s.ask(t, "SELECT customer_id, observed_at, as_of, labelled_at, horizon_seconds, churned, corrections, model_version, churn_probability, "+
		"source_partition, source_offset, record_partition, record_offset, Contract, tenure, `order` FROM "+s.table("churn_examples")+" ORDER BY customer_id, observed_at"),
		`anna | 2026-01-02 10:00:00.123 | 2026-01-01 09:00:00.123 | 2026-01-02 12:00:00.123 | 86400 | 1 | 0 | 1 | 0.75 | 2 | 7 | 4 | 1099511627776 | Month "to" month\ | 7.5 | it's üñ?`,
		`anna | 2026-01-02 11:00:00.123 | 2026-01-02 11:00:00.123 | 2026-01-02 12:00:00.123 | 0 | 0 | 0 | NULL | NULL | NULL | NULL | 4 | 1099511627776 | NULL | 0 | NULL`,
		`odd | 2261-12-31 23:59:59.999 | 1900-01-01 00:00:00.000 | 1900-01-01 00:00:00.000 | 86400 | 0 | 0 | 1 | 0.25 | 2 | 7 | 1 | 7 | NULL | NULL | NULL`)
}

// A record has all examples of its customer, of which the oldest are dropped some
// time.
func testExamplesFollowTheirRecords(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	e := func(day int) schemas.LabelledExample {
		return example(t, c, fmt.Sprintf("2026-01-%02d 00:00:00.000", day), false, 0.5)
	}
	write := func(rows ...[]ExampleRow) {
		t.Helper()
		s.mustWrite(t, &Batch{Examples: slices.Concat(rows...)})
	}
	expect := func(want ...string) {
		t.Helper()
		expectRows(t, s.ask(t, "SELECT customer_id, observed_at, churned, corrections FROM "+s.table("churn_examples")+" ORDER BY customer_id, observed_at"), want...)
	}
	row := func(customer string, day, churned, corrections int) string {
		return fmt.Sprintf("%s | 2026-01-%02d 00:00:00.000 | %d | %d", customer, day, churned, corrections)
	}
	write(record("anna", 1, 10, e(1), e(2)), record("bert", 1, 11, e(2)))
	write(record("anna", 1, 10, e(1), e(2))) // once more
	expect(row("anna", 1, 0, 0), row("anna", 2, 0, 0), row("bert", 2, 0, 0))
	// A later one, a corrected label, and the oldest dropped: it stays.
	write(record("anna", 1, 12, corrected(e(2), true), e(3)))
	// The topic's last word counts, also where its label was there before: a
	// labeler repairs what somebody else has written.
	write(record("emil", 1, 20, corrected(e(9), true)))
	write(record("emil", 1, 21, e(9)))
	expectRows(t, s.ask(t, "SELECT churned, corrections FROM training_set WHERE customer_id = 'emil'"), "0 | 0")
	s.mustWrite(t, &Batch{ErasedExamples: []Erasure{{"emil", 1, 22}}})
	now := []string{row("anna", 1, 0, 0), row("anna", 2, 1, 1), row("anna", 3, 0, 0), row("bert", 2, 0, 0)}
	expect(now...)
	// A sink that was held up changes nothing: neither a label nor what there is.
	write(record("anna", 1, 10, e(1), e(2)))
	expect(now...)
	// In one batch, in which the last word counts.
	write(record("anna", 1, 13, corrected(e(2), true), e(3), e(4)), record("anna", 1, 14, corrected(corrected(e(2), true), false), e(4)))
	expect(row("anna", 1, 0, 0), row("anna", 2, 0, 2), row("anna", 4, 0, 0), row("bert", 2, 0, 0))
	// One in between has been withdrawn, as has one with a label that has yet to
	// be merged.
	write(record("bert", 1, 15, corrected(e(2), true), e(3)))
	write(record("bert", 1, 16, e(1), e(3)), record("anna", 1, 17, e(3), e(5)))
	expect(row("anna", 1, 0, 0), row("anna", 2, 0, 2), row("anna", 3, 0, 0), row("anna", 5, 0, 0), row("bert", 1, 0, 0), row("bert", 3, 0, 0))
	expectRows(t, s.ask(t, "SELECT customer_id, observed_at FROM churn_examples_latest ORDER BY 1"), "anna | 2026-01-05 00:00:00.000", "bert | 2026-01-03 00:00:00.000")
	expectRows(t, s.ask(t, "SELECT customer_id, count(*), sum(corrections) FROM training_set GROUP BY 1 ORDER BY 1"), "anna | 4 | 2", "bert | 2 | 0")
	expectRows(t, s.ask(t, "SELECT observed_at FROM churn_examples_latest WHERE customer_id = 'anna'"), "2026-01-05 00:00:00.000")
}

// Whatever is written again, and however late: of every example there is one row,
// as the latest record has it, and nothing from before an erasure.
func testExamplesFollowAnyOrderOfWrites(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	const seed, kept = 1, 4
	rng := rand.New(rand.NewPCG(seed, 0))
	topic := map[string][]schemas.LabelledExample{} // as the labeler has them
	table := map[string]map[int64]schemas.LabelledExample{}
	var written []*Batch
	var offset int64
	day := 0
	for step := range 25 {
		b := &Batch{}
		for range 1 + rng.IntN(5) {
			id := fmt.Sprint("c", rng.IntN(4))
			partition := int32(id[1]) % 2
			offset++
			list := slices.Clone(topic[id])
			switch n := rng.IntN(10); {
			case n == 0:
				b.ErasedExamples = append(b.ErasedExamples, Erasure{id, partition, offset})
				delete(topic, id)
				delete(table, id)
				b.Examples = slices.DeleteFunc(b.Examples, func(r ExampleRow) bool { return r.CustomerID == id }) // as the worker does
				continue
			case n < 4 && len(list) > 0:
				i := rng.IntN(len(list))
				list[i] = corrected(list[i], !list[i].Churned)
			default:
				day++
				when := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).AddDate(0, 0, day).Format("2006-01-02 15:04:05.000")
				list = append(list, example(t, c, when, rng.IntN(2) == 0, rng.Float64()))
				list = list[max(len(list)-kept, 0):]
			}
			topic[id] = list
			if table[id] == nil {
				table[id] = map[int64]schemas.LabelledExample{}
			}
			for _, e := range list {
				table[id][e.ObservedAt] = e
			}
			b.Examples = append(b.Examples, record(id, partition, offset, list...)...)
		}
		s.mustWrite(t, b)
		written = append(written, b)
		if rng.IntN(3) == 0 { // a sink that was held up
			s.mustWrite(t, written[rng.IntN(len(written))])
		}
		if step%10 == 9 {
			s.mustMigrate(t)
		}
		var want []string
		for _, id := range slices.Sorted(maps.Keys(table)) {
			for _, when := range slices.Sorted(maps.Keys(table[id])) {
				e := table[id][when]
				want = append(want, fmt.Sprintf("%s | %s | %s | %d | %s", id, cellText(time.UnixMilli(when)), cellText(e.Churned), e.Corrections, cellText(e.Probability)))
			}
		}
		expectRows(t, s.ask(t, "SELECT customer_id, observed_at, churned, corrections, churn_probability FROM "+s.table("churn_examples")+" ORDER BY 1, 2"), want...)
		if t.Failed() {
			t.Fatalf("seed %d, step %d", seed, step)
		}
	}
}

// A customer's examples of before the erasure go again, whoever brings them back.
func testErasedExamplesStayErased(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	e := example(t, c, "2026-01-01 00:00:00.000", true, 0.5)
	later := example(t, c, "2026-01-02 00:00:00.000", true, 0.5)
	before := slices.Concat(record("erased", 1, 1, e), record("other", 1, 2, e), record("back", 1, 3, e), record("elsewhere", 0, 1, e))
	s.mustWrite(t, &Batch{Examples: before})
	b := &Batch{
		ErasedExamples: []Erasure{{"erased", 1, 4}, {"back", 1, 5}, {"elsewhere", 1, 5}, {"never seen", 1, 5}},
		Examples:       record("back", 1, 6, later),
	}
	for i := range 3000 { // more than one statement takes
		b.ErasedExamples = append(b.ErasedExamples, Erasure{fmt.Sprintf("%040d", i), int32(i % 2), 4})
	}
	check := func() {
		t.Helper()
		expectRows(t, s.ask(t, "SELECT customer_id, observed_at FROM "+s.table("churn_examples")+" ORDER BY 1"),
			"back | 2026-01-02 00:00:00.000", "elsewhere | 2026-01-01 00:00:00.000", "other | 2026-01-01 00:00:00.000")
	}
	for range 2 { // again, as after a crash
		s.mustWrite(t, b)
		check()
	}
	// A sink that was held up.
	s.mustWrite(t, &Batch{Examples: before})
	check()
	// One that ended before it could erase them.
	byHand := func() {
		s.exec(t, "INSERT INTO churn_examples (customer_id, observed_at, as_of, labelled_at, horizon_seconds, churned, corrections, record_partition, record_offset) "+
			"VALUES ('erased', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000', '2026-01-01 00:00:00.000', 1, 1, 0, 1, 3)")
	}
	byHand()
	s.mustMigrate(t)
	check()
	byHand()
	s.dueTidy()
	s.mustWrite(t, &Batch{Examples: record("other", 1, 9, e)})
	s.tidied()
	check()
	// Outcomes and scores have erasures of their own.
	s.mustWrite(t, &Batch{Erased: []Erasure{{"other", 1, 50}}, ErasedOutcomes: []string{"other"}})
	check()

	s.exec(t, strings.ReplaceAll(oldErasures[s.Name()], "TABLE", "example_erasures"))
	s.mustMigrate(t)
	eventually(t, "the old erasure gone", func() bool {
		if s.Name() == "clickhouse" {
			s.exec(t, "OPTIMIZE TABLE example_erasures FINAL")
		}
		return s.ask(t, "SELECT count(*) FROM example_erasures WHERE customer_id = 'old'")[0] == "0"
	})
	expectRows(t, s.ask(t, "SELECT count(*) FROM "+s.table("example_erasures")), "3004")
}

// oldErasures remember an erasure of customer "old" as of 91 days ago.
var oldErasures = map[string]string{
	"sqlite":     "INSERT INTO TABLE VALUES ('old', 1, 5, strftime('%Y-%m-%d %H:%M:%f', 'now', '-91 days'))",
	"clickhouse": "INSERT INTO TABLE SELECT 'old', 1, 5, now64(3) - INTERVAL 91 DAY",
}

// The views have the figures that scoring gives for the same examples.
func testExampleViews(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	rng := rand.New(rand.NewPCG(1, 0))
	type group struct {
		day     string
		version int64
		horizon float64 // seconds
	}
	type question struct {
		version int64
		horizon float64
	}
	days := map[group][]evaluation.Example{}
	versions := map[question][]evaluation.Example{}
	b := &Batch{}
	put := func(i int, day string, version int64, p float64, churned bool) {
		e := example(t, c, day+" 00:00:00.000", churned, p)
		e.ObservedAt += rng.Int64N(24 * hour)
		e.ModelVersion = version
		if i%5 == 0 { // answers another question, and is on a row of its own
			e.Horizon = 7 * 24 * hour
		}
		b.Examples = append(b.Examples, record(fmt.Sprint("c", i), 0, int64(i), e)...)
		if i%40 == 0 { // doubles, and older labels, that are not merged yet must not show
			s.mustWrite(t, b)
			s.mustWrite(t, b)
			s.mustWrite(t, &Batch{Examples: record(fmt.Sprint("c", i), 0, int64(i)+1, corrected(e, churned))})
			b.Examples = nil
		}
		g, q := group{day, version, float64(e.Horizon) / 1000}, question{version, float64(e.Horizon) / 1000}
		labelled := evaluation.Example{Customer: uint64(i), Probability: p, Churned: churned}
		days[g], versions[q] = append(days[g], labelled), append(versions[q], labelled)
	}
	n := 0
	next := func() int { n++; return n }
	for i := range 120 {
		p := rng.Float64()
		put(next(), fmt.Sprintf("2026-01-%02d", 1+i%3), 1+int64(i%2), p, rng.Float64() < p)
	}
	for _, p := range []float64{0, 1, 1e-300, 0.5, 0.1, 0.3, 0.7, 0.9, math.Nextafter(1, 0)} { // certain, wrong, on edges
		for b := range 11 { // edges of calibration bins
			put(next(), "2026-01-04", 4, min(float64(b)*0.1, 1), b%3 == 0)
		}
		put(next(), "2026-01-04", 1, p, true)
		put(next(), "2026-01-04", 1, p, false)
	}
	put(next(), "2026-01-05", 1, 0.25, false) // stayers only, nobody predicted
	put(next(), "2026-01-06", 1, 0.25, true)  // leavers only, none predicted
	put(next(), "2026-01-06", 3, 0.75, false) // predicted in vain
	b.Examples = append(b.Examples, record("no score", 0, 1, schemas.LabelledExample{
		ObservedAt: at(t, "2026-01-07 00:00:00.000"), Probability: scoring.Missing, Attributes: scoring.NewVector(3)})...)
	s.mustWrite(t, b)

	near := func(what string, got sql.NullFloat64, want float64) {
		t.Helper()
		if got.Valid == scoring.IsMissing(want) || got.Valid && math.Abs(got.Float64-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	rows, err := s.db.Query("SELECT day, model_version, horizon_seconds, examples, churned, accuracy, precision, recall, log_loss, log_loss_skill, brier FROM model_accuracy_daily")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var order []string
	for rows.Next() {
		var day any
		var version, examples, churned int64
		var horizon float64
		var got [6]sql.NullFloat64
		if err := rows.Scan(&day, &version, &horizon, &examples, &churned, &got[0], &got[1], &got[2], &got[3], &got[4], &got[5]); err != nil {
			t.Fatal(err)
		}
		date, _, _ := strings.Cut(cellText(day), " ")
		what := fmt.Sprintf("%s %d %9.0f", date, version, horizon)
		order = append(order, what)
		want := evaluation.Rank(days[group{date, version, horizon}]).Metrics()
		if examples != want.Rows || churned != want.Churners {
			t.Errorf("%s: %d examples, %d left, want %d, %d", what, examples, churned, want.Rows, want.Churners)
		}
		near(what+" accuracy", got[0], want.Accuracy)
		near(what+" precision", got[1], want.Precision)
		near(what+" recall", got[2], want.Recall)
		near(what+" log_loss", got[3], want.LogLoss)
		near(what+" log_loss_skill", got[4], want.LogLossSkill)
		near(what+" brier", got[5], want.Brier)
	}
	if err := rows.Err(); err != nil || len(order) != len(days) || !slices.IsSorted(order) {
		t.Errorf("%v, rows %v", err, order)
	}

	bins, err := s.db.Query("SELECT model_version, horizon_seconds, decile, examples, predicted, observed FROM model_calibration")
	if err != nil {
		t.Fatal(err)
	}
	defer bins.Close()
	curves := map[question][10]evaluation.CalibrationBin{}
	for of, examples := range versions {
		curves[of] = evaluation.Rank(examples).Calibration()
	}
	filled := 0
	for bins.Next() {
		var version, decile, examples int64
		var horizon, predicted, observed float64
		if err := bins.Scan(&version, &horizon, &decile, &examples, &predicted, &observed); err != nil {
			t.Fatal(err)
		}
		if want := curves[question{version, horizon}][decile]; examples != want.Rows || math.Abs(predicted-want.Predicted) > 1e-9 || math.Abs(observed-want.Observed) > 1e-9 {
			t.Errorf("version %d, decile %d: %d, %v, %v; want %+v", version, decile, examples, predicted, observed, want)
		}
		filled++
	}
	if err := bins.Err(); err != nil {
		t.Fatal(err)
	}
	for _, curve := range curves {
		for _, bin := range curve {
			if bin.Rows > 0 {
				filled--
			}
		}
	}
	if filled != 0 {
		t.Errorf("%d deciles more than have examples", filled)
	}
}
