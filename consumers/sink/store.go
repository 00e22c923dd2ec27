package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Store is where rows go.
type Store interface {
	// Name says what kind of store it is, as a metric label: "sqlite",
	// "clickhouse".
	Name() string
	// Migrate brings tables and views to what this program and its feature
	// specification need. It can be called any number of times. An error that
	// matches ErrSchema will not go away by itself; any other may.
	Migrate(ctx context.Context) error
	// Write returns nil when the whole batch is stored for good. After an
	// error parts of it may be stored; writing it again is harmless. It is
	// safe for concurrent use and does not keep the batch.
	Write(ctx context.Context, b *Batch) error
	// Close releases the connections.
	Close() error
}

// Batch is what one Write stores. Deletions come first: an outcome in the same
// batch is newer than the erasure of its customer's outcomes.
type Batch struct {
	// Erased lists customers whose scores are deleted. Their outcomes stay.
	Erased []Erasure
	// ErasedOutcomes lists customers whose outcomes are deleted. Their scores
	// stay.
	ErasedOutcomes []string

	Scores   []*schemas.ChurnScore
	Outcomes []*schemas.ChurnOutcome
	Models   []ModelRow
}

// Erasure says which scores of a customer are deleted: those of events before
// the one that erased the customer. The store remembers it for 90 days, so that
// such a score goes too when it is written late; those of events after it stay.
type Erasure struct {
	CustomerID      string
	SourcePartition int32
	// SourceOffset is that of the erasing event. Where it is not known it is
	// EverythingErased.
	SourceOffset int64
}

// EverythingErased as the offset of an Erasure stands for all scores of the
// customer and the partition that the store has when it is told. It is not
// remembered.
const EverythingErased = math.MaxInt64

// remembered returns the erasures that the store remembers.
func remembered(erasures []Erasure) []Erasure {
	return slices.DeleteFunc(slices.Clone(erasures), func(e Erasure) bool { return e.SourceOffset == EverythingErased })
}

// customer is one as far as a partition knows it.
type customer struct {
	id        string
	partition int32
}

// lastErasures returns the highest offset of each customer's erasures, without
// those that are not remembered.
func lastErasures(erasures []Erasure) map[customer]int64 {
	last := map[customer]int64{}
	for _, e := range remembered(erasures) {
		c := customer{e.CustomerID, e.SourcePartition}
		last[c] = max(last[c], e.SourceOffset)
	}
	return last
}

// ModelRow is a model version with the offset of its record in churn.models:
// the champion is the CHAMPION row with the highest one.
type ModelRow struct {
	schemas.ModelVersion
	Offset int64
}

// Attributes tells the features and how their values read as text;
// *schemas.Set does.
type Attributes interface {
	Spec() *scoring.Spec
	// Text returns a value as people read it, "" if it is missing.
	Text(feature int, x float64) string
}

// ErrSchema is matched by errors of Migrate that need a person: the store was
// changed by a later version of this program, or a column has another type
// than the feature specification asks for.
var ErrSchema = errors.New("store schema")

// Own columns of the tables, in insertion order; features follow in
// churn_scores.
var (
	scoreColumns = []string{
		"customer_id", "event_id", "occurred_at", "scored_at", "model_version",
		"churn_probability", "previous_probability", "risk", "expected_probability",
		"explanations", "missing",
		"best_change_feature", "best_change_value", "best_change_probability",
		"source_partition", "source_offset",
	}
	outcomeColumns = []string{"customer_id", "observed_at", "churned", "source"}
	erasureColumns = []string{"customer_id", "source_partition", "source_offset"}
	modelColumns   = []string{
		"version", "created_at", "stage", "reason", "payload", "sha256", "holdout_rows",
		"accuracy", "precision", "recall", "f1", "roc_auc", "log_loss", "brier",
		"calibration_error", "top_decile_lift",
		"champion_accuracy", "champion_precision", "champion_recall", "champion_f1",
		"champion_roc_auc", "champion_log_loss", "champion_brier",
		"champion_calibration_error", "champion_top_decile_lift",
		"training_start", "training_end", "training_rows", "labels_seen",
		"feature_fingerprint", "medium_threshold", "high_threshold", "baseline",
		"record_offset",
	}
	// Names a feature must not hide either: a column that only a view has, those
	// that only a derived table has, and SQLite's name for a row's number.
	reservedColumns = []string{"reasons", "score_recency", "not_at_risk", "rowid"}
)

