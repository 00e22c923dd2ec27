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
			// the default of 2 MiB, pages go to the file several times a batch.
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

func (t sqliteTables) columns(ctx context.Context, table string) (map[string]string, error) {
	rows, err := t.tx.QueryContext(ctx, "SELECT name, type FROM pragma_table_info(?)", table)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns := map[string]string{}
	for rows.Next() {
		var name, kind string
		if err := rows.Scan(&name, &kind); err != nil {
			return nil, err
		}
		columns[strings.ToLower(name)] = kind
	}
	return columns, rows.Err()
}

// Write stores a batch in one transaction.
func (s *SQLite) Write(ctx context.Context, b *Batch) error {
	return s.transaction(ctx, func(tx *sql.Tx) error {
		erasures := remembered(b.Erased)
		err := s.insert(ctx, tx, "erasures", erasureColumns, len(erasures), func(row []any, i int) []any {
			e := erasures[i]
			return append(row, e.CustomerID, e.SourcePartition, e.SourceOffset)
		})
		if err != nil {
			return err
		}
		for _, e := range b.Erased {
			_, err := tx.ExecContext(ctx, "DELETE FROM churn_scores WHERE customer_id = ? AND source_partition = ? AND source_offset < ?",
				e.CustomerID, e.SourcePartition, e.SourceOffset)
			if err != nil {
				return fmt.Errorf("erase from churn_scores: %w", err)
			}
		}
		for _, id := range b.ErasedOutcomes {
			if _, err := tx.ExecContext(ctx, "DELETE FROM churn_outcomes WHERE customer_id = ?", id); err != nil {
				return fmt.Errorf("erase from churn_outcomes: %w", err)
			}
		}
		if len(b.Erased) > 0 {
			if _, err := tx.ExecContext(ctx, sqliteForgetErasures); err != nil {
				return fmt.Errorf("forget old erasures: %w", err)
			}
		}
		err = s.insert(ctx, tx, "churn_scores", s.dialect.allScoreColumns(), len(b.Scores),
			func(row []any, i int) []any { return s.appendScore(row, b.Scores[i]) })
		if err != nil {
			return err
		}
		err = s.insert(ctx, tx, "churn_outcomes", outcomeColumns, len(b.Outcomes), func(row []any, i int) []any {
			o := b.Outcomes[i]
			return append(row, o.CustomerID, sqliteTime(o.ObservedAt), o.Churned, o.Source)
		})
		if err != nil {
			return err
		}
		return s.insert(ctx, tx, "model_versions", modelColumns, len(b.Models),
			func(row []any, i int) []any { return s.appendModel(row, &b.Models[i]) })
	})
}

// sqliteRows is how many rows one statement inserts: enough that the cost of
// a call is spread, few enough that SQLite's limit of 32,766 parameters is far
// away for tables of hundreds of features.
const sqliteRows = 32

// insert upserts rows rows; row appends the values of row i.
func (s *SQLite) insert(ctx context.Context, tx *sql.Tx, table string, columns []string, rows int, row func(dst []any, i int) []any) error {
	statement := strings.Replace(s.dialect.insert(table, columns), "INSERT", "INSERT OR REPLACE", 1) + " VALUES "
	values := "(" + strings.Repeat("?, ", len(columns)-1) + "?)"
	args := make([]any, 0, sqliteRows*len(columns))
	for i := 0; i < rows; {
		n := sqliteRows
		if rows-i < n {
			n = 1
		}
		stmt, err := tx.PrepareContext(ctx, statement+strings.Repeat(values+", ", n-1)+values)
		if err != nil {
			return fmt.Errorf("insert into %s: %w", table, err)
		}
		for ; rows-i >= n; i += n {
			args = args[:0]
			for k := range n {
				args = row(args, i+k)
			}
			if _, err := stmt.ExecContext(ctx, args...); err != nil {
				stmt.Close()
				return fmt.Errorf("insert into %s: %w", table, err)
			}
		}
		stmt.Close()
	}
	return nil
}

func (s *SQLite) appendScore(row []any, c *schemas.ChurnScore) []any {
	spec := s.attributes.Spec()
	var change [3]any
	if c.HasBestChange {
		b := &c.BestChange
		change = [3]any{spec.Feature(b.Feature).Name, s.text(b.Feature, b.Value), nullable(b.Probability)}
	}
	row = append(row,
		string(c.CustomerID), string(c.EventID), sqliteTime(c.OccurredAt), sqliteTime(c.ScoredAt), c.ModelVersion,
		nullable(c.Probability), nullable(c.Previous), c.Risk.String(), nullable(c.ExpectedProbability),
		s.explanations(c), s.missing(c),
		change[0], change[1], change[2],
		int64(c.SourcePartition), c.SourceOffset)
	for j, x := range c.Attributes {
		if spec.Feature(j).Kind == scoring.Categorical {
			row = append(row, s.text(j, x))
		} else {
			row = append(row, nullable(x))
		}
	}
	return row
}

