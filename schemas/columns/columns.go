// Package columns describes the messages as rows: the name, the type and the
// value of each column, once. Rows of every store, their DDL, and JSON follow
// from it.
//
// A field that a message gets is one more line here. At the end of its table:
// stores add columns, they do not move them.
package columns

import (
	"slices"
	"strings"
	"unicode"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// Type is what a column holds.
type Type uint8

// The types. None is that of a value which is in JSON and in no table.
const (
	None          Type = iota
	Text               // a string
	Word               // a string, one of few
	Enum               // one of Column.Symbols
	Int32              // a number of 32 bits
	Int64              // a number of 64 bits
	Float              // a number of 64 bits; not finite is as good as missing
	Bool               // true or false
	Time               // milliseconds since 1970 UTC
	Words              // a list of strings, each one of few
	Explanations       // the explanations of a score
	Distributions      // the baseline of a model
)

// Shape is how the values of a column follow each other, for stores that
// compress columns.
type Shape uint8

// The shapes. Plain is any.
const (
	Plain   Shape = iota
	Similar       // like those beside it
	Rising        // a little more than the one before
	Long          // long texts
)

// Column is one column of the rows that are made of messages M.
type Column[M any] struct {
	// Name is the column's name in tables, in lower case but for features.
	Name     string
	Type     Type
	Nullable bool
	Shape    Shape
	// Symbols are those of an Enum, in their order from 0.
	Symbols []string
	// Member is the value's name in JSON, "" if it is not shown there. Object
	// is the member that is an object with it in it, "" if none is.
	Object, Member string
	// Value gives the cell to cells, by one call.
	Value func(m *M, cells Cells)
}

// Cells takes the values of a row, one call per column. Where a value is
// missing, as numbers that are not finite are, it takes a null.
type Cells interface {
	Null()
	Text(s string)
	Int32(n int32)
	Int64(n int64)
	Float(x float64)
	Bool(b bool)
	Time(ms int64)
	// Feature takes the name of a feature, Features those of several.
	Feature(position int)
	Features(positions []int)
	// Value takes a feature's value: a number, or the text of a level. The
	// levels are those that go with the attributes.
	Value(feature int, x float64, levels scoring.Levels)
	// ValueText takes a feature's value in a column that has those of any
	// feature: where types are strict, as text.
	ValueText(feature int, x float64, levels scoring.Levels)
	Explanations(list []schemas.Explanation, attributes scoring.Vector, levels scoring.Levels)
	Distributions(list []schemas.BaselineDistribution)
}

// Stored returns the columns that tables have.
func Stored[M any](columns []Column[M]) []Column[M] {
	return slices.DeleteFunc(slices.Clone(columns), func(c Column[M]) bool { return c.Type == None })
}

// Names returns the names of columns.
func Names[M any](columns []Column[M]) []string {
	names := make([]string, len(columns))
	for i := range columns {
		names[i] = columns[i].Name
	}
	return names
}

// Of returns columns of messages N, of which each has an M: with columns for
// what N has besides, the rows of N.
func Of[N, M any](columns []Column[M], message func(*N) *M) []Column[N] {
	list := make([]Column[N], len(columns))
	for i, c := range columns {
		list[i] = Column[N]{
			Name: c.Name, Type: c.Type, Nullable: c.Nullable, Shape: c.Shape, Symbols: c.Symbols, Object: c.Object, Member: c.Member,
			Value: func(n *N, cells Cells) { c.Value(message(n), cells) },
		}
	}
	return list
}

// Score describes a score, without its features.
var Score = []Column[schemas.ChurnScore]{
	{Name: "customer_id", Type: Text, Shape: Similar, Member: "customer_id",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Text(string(s.CustomerID)) }},
	{Name: "event_id", Type: Text, Shape: Similar,
		Value: func(s *schemas.ChurnScore, to Cells) { to.Text(string(s.EventID)) }},
	{Name: "occurred_at", Type: Time, Shape: Rising, Member: "occurred_at",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Time(s.OccurredAt) }},
	{Name: "scored_at", Type: Time, Shape: Rising, Member: "scored_at",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Time(s.ScoredAt) }},
	{Name: "model_version", Type: Int64, Shape: Similar, Member: "model_version",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Int64(s.ModelVersion) }},
	{Name: "churn_probability", Type: Float, Member: "probability",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Float(s.Probability) }},
	{Name: "previous_probability", Type: Float, Nullable: true, Member: "previous_probability",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Float(s.Previous) }},
	{Name: "risk", Type: Enum, Symbols: symbols(schemas.RiskHigh), Member: "risk",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Text(s.Risk.String()) }},
	{Name: "expected_probability", Type: Float, Shape: Similar, Member: "expected_probability",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Float(s.ExpectedProbability) }},
	{Name: "explanations", Type: Explanations, Member: "explanations",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Explanations(s.Explanations, s.Attributes, s.Levels) }},
	{Name: "missing", Type: Words, Member: "missing",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Features(s.Missing) }},
	{Name: "best_change_feature", Type: Word, Nullable: true, Object: "best_change", Member: "feature",
		Value: ofBestChange(func(s *schemas.ChurnScore, to Cells) { to.Feature(s.BestChange.Feature) })},
	{Name: "best_change_value", Type: Text, Nullable: true, Object: "best_change", Member: "value",
		Value: ofBestChange(func(s *schemas.ChurnScore, to Cells) {
			to.ValueText(s.BestChange.Feature, s.BestChange.Value, s.Levels)
		})},
	{Name: "best_change_probability", Type: Float, Nullable: true, Object: "best_change", Member: "probability",
		Value: ofBestChange(func(s *schemas.ChurnScore, to Cells) { to.Float(s.BestChange.Probability) })},
	{Name: "source_partition", Type: Int32, Shape: Similar, Member: "source_partition",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Int32(s.SourcePartition) }},
	{Name: "source_offset", Type: Int64, Shape: Rising, Member: "source_offset",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Int64(s.SourceOffset) }},
	{Name: "as_of", Type: Time, Shape: Rising, Member: "as_of",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Time(s.AsOf) }},
	{Name: "trigger", Type: Enum, Symbols: symbols(schemas.TriggerRepair), Member: "trigger",
		Value: func(s *schemas.ChurnScore, to Cells) { to.Text(s.Trigger.String()) }},
}

