package sink

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"text/template"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
)

// Columns of the tables that rows are written to, in insertion order; those of
// the features follow in churn_scores.
var (
	modelColumns = func() []columns.Column[ModelRow] {
		list := columns.Of(columns.Stored(columns.Model), func(r *ModelRow) *schemas.ModelVersion { return &r.ModelVersion })
		// The tables were released with this column after baseline; what versions
		// have had since follows it.
		baseline := slices.IndexFunc(list, func(c columns.Column[ModelRow]) bool { return c.Name == "baseline" })
		return slices.Insert(list, baseline+1, columns.Column[ModelRow]{Name: "record_offset", Type: columns.Int64,
			Value: func(r *ModelRow, to columns.Cells) { to.Int64(r.Offset) }})
	}()

	exampleColumns = slices.Concat(
		[]columns.Column[ExampleRow]{{Name: "customer_id", Type: columns.Text, Shape: columns.Similar,
			Value: func(r *ExampleRow, to columns.Cells) { to.Text(r.CustomerID) }}},
		columns.Of(columns.Example, func(r *ExampleRow) *schemas.LabelledExample { return r.LabelledExample }),
		[]columns.Column[ExampleRow]{
			{Name: "record_partition", Type: columns.Int32, Shape: columns.Similar,
				Value: func(r *ExampleRow, to columns.Cells) { to.Int32(r.RecordPartition) }},
			{Name: "record_offset", Type: columns.Int64, Shape: columns.Rising,
				Value: func(r *ExampleRow, to columns.Cells) { to.Int64(r.RecordOffset) }},
		})

	// Names a feature must not hide either: a column that only a view has, those
	// that only a derived table has, and SQLite's name for a row's number.
	reservedColumns = []string{"reasons", "score_recency", "not_at_risk", "rowid"}
)

// scoreFeatures and exampleFeatures are the columns of the features. A feature
// has the same name in both tables, unless that is an own column of an example.
func scoreFeatures(spec *scoring.Spec) []columns.Column[schemas.ChurnScore] {
	return columns.Features(spec, func(s *schemas.ChurnScore) (scoring.Vector, scoring.Levels) { return s.Attributes, s.Levels },
		slices.Concat(columns.Names(columns.Score), reservedColumns)...)
}

func exampleFeatures(spec *scoring.Spec) []columns.Column[ExampleRow] {
	return columns.Features(spec, func(r *ExampleRow) (scoring.Vector, scoring.Levels) { return r.Attributes, r.Levels },
		slices.Concat(columns.Names(columns.Score), reservedColumns, columns.Names(exampleColumns))...)
}

// erasable are rows that an erasure takes, and where it is remembered that it
// did.
type erasable struct {
	// memory is the table of the erasures, columns are its columns.
	memory  string
	columns []columns.Column[Erasure]
	// partition and offset are the columns, of all tables, that an erasure's
	// place is compared with.
	partition, offset string
	// tables have such rows, in ClickHouse; in SQLite the first has all there is
	// to delete.
	tables []string
}

var (
	erasableScores = newErasable("erasures", "source_partition", "source_offset",
		"churn_scores", "churn_scores_current", "churn_scores_at_risk")
	erasableExamples = newErasable("example_erasures", "record_partition", "record_offset", "churn_examples")
	erasables        = []*erasable{erasableScores, erasableExamples}
)

func newErasable(memory, partition, offset string, tables ...string) *erasable {
	return &erasable{
		memory: memory, partition: partition, offset: offset, tables: tables,
		columns: []columns.Column[Erasure]{
			{Name: "customer_id", Type: columns.Text, Shape: columns.Similar,
				Value: func(e *Erasure, to columns.Cells) { to.Text(e.CustomerID) }},
			{Name: partition, Type: columns.Int32,
				Value: func(e *Erasure, to columns.Cells) { to.Int32(e.Partition) }},
			{Name: offset, Type: columns.Int64,
				Value: func(e *Erasure, to columns.Cells) { to.Int64(e.Offset) }},
		},
	}
}

// appendRow gives the cells of a row to cells.
func appendRow[M any](cells columns.Cells, list []columns.Column[M], m *M) {
	for i := range list {
		list[i].Value(m, cells)
	}
}

// definition is a column in DDL.
type definition struct {
	name string
	// typ is the type as the store gives it back, full what defines the column
	// in a new table: with compression, or NOT NULL.
	typ, full string
}