// featureColumn is the column of one feature.
type featureColumn struct {
	name string
	kind scoring.Kind
}

// featureColumns returns the columns of spec's features, in their order, named
// by the rule in the package documentation.
func featureColumns(spec *scoring.Spec) []featureColumn {
	taken := map[string]bool{}
	for _, name := range append(scoreColumns[:len(scoreColumns):len(scoreColumns)], reservedColumns...) {
		taken[name] = true
	}
	columns := make([]featureColumn, spec.Len())
	for i := range columns {
		f := spec.Feature(i)
		name := strings.Map(func(r rune) rune {
			if r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) {
				return r
			}
			return '_'
		}, strings.ToValidUTF8(f.Name, "_"))
		// SQLite does not tell upper from lower case in column names.
		for taken[strings.ToLower(name)] {
			name = "feature_" + name
		}
		taken[strings.ToLower(name)] = true
		columns[i] = featureColumn{name: name, kind: f.Kind}
	}
	return columns
}

// dialect is the SQL of one kind of store for one feature specification.
type dialect struct {
	// migrations[i] is change number i+1 of the tables. A released one is
	// never edited; features alone differ between specifications.
	migrations []migration
	// copies are the tables that have all columns of churn_scores too.
	copies []string
	// feeds keep derived tables up to date with churn_scores from then on.
	// They are there before rows of old are copied, so that none is missed.
	feeds []feed
	// settle puts right, at every start, what others or time left undone.
	settle []string
	// views are replaced at every start: they hold no data and follow the
	// features.
	views []string
	quote func(name string) string
	// fold makes names that the store takes for the same equal.
	fold      func(name string) string
	typeOf    func(scoring.Kind) string
	addColumn string // "ADD COLUMN", with IF NOT EXISTS where there is one
	features  []featureColumn
}

// migration is one numbered change.
type migration struct {
	tables []string
	// fill brings rows of old into new tables. $COLUMNS stands for the quoted
	// columns of churn_scores. It may take long on large tables.
	fill []string
}

// feed is a trigger, or what the store has instead.
type feed struct {
	name   string
	create string
	// alter makes the feed follow new columns of churn_scores, if it does not
	// by itself.
	alter string
}

// tables runs statements for migrate.
type tables interface {
	exec(ctx context.Context, statement string) error
	// fill is exec for a statement that may take as long as it takes.
	fill(ctx context.Context, statement string) error
	// version returns the number of the last change applied, 0 if none was.
	version(ctx context.Context) (int, error)
	setVersion(ctx context.Context, version int) error
	// columns returns the types of a table's columns that rows are written
	// with, by folded name; none if there is no such table.
	columns(ctx context.Context, table string) (map[string]string, error)
}