func ofBestChange(value func(*schemas.ChurnScore, Cells)) func(*schemas.ChurnScore, Cells) {
	return func(s *schemas.ChurnScore, to Cells) {
		if s.HasBestChange {
			value(s, to)
		} else {
			to.Null()
		}
	}
}

// Features describes a row's attributes, in the order of spec; in JSON they are
// an object of their own, as everywhere. attributes returns those of a row. A
// column has the feature's name, characters other than letters, digits and the
// underscore as underscores, and the prefix "feature_" as often as it is needed
// not to be, whatever the case of letters, a name that is taken, or that of an
// earlier feature.
func Features[M any](spec *scoring.Spec, attributes func(*M) (scoring.Vector, scoring.Levels), taken ...string) []Column[M] {
	used := map[string]bool{}
	for _, name := range taken {
		used[name] = true
	}
	list := make([]Column[M], spec.Len())
	for i := range list {
		f := spec.Feature(i)
		name := strings.Map(func(r rune) rune {
			if r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
				return r
			}
			return '_'
		}, strings.ToValidUTF8(f.Name, "_"))
		for used[strings.ToLower(name)] {
			name = "feature_" + name
		}
		used[strings.ToLower(name)] = true
		list[i] = Column[M]{
			Name: name, Type: Float, Nullable: true,
			Value: func(m *M, to Cells) {
				x, levels := attributes(m)
				to.Value(i, x[i], levels)
			},
		}
		if f.Kind == scoring.Categorical {
			list[i].Type = Word
		}
	}
	return list
}

// Outcome describes an outcome.
var Outcome = []Column[schemas.ChurnOutcome]{
	{Name: "customer_id", Type: Text, Shape: Similar, Member: "customer_id",
		Value: func(o *schemas.ChurnOutcome, to Cells) { to.Text(o.CustomerID) }},
	{Name: "observed_at", Type: Time, Shape: Rising, Member: "observed_at",
		Value: func(o *schemas.ChurnOutcome, to Cells) { to.Time(o.ObservedAt) }},
	{Name: "churned", Type: Bool, Member: "churned",
		Value: func(o *schemas.ChurnOutcome, to Cells) { to.Bool(o.Churned) }},
	{Name: "source", Type: Word, Member: "source",
		Value: func(o *schemas.ChurnOutcome, to Cells) { to.Text(o.Source) }},
}