// define returns columns as a dialect has them.
func define[M any](d *dialect, list []columns.Column[M]) []definition {
	result := make([]definition, len(list))
	for i, c := range list {
		typ := d.typeOf(c.Type, c.Nullable, c.Symbols)
		result[i] = definition{c.Name, typ, typ + d.constraint(c.Type, c.Nullable, c.Shape)}
	}
	return result
}

// dialect is the SQL of one kind of store for one feature specification.
type dialect struct {
	quote func(name string) string
	// fold makes names that the store takes for the same equal.
	fold func(name string) string
	// typeOf returns the type of a column, constraint what follows it in the
	// definition of a new table.
	typeOf     func(t columns.Type, nullable bool, symbols []string) string
	constraint func(t columns.Type, nullable bool, shape columns.Shape) string
	addColumn  string // "ADD COLUMN", with IF NOT EXISTS where there is one

	// scores are the columns that scores are written with: own ones, then
	// features. So are examples.
	scores   []columns.Column[schemas.ChurnScore]
	examples []columns.Column[ExampleRow]
	own      map[string][]definition // by table
	features map[string][]definition // by table that has any

	// migrations[i] is change number i+1 of the tables. A released one is
	// never edited; features alone differ between specifications.
	migrations []migration
	// copies are the tables that have all columns of churn_scores too.
	copies []string
	// feeds keep derived tables up to date with churn_scores from then on.
	// They are there before older rows are copied, so that none is missed.
	feeds []feed
	// settle puts right, at every start, what others or time left undone.
	settle []string
	// views are replaced at every start: they hold no data and follow the
	// features.
	views string
}

// migration is one numbered change. Both parts are templates, see
// dialect.statements.
type migration struct {
	tables string
	// fill brings older rows into new tables. It comes after all columns and
	// feeds are there, and may take long on large tables.
	fill string
}

// feed is a trigger, or what the store has instead.
type feed struct {
	name   string
	create string
	// alter makes the feed follow new columns of churn_scores, if it does not
	// by itself.
	alter string
}

// files are the migrations and views of each kind of store. NNN_name.sql is
// change number NNN, NNN_name.fill.sql what fills its tables.
//
//go:embed migrations
var files embed.FS

// newDialect completes a dialect with what follows from the columns, the
// features, and the files in a directory of migrations.
func newDialect(d dialect, directory string, spec *scoring.Spec) *dialect {
	ofScores, ofExamples := scoreFeatures(spec), exampleFeatures(spec)
	d.scores, d.examples = slices.Concat(columns.Score, ofScores), slices.Concat(exampleColumns, ofExamples)
	d.features = map[string][]definition{
		"churn_scores":   define(&d, ofScores),
		"churn_examples": define(&d, ofExamples),
	}
	d.own = map[string][]definition{
		"churn_scores":          define(&d, columns.Score),
		"churn_outcomes":        define(&d, columns.Outcome),
		"churn_examples":        define(&d, exampleColumns),
		"model_versions":        define(&d, modelColumns),
		erasableScores.memory:   define(&d, erasableScores.columns),
		erasableExamples.memory: define(&d, erasableExamples.columns),
	}
	names, err := fs.Glob(files, path.Join("migrations", directory, "[0-9]*.sql"))
	if err != nil {
		panic(err)
	}
	for _, name := range names { // in their order
		if strings.HasSuffix(name, ".fill.sql") {
			continue
		}
		m := migration{tables: readFile(name)}
		if fill := strings.TrimSuffix(name, ".sql") + ".fill.sql"; slices.Contains(names, fill) {
			m.fill = readFile(fill)
		}
		d.migrations = append(d.migrations, m)
	}
	d.views = readFile(path.Join("migrations", directory, "views.sql"))
	return &d
}

func readFile(name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(text)
}

// statements fills a template in and takes it apart: a statement ends with a
// semicolon before an empty line. stored are the columns of churn_scores by
// folded name, as the store has them. The template's functions return text for
// lists of columns:
//
//	columns TABLE FROM TO  definitions of own columns, in their order
//	features [TABLE]       definitions of the features, after a comma, in
//	                       churn_scores if no table is named
//	names                  names of the features in churn_scores, after a comma
//	stored                 names of what churn_scores has, in some order
//	others                 definitions of what churn_scores has besides the own
//	                       columns: features, some of which the schema may
//	                       have dropped; after a comma
func (d *dialect) statements(text string, stored map[string]definition) []string {
	statements, _ := d.render(text, stored)
	return statements
}

