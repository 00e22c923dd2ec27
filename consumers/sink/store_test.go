package sink

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// company is an Attributes of any names, also of those that an Avro schema
// could not have.
type company struct {
	spec   *scoring.Spec
	levels *scoring.Vocabulary
}

func newCompany(t testing.TB, features ...scoring.Feature) *company {
	t.Helper()
	spec, err := scoring.NewSpec(features)
	if err != nil {
		t.Fatal(err)
	}
	return &company{spec, scoring.NewVocabulary(spec)}
}

func (c *company) Spec() *scoring.Spec { return c.spec }

func (c *company) Text(feature int, x float64, levels scoring.Levels) string {
	if scoring.IsMissing(x) {
		return ""
	}
	if c.spec.Feature(feature).Kind == scoring.Categorical {
		return c.levels.Text(feature, x, levels)
	}
	return strconv.FormatFloat(x, 'f', -1, 64)
}

// vector returns values given as level, number or nil.
func (c *company) vector(t testing.TB, values ...any) scoring.Vector {
	t.Helper()
	x := scoring.NewVector(c.spec.Len())
	for i, v := range values {
		switch v := v.(type) {
		case string:
			code, err := c.levels.CodeString(i, v)
			if err != nil {
				t.Fatal(err)
			}
			x[i] = code
		case float64:
			x[i] = v
		}
	}
	return x
}

func numeric(name string) scoring.Feature { return scoring.Feature{Name: name, Kind: scoring.Numeric} }
func categorical(name string) scoring.Feature {
	return scoring.Feature{Name: name, Kind: scoring.Categorical}
}

func threeFeatures(t testing.TB) *company {
	return newCompany(t, categorical("Contract"), numeric("tenure"), categorical("order"))
}

// at returns the milliseconds of a UTC time such as "2026-01-31 10:00:00.000".
func at(t testing.TB, text string) int64 {
	t.Helper()
	v, err := time.Parse("2006-01-02 15:04:05.000", text)
	if err != nil {
		t.Fatal(err)
	}
	return v.UnixMilli()
}

// score returns a plain score of a customer.
func score(t testing.TB, c *company, customer string, partition int32, offset, version int64, p float64, occurred string) *schemas.ChurnScore {
	risk := schemas.RiskLow
	if p >= 0.6 {
		risk = schemas.RiskHigh
	} else if p >= 0.3 {
		risk = schemas.RiskMedium
	}
	return &schemas.ChurnScore{
		CustomerID: []byte(customer), EventID: []byte("00000000-0000-4000-8000-00000000000" + strconv.FormatInt(offset%10, 10)),
		OccurredAt: at(t, occurred), ScoredAt: at(t, occurred) + 5, ModelVersion: version,
		Probability: p, Previous: scoring.Missing, Risk: risk, ExpectedProbability: 0.25,
		Attributes:      scoring.NewVector(c.spec.Len()),
		SourcePartition: partition, SourceOffset: offset, AsOf: at(t, occurred),
	}
}

func (s *opened) mustMigrate(t testing.TB) {
	t.Helper()
	if err := s.Migrate(context.Background()); err != nil {
		t.Fatal(err)
	}
}

func (s *opened) exec(t testing.TB, statement string) {
	t.Helper()
	if _, err := s.db.Exec(statement); err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
}