// Example describes a labelled example, without its customer and its features.
var Example = []Column[schemas.LabelledExample]{
	{Name: "observed_at", Type: Time, Shape: Rising, Member: "observed_at",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Time(e.ObservedAt) }},
	{Name: "as_of", Type: Time, Shape: Rising, Member: "as_of",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Time(e.AsOf) }},
	{Name: "labelled_at", Type: Time, Shape: Rising, Member: "labelled_at",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Time(e.LabelledAt) }},
	{Name: "horizon_seconds", Type: Float, Shape: Similar, Member: "horizon_seconds",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Float(float64(e.Horizon) / 1000) }},
	{Name: "churned", Type: Bool, Member: "churned",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Bool(e.Churned) }},
	{Name: "corrections", Type: Int64, Shape: Similar, Member: "corrections",
		Value: func(e *schemas.LabelledExample, to Cells) { to.Int64(e.Corrections) }},
	{Name: "model_version", Type: Int64, Nullable: true, Shape: Similar, Member: "model_version",
		Value: ofScore(func(e *schemas.LabelledExample, to Cells) { to.Int64(e.ModelVersion) })},
	{Name: "churn_probability", Type: Float, Nullable: true, Member: "probability",
		Value: ofScore(func(e *schemas.LabelledExample, to Cells) { to.Float(e.Probability) })},
	{Name: "source_partition", Type: Int32, Nullable: true, Shape: Similar, Member: "source_partition",
		Value: ofScore(func(e *schemas.LabelledExample, to Cells) { to.Int32(e.SourcePartition) })},
	{Name: "source_offset", Type: Int64, Nullable: true, Shape: Rising, Member: "source_offset",
		Value: ofScore(func(e *schemas.LabelledExample, to Cells) { to.Int64(e.SourceOffset) })},
}

// ofScore describes what an example has of the score in force at the decision.
func ofScore(value func(*schemas.LabelledExample, Cells)) func(*schemas.LabelledExample, Cells) {
	return func(e *schemas.LabelledExample, to Cells) {
		if e.Scored() {
			value(e, to)
		} else {
			to.Null()
		}
	}
}

// Model describes a model version.
var Model = slices.Concat(
	[]Column[schemas.ModelVersion]{
		{Name: "version", Type: Int64, Member: "version",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Int64(v.Version) }},
		{Name: "created_at", Type: Time, Member: "created_at",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Time(v.CreatedAt) }},
		{Name: "stage", Type: Enum, Symbols: symbols(schemas.StageRetired), Member: "stage",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Text(v.Stage.String()) }},
		{Name: "reason", Type: Text, Member: "reason",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Text(v.Reason) }},
		{Name: "payload", Type: Text, Shape: Long,
			Value: func(v *schemas.ModelVersion, to Cells) { to.Text(v.Payload) }},
		{Name: "sha256", Type: Text, Member: "sha256",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Text(v.SHA256) }},
	},
	[]Column[schemas.ModelVersion]{ownMetrics.count("holdout_rows", "rows", Int64, rows)},
	ownMetrics.figures(firstFigures),
	[]Column[schemas.ModelVersion]{itsMetrics.count("", "rows", None, rows)},
	itsMetrics.figures(firstFigures),
	[]Column[schemas.ModelVersion]{
		{Name: "training_start", Type: Time, Member: "training_start",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Time(v.TrainingStart) }},
		{Name: "training_end", Type: Time, Member: "training_end",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Time(v.TrainingEnd) }},
		{Name: "training_rows", Type: Int64, Member: "training_rows",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Int64(v.TrainingRows) }},
		{Name: "labels_seen", Type: Int64, Member: "labels_seen",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Int64(v.LabelsSeen) }},
		{Name: "feature_fingerprint", Type: Text, Member: "feature_fingerprint",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Text(v.FeatureFingerprint) }},
		{Name: "medium_threshold", Type: Float, Object: "thresholds", Member: "medium",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Float(v.MediumThreshold) }},
		{Name: "high_threshold", Type: Float, Object: "thresholds", Member: "high",
			Value: func(v *schemas.ModelVersion, to Cells) { to.Float(v.HighThreshold) }},
		{Name: "baseline", Type: Distributions,
			Value: func(v *schemas.ModelVersion, to Cells) { to.Distributions(v.Baseline) }},
	},
	[]Column[schemas.ModelVersion]{ownMetrics.count("holdout_churners", "churners", Int64, churners)},
	ownMetrics.figures(laterFigures),
	ownMetrics.bounds(Float),
	[]Column[schemas.ModelVersion]{itsMetrics.count("", "churners", None, churners)},
	itsMetrics.figures(laterFigures),
	itsMetrics.bounds(None),
	[]Column[schemas.ModelVersion]{
		{Name: "horizon_seconds", Type: Float, Nullable: true,
			Value: known(func(v *schemas.ModelVersion) int64 { return v.Horizon }, func(to Cells, ms int64) { to.Float(float64(ms) / 1000) })},
		{Name: "labels_until", Type: Time, Nullable: true,
			Value: known(func(v *schemas.ModelVersion) int64 { return v.LabelsUntil }, Cells.Time)},
	},
)