// render is statements; it also returns which own columns the template defines,
// as TABLE.COLUMN.
func (d *dialect) render(text string, stored map[string]definition) (list, defined []string) {
	t := template.New("").Funcs(template.FuncMap{
		"columns": func(table, from, to string) (string, error) {
			own := d.own[table]
			first := slices.IndexFunc(own, func(c definition) bool { return c.name == from })
			last := slices.IndexFunc(own, func(c definition) bool { return c.name == to })
			if first < 0 || last < first {
				return "", fmt.Errorf("no columns from %s to %s in %s", from, to, table)
			}
			var list []string
			for _, c := range own[first : last+1] {
				list = append(list, c.name+" "+c.full)
				defined = append(defined, table+"."+c.name)
			}
			return strings.Join(list, ",\n    "), nil
		},
		"features": func(table ...string) string {
			var b strings.Builder
			for _, f := range d.features[append(table, "churn_scores")[0]] {
				b.WriteString(",\n    " + d.quote(f.name) + " " + f.full)
			}
			return b.String()
		},
		"names": func() string {
			var b strings.Builder
			for _, f := range d.features["churn_scores"] {
				b.WriteString(",\n    " + d.quote(f.name))
			}
			return b.String()
		},
		"stored": func() string {
			var names []string
			for _, key := range slices.Sorted(maps.Keys(stored)) {
				names = append(names, stored[key].name)
			}
			return d.columnList(names)
		},
		"others": func() string {
			var b strings.Builder
			for _, key := range slices.Sorted(maps.Keys(stored)) {
				if !slices.ContainsFunc(d.own["churn_scores"], func(c definition) bool { return c.name == key }) {
					b.WriteString(",\n    " + d.quote(stored[key].name) + " " + stored[key].typ)
				}
			}
			return b.String()
		},
	})
	var b strings.Builder
	if err := template.Must(t.Parse(text)).Execute(&b, nil); err != nil {
		panic(err) // the templates are our own
	}
	for _, statement := range strings.Split(b.String(), ";\n\n") {
		if statement = strings.TrimRight(statement, "; \n"); statement != "" {
			list = append(list, statement)
		}
	}
	return list, defined
}

// tables runs statements for migrate.
type tables interface {
	exec(ctx context.Context, statement string) error
	// fill is exec for a statement that may take as long as it takes.
	fill(ctx context.Context, statement string) error
	// version returns the number of the last change applied, 0 if none was.
	version(ctx context.Context) (int, error)
	setVersion(ctx context.Context, version int) error
	// columns returns the names and types of a table's columns that rows are
	// written with, by folded name; none if there is no such table.
	columns(ctx context.Context, table string) (map[string]definition, error)
}