func (s *opened) mustWrite(t testing.TB, b *Batch) {
	t.Helper()
	if err := s.Write(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

// ask returns a query's rows as text, cells separated by " | ".
func (s *opened) ask(t testing.TB, query string) []string {
	t.Helper()
	rows, err := s.db.Query(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		t.Fatal(err)
	}
	var result []string
	for rows.Next() {
		cells := make([]any, len(types))
		for i := range cells {
			cells[i] = new(any)
		}
		if err := rows.Scan(cells...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		text := make([]string, len(cells))
		for i, c := range cells {
			text[i] = cellText(*c.(*any))
			if types[i].DatabaseTypeName() == "Date" {
				text[i], _, _ = strings.Cut(text[i], " ")
			}
		}
		result = append(result, strings.Join(text, " | "))
	}
	if err := rows.Err(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return result
}

func cellText(v any) string {
	switch v := v.(type) {
	case nil:
		return "NULL"
	case *string:
		if v == nil {
			return "NULL"
		}
		return *v
	case *float64:
		if v == nil {
			return "NULL"
		}
		return cellText(*v)
	case time.Time:
		return v.UTC().Format("2006-01-02 15:04:05.000")
	case float64:
		return strconv.FormatFloat(v, 'g', 12, 64)
	case bool:
		if v {
			return "1"
		}
		return "0"
	}
	return fmt.Sprint(v)
}

func expectRows(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got rows\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func testStoreKeepsEveryColumn(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	full := &schemas.ChurnScore{
		CustomerID: []byte("7590-VHVEG"), EventID: []byte("6f1c1a52-7d0e-4a4b-9a50-6b6f6d1f0b3e"),
		OccurredAt: at(t, "2026-01-31 10:00:00.123"), ScoredAt: at(t, "2026-01-31 10:00:00.130"), ModelVersion: 3,
		Probability: 0.75, Previous: 0.5, Risk: schemas.RiskHigh, ExpectedProbability: 0.25,
		Explanations: []schemas.Explanation{
			{Feature: 0, LIME: 0.25, SHAP: 0.125},
			{Feature: 2, LIME: -0.0625, SHAP: scoring.Missing},
			{Feature: 1, LIME: scoring.Missing, SHAP: 0.03125},
		},
		Missing:         []int{1},
		Attributes:      c.vector(t, `Month "to" month\`, nil, "it's üñ?"),
		SourcePartition: 4, SourceOffset: 1 << 40,
		HasBestChange: true, BestChange: schemas.BestChange{Feature: 1, Value: 24, Probability: 0.375},
	}
	bare := score(t, c, "bare", 1, 7, 3, 0.125, "2026-02-01 00:00:00.001")
	// A tenure of 0 is a value; times beyond what a store holds are not
	// errors.
	bare.Attributes = c.vector(t, nil, 0.0, nil)
	bare.OccurredAt, bare.ScoredAt = math.MaxInt64, math.MinInt64
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{full, bare}})

	names := "customer_id, event_id, occurred_at, scored_at, model_version, churn_probability, previous_probability, risk, " +
		"expected_probability, best_change_feature, best_change_value, best_change_probability, source_partition, source_offset, Contract, tenure, `order`"
	expectRows(t, s.ask(t, "SELECT "+names+" FROM "+s.table("churn_scores")+" ORDER BY customer_id"),
		`7590-VHVEG | 6f1c1a52-7d0e-4a4b-9a50-6b6f6d1f0b3e | 2026-01-31 10:00:00.123 | 2026-01-31 10:00:00.130 | 3 | 0.75 | 0.5 | HIGH | `+
			`0.25 | tenure | 24 | 0.375 | 4 | 1099511627776 | Month "to" month\ | NULL | it's üñ?`,
		`bare | 00000000-0000-4000-8000-000000000007 | 2261-12-31 23:59:59.999 | 1900-01-01 00:00:00.000 | 3 | 0.125 | NULL | LOW | `+
			`0.25 | NULL | NULL | NULL | 1 | 7 | NULL | 0 | NULL`)

	expectRows(t, s.ask(t, "SELECT "+s.json("explanations")+", "+s.json("missing")+" FROM "+s.table("churn_scores")+" ORDER BY customer_id"),
		`[{"feature":"Contract","value":"Month \"to\" month\\","lime":0.25,"shap":0.125},`+
			`{"feature":"order","value":"it's üñ?","lime":-0.0625,"shap":null},`+
			`{"feature":"tenure","value":null,"lime":null,"shap":0.03125}] | ["tenure"]`,
		`[] | []`)
}

func testStoreKeepsOutcomesAndModels(t *testing.T, open opener) {
	s := open(t, threeFeatures(t))
	s.mustMigrate(t)
	metrics := evaluation.NoMetrics()
	metrics.Rows, metrics.Churners, metrics.Accuracy, metrics.LogLoss = 100, 25, 0.75, math.Inf(1)
	metrics.PRAUC, metrics.Lower.PRAUC, metrics.Upper.PRAUC = 0.625, 0.5, 0.6875
	first := ModelRow{Offset: 11, ModelVersion: schemas.ModelVersion{
		Version: 1, CreatedAt: at(t, "2026-01-01 00:00:00.500"), Stage: schemas.StageChampion, Reason: "first",
		Payload: `{"a":"ü"}`, SHA256: "ab", Metrics: metrics,
		TrainingStart: at(t, "2025-01-01 00:00:00.100"), TrainingEnd: at(t, "2025-12-31 00:00:00.100"), TrainingRows: 900, LabelsSeen: 1000,
		FeatureFingerprint: "f", MediumThreshold: 0.25, HighThreshold: 0.5,
		Baseline: []schemas.BaselineDistribution{
			{Name: "Contract", Bins: []string{"One year", "\x01"}, Frequencies: []float64{0.5, 0.5}}, {Name: "empty"}},
	}}
	second := first
	second.Version, second.Offset, second.Stage = 2, 12, schemas.StageChallenger
	champion := evaluation.NoMetrics()
	champion.Rows, champion.Accuracy, champion.TopDecileLift, champion.PRAUC = 100, 0.875, 2, 0.5625
	second.ChampionMetrics = &champion
	retired := first
	retired.Offset, retired.Stage = 13, schemas.StageRetired
	s.mustWrite(t, &Batch{Models: []ModelRow{first, second}})
	s.mustWrite(t, &Batch{Models: []ModelRow{retired}})
	expectRows(t, s.ask(t, "SELECT version, created_at, stage, reason, payload, sha256, holdout_rows, accuracy, log_loss, champion_accuracy, champion_top_decile_lift, "+
		"training_start, training_end, training_rows, labels_seen, feature_fingerprint, medium_threshold, high_threshold, record_offset FROM "+
		s.table("model_versions")+" ORDER BY version"),
		`1 | 2026-01-01 00:00:00.500 | RETIRED | first | {"a":"ü"} | ab | 100 | 0.75 | NULL | NULL | NULL | 2025-01-01 00:00:00.100 | 2025-12-31 00:00:00.100 | 900 | 1000 | f | 0.25 | 0.5 | 13`,
		`2 | 2026-01-01 00:00:00.500 | CHALLENGER | first | {"a":"ü"} | ab | 100 | 0.75 | NULL | 0.875 | 2 | 2025-01-01 00:00:00.100 | 2025-12-31 00:00:00.100 | 900 | 1000 | f | 0.25 | 0.5 | 12`)
	expectRows(t, s.ask(t, "SELECT version, holdout_churners, roc_auc, pr_auc, pr_auc_lower, pr_auc_upper, brier_lower, champion_pr_auc FROM "+
		s.table("model_versions")+" ORDER BY version"),
		"1 | 25 | NULL | 0.625 | 0.5 | 0.6875 | NULL | NULL", "2 | 25 | NULL | 0.625 | 0.5 | 0.6875 | NULL | 0.5625")
	expectRows(t, s.ask(t, "SELECT "+s.json("baseline")+" FROM "+s.table("model_versions")+" WHERE version = 2"),
		`[{"name":"Contract","bins":["One year","\u0001"],"frequencies":[0.5,0.5]},{"name":"empty","bins":[],"frequencies":[]}]`)

	when := at(t, "2026-03-01 12:00:00.000")
	s.mustWrite(t, &Batch{Outcomes: []*schemas.ChurnOutcome{
		{CustomerID: "a", ObservedAt: when, Source: "crm"},
		{CustomerID: "a", ObservedAt: when + 1, Churned: true},
		{CustomerID: "b", ObservedAt: when, Churned: true, Source: "crm"},
	}})
	// The same outcome again, corrected.
	s.mustWrite(t, &Batch{Outcomes: []*schemas.ChurnOutcome{{CustomerID: "b", ObservedAt: when, Source: "warehouse"}}})
	expectRows(t, s.ask(t, "SELECT customer_id, observed_at, churned, source FROM "+s.table("churn_outcomes")+" ORDER BY customer_id, observed_at"),
		"a | 2026-03-01 12:00:00.000 | 0 | crm", "a | 2026-03-01 12:00:00.001 | 1 | ", "b | 2026-03-01 12:00:00.000 | 0 | warehouse")
}

func testStoreWrittenAgainHasNoDoubles(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	b := &Batch{}
	for i := range 100 {
		b.Scores = append(b.Scores, score(t, c, fmt.Sprint("c", i%7), int32(i%3), int64(i), 1, 0.5, "2026-01-01 00:00:00.000"))
	}
	s.mustWrite(t, b)
	s.mustWrite(t, b)
	// An overlapping batch, as after a crash, whose scores were computed
	// anew.
	again := &Batch{}
	for _, r := range b.Scores[40:] {
		anew := *r
		anew.Probability = 0.75
		again.Scores = append(again.Scores, &anew)
	}
	// The same event under another model is another score.
	rescored := *b.Scores[0]
	rescored.ModelVersion = 2
	again.Scores = append(again.Scores, &rescored)
	s.mustWrite(t, again)
	expectRows(t, s.ask(t, "SELECT model_version, churn_probability, count(*) FROM "+s.table("churn_scores")+" GROUP BY 1, 2 ORDER BY 1, 2"),
		"1 | 0.5 | 40", "1 | 0.75 | 60", "2 | 0.5 | 1")
	expectRows(t, s.ask(t, "SELECT count(*) FROM churn_scores_latest"), "7")
}

func testStoreErases(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	odd := `o'dd \ ? {x:String} "` + "`\x01"
	when := at(t, "2026-03-01 12:00:00.000")
	outcome := func(id string) *schemas.ChurnOutcome {
		return &schemas.ChurnOutcome{CustomerID: id, ObservedAt: when}
	}
	plain := func(id string, partition int32, offset int64) *schemas.ChurnScore {
		return score(t, c, id, partition, offset, 1, 0.5, "2026-01-01 00:00:00.000")
	}
	s.mustWrite(t, &Batch{
		Scores: []*schemas.ChurnScore{
			plain("keep", 0, 1), plain(odd, 0, 2), plain("back", 0, 3),
			plain("in two places", 0, 4), plain("in two places", 1, 5),
		},
		Outcomes: []*schemas.ChurnOutcome{outcome("keep"), outcome(odd), outcome("back"), outcome("mistake")},
	})
	b := &Batch{
		// One of them twice, as a customer who came back and left again.
		Erased:         []Erasure{{odd, 0, 8}, {odd, 0, 2}, {"back", 0, 8}, {"never seen", 0, 8}, {"in two places", 0, 8}},
		ErasedOutcomes: []string{"mistake", odd},
		// Newer than the erasures.
		Scores:   []*schemas.ChurnScore{plain("back", 0, 9)},
		Outcomes: []*schemas.ChurnOutcome{outcome(odd)},
	}
	// So many that they do not fit into one statement.
	for i := range 3000 {
		b.Erased = append(b.Erased, Erasure{fmt.Sprintf("%040d", i), int32(i % 2), 8})
		b.ErasedOutcomes = append(b.ErasedOutcomes, fmt.Sprintf("%040d", i))
	}
	scores := "SELECT customer_id, source_offset FROM " + s.table("churn_scores") + " ORDER BY 1"
	for range 2 { // again, as after a crash
		s.mustWrite(t, b)
		expectRows(t, s.ask(t, scores), "back | 9", "in two places | 5", "keep | 1")
		// Scores and outcomes are erased by tombstones of their own.
		expectRows(t, s.ask(t, "SELECT customer_id FROM "+s.table("churn_outcomes")+" ORDER BY 1"), "back", "keep", odd)
	}
}

func testViews(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	risky := score(t, c, "risky", 0, 30, 1, 0.75, "2026-01-03 10:00:00.000")
	risky.Attributes = c.vector(t, "Monthly", nil, "x")
	risky.Explanations = []schemas.Explanation{
		{Feature: 0, LIME: 0.256, SHAP: 0.1},
		{Feature: 2, LIME: -0.2, SHAP: 0.3},
		{Feature: 1, LIME: scoring.Missing, SHAP: 0.1},
	}
	risky.HasBestChange, risky.BestChange = true, schemas.BestChange{Feature: 1, Value: 24, Probability: 0.5}
	riskier := score(t, c, "riskier", 1, 5, 1, 0.875, "2026-01-01 00:00:00.000")
	riskier.Attributes = c.vector(t, nil, 7.5, nil)
	// A late event: it happened before the one scored above, but came
	// after it, so its score is the latest.
	late := score(t, c, "late", 0, 41, 1, 0.625, "2026-01-01 00:00:00.000")
	late.AsOf = at(t, "2026-01-02 00:00:00.000")
	// Scored again by a later model.
	rescored := score(t, c, "rescored", 0, 50, 2, 0.125, "2026-01-04 00:00:00.000")
	rescored.ScoredAt += 3_600_000
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{
		score(t, c, "risky", 0, 10, 1, 0.25, "2026-01-01 10:00:00.000"),
		score(t, c, "risky", 0, 20, 1, 0.5, "2026-01-02 10:00:00.000"),
		risky, riskier,
		score(t, c, "late", 0, 40, 1, 0.125, "2026-01-02 00:00:00.000"), late,
		rescored, score(t, c, "rescored", 0, 50, 1, 0.875, "2026-01-04 00:00:00.000"),
	}})
	// A double that is not merged yet must not show.
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{risky}})

	expectRows(t, s.ask(t, "SELECT customer_id, source_offset, model_version, churn_probability FROM churn_scores_latest ORDER BY customer_id"),
		"late | 41 | 1 | 0.625", "rescored | 50 | 2 | 0.125", "riskier | 5 | 1 | 0.875", "risky | 30 | 1 | 0.75")
	expectRows(t, s.ask(t, "SELECT source_offset FROM churn_scores_latest WHERE customer_id = 'risky'"), "30")
	expectRows(t, s.ask(t, "SELECT * FROM customers_at_risk"),
		"riskier | 0.875 | NULL |  | NULL | NULL | NULL | 2026-01-01 00:00:00.000 | 2026-01-01 00:00:00.005 | 1 | NULL | 7.5 | NULL",
		"risky | 0.75 | NULL | Contract: Monthly (+0.26); tenure: missing (+0.10) | tenure | 24 | 0.5 | 2026-01-03 10:00:00.000 | 2026-01-03 10:00:00.005 | 1 | Monthly | NULL | x",
		"late | 0.625 | NULL |  | NULL | NULL | NULL | 2026-01-01 00:00:00.000 | 2026-01-01 00:00:00.005 | 1 | NULL | NULL | NULL")
}

func testMigrateIsRepeatableAndAddsFeatures(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	for range 3 {
		s.mustMigrate(t)
	}
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "old", 0, 1, 1, 0.75, "2026-01-01 00:00:00.000")}})
	expectRows(t, s.ask(t, "SELECT count(*), max(version) FROM "+s.table("schema_migrations")), "5 | 5")

	// A later schema: a feature in between, one dropped.
	later := newCompany(t, categorical("Contract"), numeric("visits"), categorical("order"))
	l := &opened{Store: s.reopen(later), db: s.db, reopen: s.reopen}
	l.mustMigrate(t)
	l.mustMigrate(t)
	young := score(t, later, "young", 0, 2, 1, 0.625, "2026-01-01 00:00:00.000")
	young.Attributes = later.vector(t, "One year", 4.0, "y")
	l.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{young}})
	expectRows(t, l.ask(t, "SELECT customer_id, Contract, tenure, visits, `order` FROM churn_scores_latest ORDER BY customer_id"),
		"old | NULL | NULL | NULL | NULL", "young | One year | NULL | 4 | y")
	expectRows(t, l.ask(t, "SELECT customer_id, visits FROM customers_at_risk"), "old | NULL", "young | 4")

	// The program before it goes on beside it.
	s.mustMigrate(t)
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{score(t, c, "old", 0, 3, 1, 0.5, "2026-01-01 00:00:00.000")}})

	changed := s.reopen(newCompany(t, numeric("Contract")))
	if err := changed.Migrate(context.Background()); !errors.Is(err, ErrSchema) || !strings.Contains(err.Error(), "Contract") {
		t.Errorf("a feature that changed its kind: got %v, want ErrSchema naming it", err)
	}
	if _, err := s.db.Exec("INSERT INTO schema_migrations (version, applied_at) VALUES (99, '2026-01-01 00:00:00.000')"); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(context.Background()); !errors.Is(err, ErrSchema) {
		t.Errorf("tables of a later program: got %v, want ErrSchema", err)
	}
}