// known describes a number that is 0 where it is not known.
func known(of func(*schemas.ModelVersion) int64, give func(Cells, int64)) func(*schemas.ModelVersion, Cells) {
	return func(v *schemas.ModelVersion, to Cells) {
		if n := of(v); n != 0 {
			give(to, n)
		} else {
			to.Null()
		}
	}
}

// The figures that versions have had from the first on, and those that came later.
var (
	firstFigures = []string{"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier", "calibration_error", "top_decile_lift"}
	laterFigures = []string{"pr_auc", "log_loss_skill"}
)

// holdout is the metrics of a version on holdout rows, its own or the champion's.
type holdout struct {
	prefix, object string // of columns, and in JSON
	of             func(*schemas.ModelVersion) *schemas.HoldoutMetrics
}

var (
	ownMetrics = holdout{"", "metrics", func(v *schemas.ModelVersion) *schemas.HoldoutMetrics { return &v.Metrics }}
	itsMetrics = holdout{"champion_", "champion_metrics", func(v *schemas.ModelVersion) *schemas.HoldoutMetrics { return v.ChampionMetrics }}
)

// column describes one of the metrics, null where there are none.
func (h holdout) column(name, member string, typ Type, value func(*schemas.HoldoutMetrics, Cells)) Column[schemas.ModelVersion] {
	return Column[schemas.ModelVersion]{Name: name, Type: typ, Nullable: typ == Float, Object: h.object, Member: member,
		Value: func(v *schemas.ModelVersion, to Cells) {
			if m := h.of(v); m != nil {
				value(m, to)
			} else {
				to.Null()
			}
		}}
}

// count describes a number of rows.
func (h holdout) count(name, member string, typ Type, of func(*schemas.HoldoutMetrics) int64) Column[schemas.ModelVersion] {
	return h.column(name, member, typ, func(m *schemas.HoldoutMetrics, to Cells) { to.Int64(of(m)) })
}

// figures describes some of the figures.
func (h holdout) figures(names []string) (list []Column[schemas.ModelVersion]) {
	for _, f := range evaluation.All {
		if slices.Contains(names, f.Name) {
			list = append(list, h.column(h.prefix+f.Name, f.Name, Float, func(m *schemas.HoldoutMetrics, to Cells) { to.Float(*f.Of(&m.Figures)) }))
		}
	}
	return list
}

// bounds describes the ends of the intervals of all figures.
func (h holdout) bounds(typ Type) (list []Column[schemas.ModelVersion]) {
	for _, f := range evaluation.All {
		list = append(list,
			h.column(h.prefix+f.Name+"_lower", f.Name+"_lower", typ, func(m *schemas.HoldoutMetrics, to Cells) { to.Float(*f.Of(&m.Lower)) }),
			h.column(h.prefix+f.Name+"_upper", f.Name+"_upper", typ, func(m *schemas.HoldoutMetrics, to Cells) { to.Float(*f.Of(&m.Upper)) }))
	}
	return list
}

func rows(m *schemas.HoldoutMetrics) int64     { return m.Rows }
func churners(m *schemas.HoldoutMetrics) int64 { return m.Churners }

// symbols returns those of an enum, up to the last.
func symbols[E interface {
	~uint8
	String() string
}](last E) []string {
	var list []string
	for e := E(0); e <= last; e++ {
		list = append(list, e.String())
	}
	return list
}