// migrate applies what is missing: numbered changes, columns that the tables
// have not got yet, feeds, views.
func (d *dialect) migrate(ctx context.Context, t tables) error {
	version, err := t.version(ctx)
	if err != nil {
		return fmt.Errorf("read schema_migrations: %w", err)
	}
	if version > len(d.migrations) {
		return fmt.Errorf("%w: the tables are at version %d, this program knows up to %d", ErrSchema, version, len(d.migrations))
	}
	if err := d.checkNames(ctx, t, version); err != nil {
		return err
	}
	for i, m := range d.migrations[version:] {
		stored, err := t.columns(ctx, "churn_scores")
		if err != nil {
			return fmt.Errorf("columns of churn_scores: %w", err)
		}
		for _, statement := range d.statements(m.tables, stored) {
			if err := t.exec(ctx, statement); err != nil {
				return fmt.Errorf("migration %d: %w", version+i+1, err)
			}
		}
	}
	stored, err := d.completeColumns(ctx, t)
	if err != nil {
		return err
	}
	for _, f := range d.feeds {
		if err := f.apply(ctx, t, stored); err != nil {
			return fmt.Errorf("feed %s: %w", f.name, err)
		}
	}
	for ; version < len(d.migrations); version++ {
		for _, statement := range d.statements(d.migrations[version].fill, stored) {
			if err := t.fill(ctx, statement); err != nil {
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
	for _, view := range d.statements(d.views, stored) {
		if err := t.exec(ctx, view); err != nil {
			return fmt.Errorf("create view: %w", err)
		}
	}
	return nil
}

// checkNames refuses tables of an older version in which a feature has a name
// that has become an own column's.
func (d *dialect) checkNames(ctx context.Context, t tables, version int) error {
	var defined []string
	for _, m := range d.migrations[:version] {
		_, columns := d.render(m.tables, nil)
		defined = append(defined, columns...)
	}
	for _, table := range slices.Sorted(maps.Keys(d.features)) {
		stored, err := t.columns(ctx, table)
		if err != nil {
			return fmt.Errorf("columns of %s: %w", table, err)
		}
		for _, c := range d.own[table] {
			got, ok := stored[d.fold(c.name)]
			// Of the right type it may be there since a migration that was broken off.
			if ok && got.typ != c.typ && !slices.Contains(defined, table+"."+c.name) {
				return fmt.Errorf("%w: column %q of %s is %s and holds a feature; rename it to %q there and in its copies", ErrSchema,
					got.name, table, got.typ, "feature_"+got.name)
			}
		}
	}
	return nil
}

// checkFeatures refuses a table in which a feature has values of another kind.
func (d *dialect) checkFeatures(ctx context.Context, t tables, table string) error {
	stored, err := t.columns(ctx, table)
	if err != nil {
		return fmt.Errorf("columns of %s: %w", table, err)
	}
	for _, f := range d.features[table] {
		if got, ok := stored[d.fold(f.name)]; ok && got.typ != f.typ {
			return fmt.Errorf("%w: column %q of %s is %s, its feature needs %s", ErrSchema, f.name, table, got.typ, f.typ)
		}
	}
	return nil
}

// completeColumns adds to the tables the columns that they have not got, own
// ones and those of features, and to the copies of churn_scores all that it
// has. It returns the columns of churn_scores.
func (d *dialect) completeColumns(ctx context.Context, t tables) (map[string]definition, error) {
	for _, table := range slices.Sorted(maps.Keys(d.features)) {
		if err := d.checkFeatures(ctx, t, table); err != nil {
			return nil, err
		}
	}
	for _, table := range slices.Sorted(maps.Keys(d.own)) {
		if table == "churn_scores" {
			continue
		}
		if err := d.complete(ctx, t, table, slices.Concat(d.own[table], d.features[table])); err != nil {
			return nil, err
		}
	}
	stored, err := t.columns(ctx, "churn_scores")
	if err != nil {
		return nil, fmt.Errorf("columns of churn_scores: %w", err)
	}
	wanted := slices.Concat(d.own["churn_scores"], d.features["churn_scores"])
	all := slices.Clone(wanted)
	for _, key := range slices.Sorted(maps.Keys(stored)) {
		if !slices.ContainsFunc(wanted, func(c definition) bool { return d.fold(c.name) == key }) {
			all = append(all, stored[key])
		}
	}
	// A feed must never meet a column that its target has not got.
	for _, table := range d.copies {
		if err := d.complete(ctx, t, table, all); err != nil {
			return nil, err
		}
	}
	if err := d.complete(ctx, t, "churn_scores", wanted); err != nil {
		return nil, err
	}
	for _, c := range wanted {
		stored[d.fold(c.name)] = definition{name: c.name, typ: c.typ}
	}
	return stored, nil
}

// add returns the statement that adds a column to a table.
func (d *dialect) add(table string, c definition) string {
	return "ALTER TABLE " + table + " " + d.addColumn + " " + d.quote(c.name) + " " + c.typ
}

// complete adds to a table those of the columns that it has not got. Rows that are
// there have nothing in them.
func (d *dialect) complete(ctx context.Context, t tables, table string, list []definition) error {
	have, err := t.columns(ctx, table)
	if err != nil {
		return fmt.Errorf("columns of %s: %w", table, err)
	}
	for _, c := range list {
		if _, ok := have[d.fold(c.name)]; ok {
			continue
		}
		if err := t.exec(ctx, d.add(table, c)); err != nil {
			return fmt.Errorf("add column %q to %s: %w", c.name, table, err)
		}
	}
	return nil
}

func (f *feed) apply(ctx context.Context, t tables, stored map[string]definition) error {
	if err := t.exec(ctx, f.create); err != nil || f.alter == "" {
		return err
	}
	have, err := t.columns(ctx, f.name)
	if err != nil || maps.Equal(have, stored) {
		return err
	}
	return t.exec(ctx, f.alter)
}

// insert returns "INSERT INTO table (columns)" with the names quoted.
func (d *dialect) insert(table string, names []string) string {
	return "INSERT INTO " + table + " (" + d.columnList(names) + ")"
}

// columnList returns the names, quoted, with commas between them.
func (d *dialect) columnList(names []string) string {
	var b strings.Builder
	for i, c := range names {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(d.quote(c))
	}
	return b.String()
}
