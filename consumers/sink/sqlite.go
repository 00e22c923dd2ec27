package sink

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	_ "modernc.org/sqlite" // the driver named "sqlite"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
)

// SQLite is a Store in one file. It writes ahead (WAL), so readers in this or
// other processes are never blocked; every batch is one transaction, on disk
// when Write returns.
type SQLite struct {
	attributes Attributes
	dialect    *dialect
	db         *sql.DB
	mu         sync.Mutex // SQLite has one writer at a time
	names      []string   // feature names as JSON strings
}

// OpenSQLite opens the file, or creates it, for rows with the given
// attributes.
func OpenSQLite(path string, attributes Attributes) (*SQLite, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	pragmas := url.Values{
		"_pragma": {
			"busy_timeout(10000)",
			"journal_mode(WAL)",
			// Offsets are committed on the strength of a commit here, so it
			// must survive a power failure too.
			"synchronous(FULL)",
			// 64 MiB hold a batch's pages and the index's upper levels; with
			// the default of 2 MiB, pages go to the file several times per batch.
			"cache_size(-65536)",
			"temp_store(MEMORY)",
			// What is deleted is overwritten: else an erased customer stays
			// legible in the file.
			"secure_delete(ON)",
		},
		"_txlock": {"immediate"},
	}
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: pragmas.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	if err := db.Ping(); err != nil {
		db.Close()
		return nil, fmt.Errorf("sqlite: open %s: %w", path, err)
	}
	spec := attributes.Spec()
	s := &SQLite{attributes: attributes, dialect: sqliteDialect(spec), db: db}
	for i := range spec.Len() {
		s.names = append(s.names, string(appendJSONString(nil, spec.Feature(i).Name)))
	}
	return s, nil
}

// Name returns "sqlite".
func (s *SQLite) Name() string { return "sqlite" }

// Close closes the file.
func (s *SQLite) Close() error { return s.db.Close() }

// Migrate creates or completes tables and views, in one transaction.
func (s *SQLite) Migrate(ctx context.Context) error {
	return s.transaction(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, sqliteSchemaMigrations); err != nil {
			return err
		}
		return s.dialect.migrate(ctx, sqliteTables{tx})
	})
}