func (s *SQLite) appendModel(row []any, m *ModelRow) []any {
	holdout, champion := figures(&m.Metrics), championFigures(m.ChampionMetrics)
	row = append(row, m.Version, sqliteTime(m.CreatedAt), m.Stage.String(), m.Reason, m.Payload, m.SHA256, m.Metrics.Rows)
	row = append(row, holdout[:]...)
	row = append(row, champion[:]...)
	return append(row, sqliteTime(m.TrainingStart), sqliteTime(m.TrainingEnd), m.TrainingRows, m.LabelsSeen,
		m.FeatureFingerprint, nullable(m.MediumThreshold), nullable(m.HighThreshold), baselineJSON(m.Baseline), m.Offset)
}

// text returns a value as text, nil if it is missing.
func (s *SQLite) text(feature int, x float64) any {
	if scoring.IsMissing(x) {
		return nil
	}
	return s.attributes.Text(feature, x)
}

// explanations returns a score's explanations as JSON, with the names that
// the tuples in ClickHouse have.
func (s *SQLite) explanations(c *schemas.ChurnScore) string {
	dst := make([]byte, 0, 128*len(c.Explanations)+2)
	dst = append(dst, '[')
	for i := range c.Explanations {
		e := &c.Explanations[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"feature":`...)
		dst = append(dst, s.names[e.Feature]...)
		dst = append(dst, `,"value":`...)
		if x := c.Attributes[e.Feature]; scoring.IsMissing(x) {
			dst = append(dst, "null"...)
		} else {
			dst = appendJSONString(dst, s.attributes.Text(e.Feature, x))
		}
		dst = append(dst, `,"lime":`...)
		dst = appendJSONNumber(dst, e.LIME)
		dst = append(dst, `,"shap":`...)
		dst = appendJSONNumber(dst, e.SHAP)
		dst = append(dst, '}')
	}
	return string(append(dst, ']'))
}

func (s *SQLite) missing(c *schemas.ChurnScore) string {
	if len(c.Missing) == 0 {
		return "[]"
	}
	dst := []byte{'['}
	for i, j := range c.Missing {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, s.names[j]...)
	}
	return string(append(dst, ']'))
}

func baselineJSON(baseline []schemas.BaselineDistribution) string {
	dst := []byte{'['}
	for i := range baseline {
		b := &baseline[i]
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
	return string(append(dst, ']'))
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

// sqliteTime returns milliseconds since 1970 as text that sorts by time.
func sqliteTime(ms int64) string {
	return clampMillis(ms).Format("2006-01-02 15:04:05.000")
}

func quoteSQLite(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func sqliteType(k scoring.Kind) string {
	if k == scoring.Categorical {
		return "TEXT"
	}
	return "REAL"
}

const sqliteSchemaMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
)`

const sqliteForgetErasures = `DELETE FROM erasures WHERE erased_at < strftime('%Y-%m-%d %H:%M:%f', 'now', '-90 days')`

func sqliteDialect(spec *scoring.Spec) *dialect {
	d := &dialect{
		quote:     quoteSQLite,
		fold:      strings.ToLower,
		typeOf:    sqliteType,
		addColumn: "ADD COLUMN",
		features:  featureColumns(spec),
	}
	var features strings.Builder
	for _, f := range d.features {
		features.WriteString(",\n    " + d.quote(f.name) + " " + d.typeOf(f.kind))
	}
	d.migrations = []migration{{tables: []string{
		`CREATE TABLE churn_scores
(
    customer_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    occurred_at TEXT NOT NULL,
    scored_at TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    previous_probability REAL,
    risk TEXT NOT NULL,
    expected_probability REAL,
    explanations TEXT NOT NULL,
    missing TEXT NOT NULL,
    best_change_feature TEXT,
    best_change_value TEXT,
    best_change_probability REAL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL` + features.String() + `,
    PRIMARY KEY (source_partition, source_offset, model_version)
)`,
		`CREATE INDEX churn_scores_by_customer ON churn_scores (customer_id, source_offset, scored_at, model_version)`,

		`CREATE TABLE churn_outcomes
(
    customer_id TEXT NOT NULL,
    observed_at TEXT NOT NULL,
    churned INTEGER NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (customer_id, observed_at)
) WITHOUT ROWID`,

		`CREATE TABLE model_versions
(
    version INTEGER PRIMARY KEY,
    created_at TEXT NOT NULL,
    stage TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    holdout_rows INTEGER NOT NULL,
    accuracy REAL,
    precision REAL,
    recall REAL,
    f1 REAL,
    roc_auc REAL,
    log_loss REAL,
    brier REAL,
    calibration_error REAL,
    top_decile_lift REAL,
    champion_accuracy REAL,
    champion_precision REAL,
    champion_recall REAL,
    champion_f1 REAL,
    champion_roc_auc REAL,
    champion_log_loss REAL,
    champion_brier REAL,
    champion_calibration_error REAL,
    champion_top_decile_lift REAL,
    training_start TEXT NOT NULL,
    training_end TEXT NOT NULL,
    training_rows INTEGER NOT NULL,
    labels_seen INTEGER NOT NULL,
    feature_fingerprint TEXT NOT NULL,
    medium_threshold REAL,
    high_threshold REAL,
    baseline TEXT NOT NULL,
    record_offset INTEGER NOT NULL
)`,
	}}, {
		// Which score of a customer is the latest. The index on it is the
		// list of those at risk, in its order.
		tables: []string{
			`CREATE TABLE churn_scores_current
(
    customer_id TEXT PRIMARY KEY,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    risk TEXT NOT NULL
) WITHOUT ROWID`,
			`CREATE INDEX churn_scores_current_at_risk ON churn_scores_current (churn_probability DESC, customer_id) WHERE risk = 'HIGH'`,
		},
		fill: []string{
			`INSERT INTO churn_scores_current
SELECT customer_id, source_partition, source_offset, model_version, churn_probability, risk
FROM (
    SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY source_offset DESC, scored_at DESC, model_version DESC) AS n
    FROM churn_scores
)
WHERE n = 1`,
		},
	}, {
		// The trigger keeps out scores of before an erasure that come late,
		// whoever writes them.
		tables: []string{
			`CREATE TABLE erasures
(
    customer_id TEXT NOT NULL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    erased_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (customer_id, source_partition, source_offset)
) WITHOUT ROWID`,
			`CREATE TRIGGER churn_scores_erased BEFORE INSERT ON churn_scores
WHEN EXISTS (
    SELECT 1 FROM erasures
    WHERE customer_id = NEW.customer_id AND source_partition = NEW.source_partition AND source_offset > NEW.source_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END`,
		},
	}}
	d.settle = []string{sqliteForgetErasures}
	// The latest is looked up anew instead of compared with the row written:
	// a row written again, or out of order, or deleted then needs no thought.
	current := func(row string) string {
		return `
    INSERT OR REPLACE INTO churn_scores_current
    SELECT customer_id, source_partition, source_offset, model_version, churn_probability, risk
    FROM churn_scores
    WHERE customer_id = ` + row + `.customer_id
    ORDER BY source_offset DESC, scored_at DESC, model_version DESC
    LIMIT 1;
END`
	}
	d.feeds = []feed{{
		name:   "churn_scores_inserted",
		create: `CREATE TRIGGER IF NOT EXISTS churn_scores_inserted AFTER INSERT ON churn_scores BEGIN` + current("NEW"),
	}, {
		name: "churn_scores_deleted",
		create: `CREATE TRIGGER IF NOT EXISTS churn_scores_deleted AFTER DELETE ON churn_scores BEGIN
    DELETE FROM churn_scores_current WHERE customer_id = OLD.customer_id;` + current("OLD"),
	}}
	d.views = []string{
		`DROP VIEW IF EXISTS churn_scores_latest`,
		`CREATE VIEW churn_scores_latest AS
SELECT s.*
FROM churn_scores_current AS c
JOIN churn_scores AS s ON s.source_partition = c.source_partition AND s.source_offset = c.source_offset
    AND s.model_version = c.model_version AND s.customer_id = c.customer_id`,
		`DROP VIEW IF EXISTS customers_at_risk`,
		`CREATE VIEW customers_at_risk AS
SELECT
    s.customer_id AS customer_id,
    s.churn_probability AS churn_probability,
    previous_probability,
    coalesce((
        SELECT group_concat(reason, '; ')
        FROM (
            SELECT printf('%s: %s (%+.2f)', e.value ->> 'feature', coalesce(e.value ->> 'value', 'missing'),
                coalesce(e.value ->> 'lime', e.value ->> 'shap')) AS reason
            FROM json_each(explanations) AS e
            WHERE coalesce(e.value ->> 'lime', e.value ->> 'shap', 0) > 0
            ORDER BY e.key
        )
    ), '') AS reasons,
    best_change_feature,
    best_change_value,
    best_change_probability,
    occurred_at,
    scored_at,
    s.model_version AS model_version` + d.featureList() + `
FROM churn_scores_current AS c
CROSS JOIN churn_scores AS s ON s.source_partition = c.source_partition AND s.source_offset = c.source_offset
    AND s.model_version = c.model_version AND s.customer_id = c.customer_id
WHERE c.risk = 'HIGH'
ORDER BY c.churn_probability DESC, c.customer_id`,
		`DROP VIEW IF EXISTS model_accuracy_daily`,
		// The same rule for the score in force as in ClickHouse. The query
		// within is for older SQLite programs, in which ORDER BY cannot name
		// what is outside.
		`CREATE VIEW model_accuracy_daily AS
SELECT
    date(o.observed_at) AS day,
    s.model_version AS model_version,
    count(*) AS n,
    avg((s.churn_probability >= 0.5) = o.churned) AS accuracy
FROM churn_outcomes AS o
JOIN churn_scores AS s ON s.rowid =
(
    SELECT score
    FROM (
        SELECT i.rowid AS score, i.occurred_at, i.source_offset, i.model_version,
            abs(julianday(i.scored_at) - julianday(o.observed_at)) AS away
        FROM churn_scores AS i
        WHERE i.customer_id = o.customer_id AND i.occurred_at <= o.observed_at
    )
    ORDER BY occurred_at DESC, source_offset DESC, away, model_version DESC
    LIMIT 1
)
GROUP BY day, s.model_version
ORDER BY day, s.model_version`,
	}
	return d
}