func testFeatureColumns(t *testing.T, open opener) {
	long := strings.Repeat("x", 300)
	features := []string{
		"tenure", "customer_id", "Risk", "feature_customer_id", "Tenure", "order", "a b", "a-b", "a,b(c)",
		"quo\"te`s'", "x\"); DROP TABLE churn_scores; --", "ünï", "1st", "reasons", "ROWID", "\xff", "?", "e", "s", "i", long,
		"Churned", "record_offset", "labelled_at", // own columns of examples only
	}
	want := []string{
		"tenure", "feature_customer_id", "feature_Risk", "feature_feature_customer_id", "feature_Tenure", "order", "a_b", "feature_a_b", "a_b_c_",
		"quo_te_s_", "x____DROP_TABLE_churn_scores____", "ünï", "1st", "feature_reasons", "feature_ROWID", "_", "feature__", "e", "s", "i", long,
		"Churned", "record_offset", "labelled_at",
	}
	var list []scoring.Feature
	for i, name := range features {
		if i%2 == 0 {
			list = append(list, numeric(name))
		} else {
			list = append(list, categorical(name))
		}
	}
	c := newCompany(t, list...)
	var got []string
	for _, f := range scoreFeatures(c.spec) {
		got = append(got, f.Name)
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %q\nwant %q", got, want)
	}

	s := open(t, c)
	s.mustMigrate(t)
	s.mustMigrate(t)
	r := score(t, c, "id", 0, 1, 1, 0.75, "2026-01-01 00:00:00.000")
	var cells []any
	var expected []string
	for i := range features {
		if i%2 == 0 {
			cells, expected = append(cells, float64(i)), append(expected, fmt.Sprint(i))
		} else {
			cells, expected = append(cells, fmt.Sprint("level ", i)), append(expected, fmt.Sprint("level ", i))
		}
	}
	r.Attributes = c.vector(t, cells...)
	s.mustWrite(t, &Batch{Scores: []*schemas.ChurnScore{r}})
	names := make([]string, len(want))
	for i, name := range want {
		names[i] = "`" + name + "`"
	}
	for _, table := range []string{"churn_scores", "churn_scores_latest", "customers_at_risk"} {
		expectRows(t, s.ask(t, "SELECT "+strings.Join(names, ", ")+" FROM "+table), strings.Join(expected, " | "))
	}
	expectRows(t, s.ask(t, "SELECT customer_id, risk FROM churn_scores"), "id | HIGH")

	e := example(t, c, "2026-01-02 00:00:00.000", true, 0.75)
	e.Attributes = r.Attributes
	s.mustWrite(t, &Batch{Examples: record("id", 0, 1, e)})
	for i := len(names) - 3; i < len(names); i++ {
		names[i] = "`feature_" + want[i] + "`"
	}
	expectRows(t, s.ask(t, "SELECT "+strings.Join(names, ", ")+" FROM churn_examples"), strings.Join(expected, " | "))
	expectRows(t, s.ask(t, "SELECT customer_id, churned, labelled_at FROM churn_examples_latest"), "id | 1 | 2026-01-02 02:00:00.000")
}

// Own columns must not clash among themselves, whatever the case.
func TestOwnColumnsAreDistinct(t *testing.T) {
	for _, list := range [][]string{append(columns.Names(columns.Score), reservedColumns...), columns.Names(columns.Outcome),
		columns.Names(modelColumns), columns.Names(erasableScores.columns),
		columns.Names(exampleColumns), columns.Names(erasableExamples.columns)} {
		seen := map[string]bool{}
		for _, name := range list {
			if seen[name] || name != strings.ToLower(name) {
				t.Errorf("column %q", name)
			}
			seen[name] = true
		}
	}
}