// migrate applies what is missing: numbered changes, columns of features that
// the tables have not got yet, feeds, views.
func (d *dialect) migrate(ctx context.Context, t tables) error {
	version, err := t.version(ctx)
	if err != nil {
		return fmt.Errorf("read schema_migrations: %w", err)
	}
	if version > len(d.migrations) {
		return fmt.Errorf("%w: the tables are at version %d, this program knows up to %d", ErrSchema, version, len(d.migrations))
	}
	for i, m := range d.migrations[version:] {
		for _, statement := range m.tables {
			if err := t.exec(ctx, statement); err != nil {
				return fmt.Errorf("migration %d: %w", version+i+1, err)
			}
		}
	}
	columns, err := d.completeColumns(ctx, t)
	if err != nil {
		return err
	}
	for _, f := range d.feeds {
		if err := f.apply(ctx, t, columns); err != nil {
			return fmt.Errorf("feed %s: %w", f.name, err)
		}
	}
	all := d.columnList(slices.Sorted(maps.Keys(columns)))
	for ; version < len(d.migrations); version++ {
		for _, statement := range d.migrations[version].fill {
			if err := t.fill(ctx, strings.ReplaceAll(statement, "$COLUMNS", all)); err != nil {
				return fmt.Errorf("migration %d: %w", version+1, err)
			}
		}
		if err := t.setVersion(ctx, version+1); err != nil {
			return fmt.Errorf("migration %d: %w", version+1, err)
		}
	}
	for _, statement := range d.settle {
		if err := t.fill(ctx, statement); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	for _, view := range d.views {
		if err := t.exec(ctx, view); err != nil {
			return fmt.Errorf("create view: %w", err)
		}
	}
	return nil
}

// completeColumns adds to churn_scores the columns of features that it has
// not got, and to its copies all that it has. It returns the columns of
// churn_scores.
func (d *dialect) completeColumns(ctx context.Context, t tables) (map[string]string, error) {
	columns, err := t.columns(ctx, "churn_scores")
	if err != nil {
		return nil, fmt.Errorf("columns of churn_scores: %w", err)
	}
	var added []string
	for _, f := range d.features {
		want := d.typeOf(f.kind)
		switch got, ok := columns[d.fold(f.name)]; {
		case !ok:
			columns[d.fold(f.name)] = want
			added = append(added, f.name)
		case got != want:
			return nil, fmt.Errorf("%w: column %q of churn_scores is %s, a %s feature needs %s", ErrSchema, f.name, got, f.kind, want)
		}
	}
	add := func(table, column string) error {
		statement := "ALTER TABLE " + table + " " + d.addColumn + " " + d.quote(column) + " " + columns[d.fold(column)]
		if err := t.exec(ctx, statement); err != nil {
			return fmt.Errorf("add column %q to %s: %w", column, table, err)
		}
		return nil
	}
	// A feed must never meet a column that its target has not got.
	for _, table := range d.copies {
		have, err := t.columns(ctx, table)
		if err != nil {
			return nil, fmt.Errorf("columns of %s: %w", table, err)
		}
		for _, column := range slices.Sorted(maps.Keys(columns)) {
			if _, ok := have[column]; !ok {
				if err := add(table, column); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, column := range added {
		if err := add("churn_scores", column); err != nil {
			return nil, err
		}
	}
	return columns, nil
}

func (f *feed) apply(ctx context.Context, t tables, columns map[string]string) error {
	if err := t.exec(ctx, f.create); err != nil || f.alter == "" {
		return err
	}
	have, err := t.columns(ctx, f.name)
	if err != nil || maps.Equal(have, columns) {
		return err
	}
	return t.exec(ctx, f.alter)
}

// insert returns "INSERT INTO table (columns)" with the names quoted.
func (d *dialect) insert(table string, columns []string) string {
	return "INSERT INTO " + table + " (" + d.columnList(columns) + ")"
}

// columnList returns the names, quoted, with commas between them.
func (d *dialect) columnList(columns []string) string {
	var b strings.Builder
	for i, c := range columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d.quote(c))
	}
	return b.String()
}

// allScoreColumns returns churn_scores' own columns and those of the features.
func (d *dialect) allScoreColumns() []string {
	names := append([]string(nil), scoreColumns...)
	for _, f := range d.features {
		names = append(names, f.name)
	}
	return names
}

// featureList returns the quoted feature columns, each after a comma and on a
// line of its own.
func (d *dialect) featureList() string {
	var b strings.Builder
	for _, f := range d.features {
		b.WriteString(",\n    " + d.quote(f.name))
	}
	return b.String()
}

// What DateTime64 can hold. A time beyond it is stored as the limit: an odd
// clock at the sender must not stop the rows behind it.
var (
	minMillis = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	// A year less than the type's end: the client library counts nanoseconds
	// in 64 bits, which end in April 2262.
	maxMillis = time.Date(2261, 12, 31, 23, 59, 59, 999e6, time.UTC).UnixMilli()
)

func clampMillis(ms int64) time.Time {
	return time.UnixMilli(min(max(ms, minMillis), maxMillis)).UTC()
}

// nullable returns x for a column that may be NULL: nil if it is not finite.
func nullable(x float64) any {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return nil
	}
	return x
}

// championFigures returns the champion's metrics, all nil if there was none.
func championFigures(m *schemas.HoldoutMetrics) [9]any {
	if m == nil {
		return [9]any{}
	}
	return figures(m)
}

func figures(m *schemas.HoldoutMetrics) [9]any {
	return [9]any{
		nullable(m.Accuracy), nullable(m.Precision), nullable(m.Recall), nullable(m.F1),
		nullable(m.ROCAUC), nullable(m.LogLoss), nullable(m.Brier),
		nullable(m.CalibrationError), nullable(m.TopDecileLift),
	}
}