func (s *SQLite) transaction(ctx context.Context, do func(*sql.Tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("sqlite: begin: %w", err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return fmt.Errorf("sqlite: %w", err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("sqlite: commit: %w", err)
	}
	return nil
}

type sqliteTables struct{ tx *sql.Tx }

func (t sqliteTables) exec(ctx context.Context, statement string) error {
	_, err := t.tx.ExecContext(ctx, statement)
	return err
}

func (t sqliteTables) fill(ctx context.Context, statement string) error {
	return t.exec(ctx, statement)
}

func (t sqliteTables) version(ctx context.Context) (v int, err error) {
	err = t.tx.QueryRowContext(ctx, "SELECT coalesce(max(version), 0) FROM schema_migrations").Scan(&v)
	return v, err
}

func (t sqliteTables) setVersion(ctx context.Context, version int) error {
	_, err := t.tx.ExecContext(ctx, "INSERT INTO schema_migrations (version, applied_at) VALUES (?, strftime('%Y-%m-%d %H:%M:%f', 'now'))", version)
	return err
}

func (t sqliteTables) columns(ctx context.Context, table string) (map[string]definition, error) {
	rows, err := t.tx.QueryContext(ctx, "SELECT name, type FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := map[string]definition{}
	for rows.Next() {
		var c definition
		if err := rows.Scan(&c.name, &c.typ); err != nil {
			return nil, err
		}
		list[strings.ToLower(c.name)] = c
	}
	return list, rows.Err()
}

// Write stores a batch in one transaction.
func (s *SQLite) Write(ctx context.Context, b *Batch) error {
	return s.transaction(ctx, func(tx *sql.Tx) error {
		if err := s.forget(ctx, tx, erasableScores, b.Erased); err != nil {
			return err
		}
		if err := s.forget(ctx, tx, erasableExamples, b.ErasedExamples); err != nil {
			return err
		}
		for _, id := range b.ErasedOutcomes {
			if _, err := tx.ExecContext(ctx, "DELETE FROM churn_outcomes WHERE customer_id = ?", id); err != nil {
				return fmt.Errorf("erase from churn_outcomes: %w", err)
			}
		}
		err := insertSQLite(ctx, s, tx, "churn_scores", s.dialect.scores, len(b.Scores), func(i int) *schemas.ChurnScore { return b.Scores[i] })
		if err != nil {
			return err
		}
		err = insertSQLite(ctx, s, tx, "churn_outcomes", columns.Outcome, len(b.Outcomes), func(i int) *schemas.ChurnOutcome { return b.Outcomes[i] })
		if err != nil {
			return err
		}
		err = insertSQLite(ctx, s, tx, "churn_examples", s.dialect.examples, len(b.Examples), func(i int) *ExampleRow { return &b.Examples[i] })
		if err != nil {
			return err
		}
		if err := withdrawSQLite(ctx, tx, listings(b.Examples)); err != nil {
			return err
		}
		return insertSQLite(ctx, s, tx, "model_versions", modelColumns, len(b.Models), func(i int) *ModelRow { return &b.Models[i] })
	})
}

// forget deletes the rows of before erasures, and remembers these. A trigger
// keeps out such rows from then on.
func (s *SQLite) forget(ctx context.Context, tx *sql.Tx, kind *erasable, erasures []Erasure) error {
	if len(erasures) == 0 {
		return nil
	}
	err := insertSQLite(ctx, s, tx, kind.memory, kind.columns, len(erasures), func(i int) *Erasure { return &erasures[i] })
	if err != nil {
		return err
	}
	table := kind.tables[0]
	remove, err := tx.PrepareContext(ctx, fmt.Sprintf("DELETE FROM %s WHERE customer_id = ? AND %s = ? AND %s < ?", table, kind.partition, kind.offset))
	if err != nil {
		return fmt.Errorf("erase from %s: %w", table, err)
	}
	defer remove.Close()
	for _, e := range erasures {
		if _, err := remove.ExecContext(ctx, e.CustomerID, e.Partition, e.Offset); err != nil {
			return fmt.Errorf("erase from %s: %w", table, err)
		}
	}
	if _, err := tx.ExecContext(ctx, sqliteForgetErasures(kind)); err != nil {
		return fmt.Errorf("forget old erasures: %w", err)
	}
	return nil
}

// withdrawSQLite deletes what customers' last records have left out.
func withdrawSQLite(ctx context.Context, tx *sql.Tx, last map[customer]*listing) error {
	if len(last) == 0 {
		return nil
	}
	stmt, err := tx.PrepareContext(ctx, `DELETE FROM churn_examples WHERE customer_id = ? AND observed_at >= ?
AND record_partition = ? AND record_offset < ? AND observed_at NOT IN (SELECT value FROM json_each(?))`)
	if err != nil {
		return fmt.Errorf("withdraw from churn_examples: %w", err)
	}
	defer stmt.Close()
	for of, l := range last {
		observed := []byte{'['}
		for at := range l.observed {
			observed = append(appendJSONString(observed, sqliteTime(at)), ',')
		}
		observed[len(observed)-1] = ']'
		if _, err := stmt.ExecContext(ctx, of.id, sqliteTime(l.first), of.partition, l.offset, string(observed)); err != nil {
			return fmt.Errorf("withdraw from churn_examples: %w", err)
		}
	}
	return nil
}

// sqliteRows is how many rows one statement inserts: enough that the cost of
// a call is spread, few enough that SQLite's limit of 32,766 parameters is far
// away for tables of hundreds of features.
const sqliteRows = 32

// insertSQLite upserts n rows; message returns that of row i.
func insertSQLite[M any](ctx context.Context, s *SQLite, tx *sql.Tx, table string, list []columns.Column[M], n int, message func(i int) *M) error {
	statement := strings.Replace(s.dialect.insert(table, columns.Names(list)), "INSERT", "INSERT OR REPLACE", 1) + " VALUES "
	values := "(" + strings.Repeat("?, ", len(list)-1) + "?)"
	row := &sqliteCells{store: s, cells: make([]any, 0, sqliteRows*len(list))}
	for i := 0; i < n; {
		rows := sqliteRows
		if n-i < rows {
			rows = 1
		}
		stmt, err := tx.PrepareContext(ctx, statement+strings.Repeat(values+", ", rows-1)+values)
		if err != nil {
			return fmt.Errorf("insert into %s: %w", table, err)
		}
		for ; n-i >= rows; i += rows {
			row.cells = row.cells[:0]
			for k := range rows {
				appendRow(row, list, message(i+k))
			}
			if _, err := stmt.ExecContext(ctx, row.cells...); err != nil {
				stmt.Close()
				return fmt.Errorf("insert into %s: %w", table, err)
			}
		}
		stmt.Close()
	}
	return nil
}

// sqliteCells lays values out as arguments of a statement.
type sqliteCells struct {
	store *SQLite
	cells []any
}

func (c *sqliteCells) add(v any)       { c.cells = append(c.cells, v) }
func (c *sqliteCells) Null()           { c.add(nil) }
func (c *sqliteCells) Text(s string)   { c.add(s) }
func (c *sqliteCells) Int32(n int32)   { c.add(int64(n)) }
func (c *sqliteCells) Int64(n int64)   { c.add(n) }
func (c *sqliteCells) Float(x float64) { c.add(nullable(x)) }
func (c *sqliteCells) Bool(b bool)     { c.add(b) }

// Time adds milliseconds since 1970 as text.
func (c *sqliteCells) Time(ms int64) { c.add(sqliteTime(ms)) }

// sqliteTime returns milliseconds since 1970 as text that sorts by time.
func sqliteTime(ms int64) string { return clampMillis(ms).Format("2006-01-02 15:04:05.000") }

func (c *sqliteCells) Feature(position int) {
	c.add(c.store.attributes.Spec().Feature(position).Name)
}

func (c *sqliteCells) Value(feature int, x float64, levels scoring.Levels) {
	if c.store.attributes.Spec().Feature(feature).Kind == scoring.Categorical {
		c.ValueText(feature, x, levels)
	} else {
		c.Float(x)
	}
}

func (c *sqliteCells) ValueText(feature int, x float64, levels scoring.Levels) {
	c.add(text(c.store.attributes, feature, x, levels))
}

// Explanations adds them as JSON, with the names that the tuples in ClickHouse
// have.
func (c *sqliteCells) Explanations(list []schemas.Explanation, attributes scoring.Vector, levels scoring.Levels) {
	dst := make([]byte, 0, 128*len(list)+2)
	dst = append(dst, '[')
	for i := range list {
		e := &list[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"feature":`...)
		dst = append(dst, c.store.names[e.Feature]...)
		dst = append(dst, `,"value":`...)
		if x := attributes[e.Feature]; scoring.IsMissing(x) {
			dst = append(dst, "null"...)
		} else {
			dst = appendJSONString(dst, c.store.attributes.Text(e.Feature, x, levels))
		}
		dst = append(dst, `,"lime":`...)
		dst = appendJSONNumber(dst, e.LIME)
		dst = append(dst, `,"shap":`...)
		dst = appendJSONNumber(dst, e.SHAP)
		dst = append(dst, '}')
	}
	c.add(string(append(dst, ']')))
}

func (c *sqliteCells) Features(positions []int) {
	if len(positions) == 0 {
		c.add("[]")
		return
	}
	dst := []byte{'['}
	for i, j := range positions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, c.store.names[j]...)
	}
	c.add(string(append(dst, ']')))
}

func (c *sqliteCells) Distributions(list []schemas.BaselineDistribution) {
	dst := []byte{'['}
	for i := range list {
		b := &list[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"name":`...)
		dst = appendJSONString(dst, b.Name)
		dst = append(dst, `,"bins":[`...)
		for k, bin := range b.Bins {
			if k > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, bin)
		}
		dst = append(dst, `],"frequencies":[`...)
		for k, f := range b.Frequencies {
			if k > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONNumber(dst, f)
		}
		dst = append(dst, "]}"...)
	}
	c.add(string(append(dst, ']')))
}

// appendJSONString appends s as a JSON string.
func appendJSONString(dst []byte, s string) []byte {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] == '"' || s[i] == '\\' || s[i] >= 0x7f {
			quoted, _ := json.Marshal(s) // a string always can be
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// appendJSONNumber appends x, null if it is not finite.
func appendJSONNumber(dst []byte, x float64) []byte {
	if nullable(x) == nil {
		return append(dst, "null"...)
	}
	return strconv.AppendFloat(dst, x, 'g', -1, 64)
}

func quoteSQLite(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

const sqliteSchemaMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
)`

func sqliteForgetErasures(kind *erasable) string {
	return "DELETE FROM " + kind.memory + " WHERE erased_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-90 days')"
}

func sqliteDialect(spec *scoring.Spec) *dialect {
	d := newDialect(dialect{
		quote: quoteSQLite,
		fold:  strings.ToLower,
		typeOf: func(t columns.Type, nullable bool, symbols []string) string {
			switch t {
			case columns.Int32, columns.Int64, columns.Bool:
				return "INTEGER"
			case columns.Float:
				return "REAL"
			}
			return "TEXT"
		},
		constraint: func(t columns.Type, nullable bool, _ columns.Shape) string {
			if nullable || t == columns.Float {
				return ""
			}
			return " NOT NULL"
		},
		addColumn: "ADD COLUMN",
		settle:    []string{sqliteForgetErasures(erasableScores), sqliteForgetErasures(erasableExamples)},
	}, "sqlite", spec)
	for _, statement := range d.statements(readFile("migrations/sqlite/feeds.sql"), nil) {
		d.feeds = append(d.feeds, feed{name: "churn_scores", create: statement})
	}
	return d
}
