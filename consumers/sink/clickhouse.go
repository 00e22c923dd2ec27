package sink

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/ext"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// ClickHouseConfig says where the tables are. Addr is required.
type ClickHouseConfig struct {
	// Addr is the server as host:port, of the native protocol unless Protocol
	// says otherwise. Of several, separated by commas, one is used at a time,
	// the next when it fails.
	Addr string
	// Database must exist; "" is "default".
	Database string
	// Username and Password log in; "" is the server's default user.
	Username, Password string
	// Protocol is "native", or "http" where only that passes; "" is native.
	Protocol string
	// TLS is nil for a plain connection.
	TLS *tls.Config
	// Timeout bounds connecting, each Write, and what else is quick; 0 is one
	// minute. What goes through whole tables takes as long as it takes.
	Timeout time.Duration
	// RetentionDays is for how many days after they were computed the scores
	// in churn_scores are kept. The views churn_scores_latest and
	// customers_at_risk keep the latest score of each customer all the same.
	// 0 leaves the table's TTL as it is: none, or one set by hand.
	RetentionDays int
}

// ClickHouse is a Store in ClickHouse, over its native protocol or HTTP.
//
// Tables are ReplacingMergeTree on the row's identity, so what is written
// again replaces what was there when parts merge. Erasures are lightweight
// deletes: the rows cannot be read any more when Write returns, and leave the
// disk when their part is merged next.
//
// Two tables are derived from churn_scores, each with one row a customer once
// its parts are merged. churn_scores_current is given every score and keeps
// the latest. churn_scores_at_risk is given those that are HIGH, and by settle
// what has taken their place since, until tidy drops both. So it has little
// more than the customers at risk, and reading it with FINAL takes
// milliseconds, however many customers and scores there are.
type ClickHouse struct {
	attributes Attributes
	dialect    *dialect
	conn       driver.Conn
	timeout    time.Duration
	retention  int

	// Tidying goes on beside the writes until Close.
	tidied     atomic.Int64 // when it began last, in nanoseconds since 1970
	background context.Context
	stop       context.CancelFunc
	tidying    sync.WaitGroup
}

// longest is for how long a statement that goes through whole tables is waited
// for. Without a deadline the client would set one of its own.
const longest = 24 * time.Hour

var clickhouseProtocols = map[string]clickhouse.Protocol{"": clickhouse.Native, "native": clickhouse.Native, "http": clickhouse.HTTP}

// OpenClickHouse returns a store on the given servers for rows with the given
// attributes. It does not connect yet; Migrate does.
func OpenClickHouse(cfg ClickHouseConfig, attributes Attributes) (*ClickHouse, error) {
	servers := strings.Split(cfg.Addr, ",")
	for i, server := range servers {
		servers[i] = strings.TrimSpace(server)
		if _, _, err := net.SplitHostPort(servers[i]); err != nil {
			return nil, fmt.Errorf("clickhouse: address %q: %w", cfg.Addr, err)
		}
	}
	protocol, ok := clickhouseProtocols[cfg.Protocol]
	if !ok {
		return nil, fmt.Errorf("clickhouse: protocol %q is neither native nor http", cfg.Protocol)
	}
	if cfg.RetentionDays < 0 {
		return nil, fmt.Errorf("clickhouse: a retention of %d days", cfg.RetentionDays)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    protocol,
		Addr:        servers,
		Auth:        clickhouse.Auth{Database: cfg.Database, Username: cfg.Username, Password: cfg.Password},
		TLS:         cfg.TLS,
		DialTimeout: min(cfg.Timeout, 10*time.Second),
		// Every statement has a deadline of its own.
		ReadTimeout: longest,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		// One worker a partition writes at a time; none should wait for a
		// connection long enough to take the server for down.
		MaxOpenConns: 128,
		MaxIdleConns: 8,
		Settings: clickhouse.Settings{
			// An insert that is acknowledged before it is on disk is not what
			// offsets may be committed on.
			"async_insert": 0,
			// Replicated tables drop a block equal to one inserted before. A
			// batch written again after an erasure must not be dropped: its
			// rows were deleted in between.
			"insert_deduplicate": 0,
			// Wait for the replicas that are up only: else one that is down
			// would hold up every erasure. It erases when it is back.
			"lightweight_deletes_sync": 3,
		},
	})
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	background, stop := context.WithCancel(context.Background())
	return &ClickHouse{
		background: background,
		stop:       stop,
		attributes: attributes,
		dialect:    clickhouseDialect(attributes.Spec()),
		conn:       conn,
		timeout:    cfg.Timeout,
		retention:  cfg.RetentionDays,
	}, nil
}

// Name returns "clickhouse".
func (c *ClickHouse) Name() string { return "clickhouse" }

// Close closes the connections.
func (c *ClickHouse) Close() error {
	c.stop()
	c.tidying.Wait()
	return c.conn.Close()
}

// Migrate creates or completes tables and views. Several sinks may do it at
// the same time: every statement can be repeated.
func (c *ClickHouse) Migrate(ctx context.Context) error {
	t := clickhouseTables{c.conn, c.timeout}
	c.tidied.Store(time.Now().UnixNano())
	if err := t.exec(ctx, clickhouseSchemaMigrations); err != nil {
		return fmt.Errorf("clickhouse: create schema_migrations: %w", err)
	}
	if err := c.dialect.migrate(ctx, t); err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	if err := c.eraseReturned(ctx); err != nil {
		return err
	}
	if c.retention > 0 {
		if err := t.retain(ctx, c.retention); err != nil {
			return fmt.Errorf("clickhouse: retention of %d days: %w", c.retention, err)
		}
	}
	return nil
}

type clickhouseTables struct {
	conn    driver.Conn
	timeout time.Duration
}

func (t clickhouseTables) exec(ctx context.Context, statement string) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.conn.Exec(ctx, statement)
}

func (t clickhouseTables) fill(ctx context.Context, statement string) error {
	t.timeout = longest
	return t.exec(ctx, statement)
}

// retain sets the TTL of churn_scores unless it is this one: setting it goes
// through all rows.
func (t clickhouseTables) retain(ctx context.Context, days int) error {
	ttl := fmt.Sprintf("TTL toDateTime(scored_at) + toIntervalDay(%d)", days)
	var has bool
	err := t.queryRow(ctx, &has, "SELECT position(engine_full, ?) > 0 FROM system.tables WHERE database = currentDatabase() AND name = 'churn_scores'", ttl)
	if err != nil || has {
		return err
	}
	return t.exec(ctx, "ALTER TABLE churn_scores MODIFY "+ttl)
}

func (t clickhouseTables) queryRow(ctx context.Context, dst any, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	return t.conn.QueryRow(ctx, query, args...).Scan(dst)
}

func (t clickhouseTables) version(ctx context.Context) (int, error) {
	var v int32
	err := t.queryRow(ctx, &v, "SELECT max(version) FROM schema_migrations")
	return int(v), err
}

func (t clickhouseTables) setVersion(ctx context.Context, version int) error {
	return t.exec(ctx, fmt.Sprintf("INSERT INTO schema_migrations (version, applied_at) SELECT %d, now64(3)", version))
}

func (t clickhouseTables) columns(ctx context.Context, table string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	rows, err := t.conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = ? AND default_kind IN ('', 'DEFAULT')", table)
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
		columns[name] = kind
	}
	return columns, rows.Err()
}

// Write deletes what was erased, then inserts each table's rows as one block.
// Of scores it then deletes those of customers erased meanwhile, and settles
// who is at risk.
func (c *ClickHouse) Write(ctx context.Context, b *Batch) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.remember(ctx, remembered(b.Erased)); err != nil {
		return err
	}
	if err := c.eraseScores(ctx, b.Erased); err != nil {
		return err
	}
	if err := c.eraseOutcomes(ctx, b.ErasedOutcomes); err != nil {
		return err
	}
	if len(b.Scores) > 0 {
		row := c.scoreRow()
		err := c.insert(ctx, "churn_scores", c.dialect.allScoreColumns(), len(b.Scores),
			func(i int) []any { return row(b.Scores[i]) })
		if err != nil {
			return err
		}
		if err := c.eraseLate(ctx, b.Scores); err != nil {
			return err
		}
		if err := c.settle(ctx, b.Scores); err != nil {
			return err
		}
		c.tidy()
	}
	if len(b.Outcomes) > 0 {
		err := c.insert(ctx, "churn_outcomes", outcomeColumns, len(b.Outcomes), func(i int) []any {
			o := b.Outcomes[i]
			return []any{o.CustomerID, clampMillis(o.ObservedAt), o.Churned, o.Source}
		})
		if err != nil {
			return err
		}
	}
	if len(b.Models) > 0 {
		return c.insert(ctx, "model_versions", modelColumns, len(b.Models),
			func(i int) []any { return clickhouseModelRow(&b.Models[i]) })
	}
	return nil
}

// insert sends rows rows as one block. The server answers when it is on disk.
func (c *ClickHouse) insert(ctx context.Context, table string, columns []string, rows int, row func(i int) []any) error {
	batch, err := c.conn.PrepareBatch(ctx, c.dialect.insert(table, columns))
	if err != nil {
		return fmt.Errorf("clickhouse: insert into %s: %w", table, err)
	}
	defer batch.Close()
	for i := range rows {
		if err := batch.Append(row(i)...); err != nil {
			return fmt.Errorf("clickhouse: insert into %s, row %d: %w", table, i, err)
		}
	}
	if err := batch.Send(); err != nil {
		return fmt.Errorf("clickhouse: insert into %s: %w", table, err)
	}
	return nil
}

// settle makes churn_scores_at_risk know which of the batch's customers are
// not at risk any more: for those whose latest score there is HIGH, and in
// churn_scores_current is not, it inserts the latter, which from then on
// replaces the former.
//
// It comes after the insert: of two writers, one with a HIGH score and one
// with the score that takes its place, each then sees either the other's rows
// or that the other has yet to settle. So it does not matter in which order
// scores are written, nor how often.
func (c *ClickHouse) settle(ctx context.Context, scores []*schemas.ChurnScore) error {
	batch, err := ext.NewTable("batch", ext.Column("customer_id", "String"))
	if err != nil {
		return fmt.Errorf("clickhouse: settle: %w", err)
	}
	seen := make(map[string]bool, len(scores))
	for _, s := range scores {
		if id := string(s.CustomerID); !seen[id] {
			seen[id] = true
			if err := batch.Append(id); err != nil {
				return fmt.Errorf("clickhouse: settle: %w", err)
			}
		}
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithExternalTable(batch))
	if err := c.conn.Exec(ctx, settleStatement(" AND customer_id IN (SELECT customer_id FROM batch)")); err != nil {
		return fmt.Errorf("clickhouse: settle: %w", err)
	}
	return nil
}

// tidyInterval is how often the tables are freed of erased customers' scores
// that came late, and churn_scores_at_risk of what settle left.
const tidyInterval = 10 * time.Minute

// tidyStatement merges churn_scores_at_risk into one part and drops from it
// all who are not at risk: else those who once were would make it grow for
// ever. An old score that comes after it does no harm, because settle asks
// churn_scores_current.
const tidyStatement = "OPTIMIZE TABLE churn_scores_at_risk FINAL CLEANUP"

// tidy starts tidying if it is time to. When it fails the next time will do:
// queries are only slower without it, and Write has erased what it could.
func (c *ClickHouse) tidy() {
	last, now := c.tidied.Load(), time.Now().UnixNano()
	if time.Duration(now-last) < tidyInterval || !c.tidied.CompareAndSwap(last, now) {
		return
	}
	c.tidying.Go(func() {
		_ = c.eraseReturned(c.background)
		_ = clickhouseTables{c.conn, c.timeout}.fill(c.background, tidyStatement)
	})
}

// settleStatement returns the statement for the customers that the condition
// leaves.
func settleStatement(and string) string {
	return `INSERT INTO churn_scores_at_risk (customer_id, scored_at, model_version, source_partition, source_offset, risk)
SELECT customer_id, scored_at, model_version, source_partition, source_offset, risk
FROM churn_scores_current FINAL
WHERE risk != 'HIGH' AND customer_id IN
(
    SELECT customer_id FROM churn_scores_at_risk FINAL WHERE risk = 'HIGH'` + and + `
)`
}

// scoreTables have scores.
var scoreTables = []string{"churn_scores", "churn_scores_current", "churn_scores_at_risk"}

// remember notes erasures for eraseLate and eraseReturned, of whatever sink.
func (c *ClickHouse) remember(ctx context.Context, erasures []Erasure) error {
	if len(erasures) == 0 {
		return nil
	}
	return c.insert(ctx, "erasures", erasureColumns, len(erasures), func(i int) []any {
		e := erasures[i]
		return []any{e.CustomerID, e.SourcePartition, e.SourceOffset}
	})
}

// eraseLate deletes those of a batch's scores whose customers were erased
// after them. Most often there are none to know of, as erasures come in the
// order of the scores; not so when a sink was held up for so long that another
// has gone on in its place.
//
// It comes after the insert, as an erasure is remembered before it deletes: of
// two writers, one with a score and one with its erasure, the latter deletes
// the score, or the former finds the erasure.
func (c *ClickHouse) eraseLate(ctx context.Context, scores []*schemas.ChurnScore) error {
	var partitions []int32
	first := scores[0].SourceOffset
	for _, s := range scores {
		first = min(first, s.SourceOffset)
		if !slices.Contains(partitions, s.SourcePartition) { // a batch has one or few
			partitions = append(partitions, s.SourcePartition)
		}
	}
	later, err := c.erasures(ctx, fmt.Sprintf("SELECT customer_id, source_partition, source_offset FROM erasures WHERE source_partition IN (%s) AND source_offset > %d",
		commas(partitions), first))
	if err != nil || len(later) == 0 {
		return err
	}
	erased := lastErasures(later)
	var late []Erasure
	for _, s := range scores {
		if offset := erased[customer{string(s.CustomerID), s.SourcePartition}]; s.SourceOffset < offset {
			late = append(late, Erasure{string(s.CustomerID), s.SourcePartition, offset})
		}
	}
	return c.eraseScores(ctx, late)
}

// eraseReturned deletes what others have written late of erased customers'
// scores: a sink that ended before it could erase them itself, one of an older
// version, the migration of one that began before the erasure.
func (c *ClickHouse) eraseReturned(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var rows []string
	for _, table := range scoreTables {
		rows = append(rows, "SELECT customer_id, source_partition, source_offset FROM "+table+" WHERE customer_id IN (SELECT customer_id FROM erasures)")
	}
	returned, err := c.erasures(ctx, `SELECT e.customer_id, e.source_partition, max(e.source_offset)
FROM (`+strings.Join(rows, " UNION ALL ")+`) AS s
INNER JOIN erasures AS e ON s.customer_id = e.customer_id AND s.source_partition = e.source_partition
WHERE s.source_offset < e.source_offset
GROUP BY e.customer_id, e.source_partition`)
	if err != nil {
		return err
	}
	return c.eraseScores(ctx, returned)
}

// erasures returns a query's rows.
func (c *ClickHouse) erasures(ctx context.Context, query string) ([]Erasure, error) {
	rows, err := c.conn.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("clickhouse: read erasures: %w", err)
	}
	defer rows.Close()
	var list []Erasure
	for rows.Next() {
		var e Erasure
		if err := rows.Scan(&e.CustomerID, &e.SourcePartition, &e.SourceOffset); err != nil {
			return nil, fmt.Errorf("clickhouse: read erasures: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("clickhouse: read erasures: %w", err)
	}
	return list, nil
}

// eraseScores deletes scores of before the erasures from all tables.
func (c *ClickHouse) eraseScores(ctx context.Context, erasures []Erasure) error {
	// The last erasure of a customer is what counts.
	erasures = slices.SortedFunc(slices.Values(erasures), func(a, b Erasure) int {
		return cmp.Or(cmp.Compare(a.SourcePartition, b.SourcePartition), cmp.Compare(a.CustomerID, b.CustomerID), cmp.Compare(b.SourceOffset, a.SourceOffset))
	})
	erasures = slices.CompactFunc(erasures, func(a, b Erasure) bool {
		return a.SourcePartition == b.SourcePartition && a.CustomerID == b.CustomerID
	})
	for len(erasures) > 0 {
		var customers []string
		var offsets []int64
		partition := erasures[0].SourcePartition
		for _, e := range erasures {
			if e.SourcePartition != partition {
				break
			}
			customers, offsets = append(customers, e.CustomerID), append(offsets, e.SourceOffset)
		}
		ids, n := literals(customers)
		// A thousand conditions with OR between them would take the server a
		// minute.
		condition := fmt.Sprintf("source_partition = %d AND customer_id IN (%s) AND source_offset < transform(customer_id, [%s], [%s], 0)",
			partition, ids, ids, commas(offsets[:n]))
		for _, table := range scoreTables {
			if err := c.conn.Exec(ctx, "DELETE FROM "+table+" WHERE "+condition); err != nil {
				return fmt.Errorf("clickhouse: erase from %s: %w", table, err)
			}
		}
		erasures = erasures[n:]
	}
	return nil
}

func (c *ClickHouse) eraseOutcomes(ctx context.Context, customers []string) error {
	for len(customers) > 0 {
		ids, n := literals(customers)
		if err := c.conn.Exec(ctx, "DELETE FROM churn_outcomes WHERE customer_id IN ("+ids+")"); err != nil {
			return fmt.Errorf("clickhouse: erase from churn_outcomes: %w", err)
		}
		customers = customers[n:]
	}
	return nil
}

// These keep a statement that has the same literals twice, and a number for
// each, below max_query_size: 256 KiB on a server that was left as it is.
const (
	maxLiterals     = 2000
	maxLiteralBytes = 64 << 10
)

// literals returns the first n of the strings as literals: as many as a
// statement can have.
func literals(list []string) (text string, n int) {
	var b strings.Builder
	for n < min(len(list), maxLiterals) && b.Len() < maxLiteralBytes {
		if n > 0 {
			b.WriteByte(',')
		}
		writeClickHouseString(&b, list[n], '\'')
		n++
	}
	return b.String(), n
}

// commas returns the numbers with commas between them.
func commas[T int32 | int64](numbers []T) string {
	var b []byte
	for i, x := range numbers {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendInt(b, int64(x), 10)
	}
	return string(b)
}

// writeClickHouseString writes s as a literal or identifier between quotes.
func writeClickHouseString(b *strings.Builder, s string, quote byte) {
	b.WriteByte(quote)
	for i := range len(s) {
		switch ch := s[i]; {
		case ch == quote || ch == '\\':
			b.WriteByte('\\')
			b.WriteByte(ch)
		case ch < 0x20:
			fmt.Fprintf(b, `\x%02X`, ch)
		default:
			b.WriteByte(ch)
		}
	}
	b.WriteByte(quote)
}

func quoteClickHouse(name string) string {
	var b strings.Builder
	writeClickHouseString(&b, name, '`')
	return b.String()
}

// scoreRow returns a function that lays a score out as a row. The row is
// overwritten by the next call.
func (c *ClickHouse) scoreRow() func(*schemas.ChurnScore) []any {
	spec := c.attributes.Spec()
	row := make([]any, 0, len(scoreColumns)+spec.Len())
	var explanations [][]any
	var missing []string
	return func(s *schemas.ChurnScore) []any {
		for len(explanations) < len(s.Explanations) {
			explanations = append(explanations, make([]any, 4))
		}
		for i := range s.Explanations {
			e, cells := &s.Explanations[i], explanations[i]
			cells[0] = spec.Feature(e.Feature).Name
			cells[1] = c.text(e.Feature, s.Attributes[e.Feature])
			cells[2], cells[3] = nullable(e.LIME), nullable(e.SHAP)
		}
		missing = missing[:0]
		for _, j := range s.Missing {
			missing = append(missing, spec.Feature(j).Name)
		}
		var change [3]any
		if s.HasBestChange {
			b := &s.BestChange
			change = [3]any{spec.Feature(b.Feature).Name, c.text(b.Feature, b.Value), nullable(b.Probability)}
		}
		row = append(row[:0],
			string(s.CustomerID), string(s.EventID), clampMillis(s.OccurredAt), clampMillis(s.ScoredAt), s.ModelVersion,
			s.Probability, nullable(s.Previous), s.Risk.String(), s.ExpectedProbability,
			explanations[:len(s.Explanations)], missing,
			change[0], change[1], change[2],
			s.SourcePartition, s.SourceOffset)
		for j, x := range s.Attributes {
			if spec.Feature(j).Kind == scoring.Categorical {
				row = append(row, c.text(j, x))
			} else {
				row = append(row, nullable(x))
			}
		}
		return row
	}
}

// text returns a value as text, nil if it is missing.
func (c *ClickHouse) text(feature int, x float64) any {
	if scoring.IsMissing(x) {
		return nil
	}
	return c.attributes.Text(feature, x)
}

func clickhouseModelRow(m *ModelRow) []any {
	holdout, champion := figures(&m.Metrics), championFigures(m.ChampionMetrics)
	baseline := make([][]any, len(m.Baseline))
	for i := range m.Baseline {
		b := &m.Baseline[i]
		baseline[i] = []any{b.Name, append([]string{}, b.Bins...), append([]float64{}, b.Frequencies...)}
	}
	row := []any{m.Version, clampMillis(m.CreatedAt), m.Stage.String(), m.Reason, m.Payload, m.SHA256, m.Metrics.Rows}
	row = append(row, holdout[:]...)
	row = append(row, champion[:]...)
	return append(row, clampMillis(m.TrainingStart), clampMillis(m.TrainingEnd), m.TrainingRows, m.LabelsSeen,
		m.FeatureFingerprint, finiteOrZero(m.MediumThreshold), finiteOrZero(m.HighThreshold), baseline, m.Offset)
}

func finiteOrZero(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

// DDL returns the statements that Migrate brings an empty ClickHouse database
// to, for one feature specification: for reading, for review, and for
// operators who create tables themselves. Tables that exist are left as they
// are, so a replicated engine or a TTL may be added by hand.
func DDL(attributes Attributes) string {
	d := clickhouseDialect(attributes.Spec())
	statements := []string{clickhouseSchemaMigrations}
	for _, m := range d.migrations {
		statements = append(statements, m.tables...)
	}
	for _, f := range d.feeds {
		statements = append(statements, f.create)
	}
	statements = append(statements,
		fmt.Sprintf("INSERT INTO schema_migrations (version, applied_at) SELECT %d, now64(3)", len(d.migrations)))
	statements = append(statements, d.views...)
	return strings.Join(statements, ";\n\n") + ";\n"
}

func clickhouseType(k scoring.Kind) string {
	if k == scoring.Categorical {
		return "LowCardinality(Nullable(String))"
	}
	return "Nullable(Float64)"
}

const clickhouseSchemaMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version Int32,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version`

func clickhouseDialect(spec *scoring.Spec) *dialect {
	d := &dialect{
		quote:     quoteClickHouse,
		fold:      func(name string) string { return name },
		typeOf:    clickhouseType,
		addColumn: "ADD COLUMN IF NOT EXISTS",
		features:  featureColumns(spec),
	}
	var features strings.Builder
	for _, f := range d.features {
		features.WriteString(",\n    " + d.quote(f.name) + " " + d.typeOf(f.kind))
	}
	scores := `
    customer_id String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    scored_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    model_version Int64 CODEC(ZSTD(1)),
    churn_probability Float64,
    previous_probability Nullable(Float64),
    risk Enum8('LOW' = 0, 'MEDIUM' = 1, 'HIGH' = 2),
    expected_probability Float64 CODEC(ZSTD(1)),
    explanations Array(Tuple(feature LowCardinality(String), value Nullable(String), lime Nullable(Float64), shap Nullable(Float64))),
    missing Array(LowCardinality(String)),
    best_change_feature LowCardinality(Nullable(String)),
    best_change_value Nullable(String),
    best_change_probability Nullable(Float64),
    source_partition Int32 CODEC(ZSTD(1)),
    source_offset Int64 CODEC(Delta, ZSTD(1))` + features.String()
	// What makes one score of a customer later than another, most significant
	// first, as the one number that the engine compares. Times before 1970 are
	// negative.
	const recency = `,
    score_recency UInt256 MATERIALIZED bitOr(bitOr(
        bitShiftLeft(toUInt256(source_offset), 128),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1))`
	d.migrations = []migration{{tables: []string{
		`CREATE TABLE IF NOT EXISTS churn_scores
(` + scores + `
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, source_partition, source_offset, model_version)`,

		`CREATE TABLE IF NOT EXISTS churn_outcomes
(
    customer_id String CODEC(ZSTD(1)),
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    churned Bool,
    source LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, observed_at)`,

		`CREATE TABLE IF NOT EXISTS model_versions
(
    version Int64,
    created_at DateTime64(3, 'UTC'),
    stage Enum8('CHALLENGER' = 0, 'CHAMPION' = 1, 'RETIRED' = 2),
    reason String,
    payload String CODEC(ZSTD(3)),
    sha256 String,
    holdout_rows Int64,
    accuracy Nullable(Float64),
    precision Nullable(Float64),
    recall Nullable(Float64),
    f1 Nullable(Float64),
    roc_auc Nullable(Float64),
    log_loss Nullable(Float64),
    brier Nullable(Float64),
    calibration_error Nullable(Float64),
    top_decile_lift Nullable(Float64),
    champion_accuracy Nullable(Float64),
    champion_precision Nullable(Float64),
    champion_recall Nullable(Float64),
    champion_f1 Nullable(Float64),
    champion_roc_auc Nullable(Float64),
    champion_log_loss Nullable(Float64),
    champion_brier Nullable(Float64),
    champion_calibration_error Nullable(Float64),
    champion_top_decile_lift Nullable(Float64),
    training_start DateTime64(3, 'UTC'),
    training_end DateTime64(3, 'UTC'),
    training_rows Int64,
    labels_seen Int64,
    feature_fingerprint String,
    medium_threshold Float64,
    high_threshold Float64,
    baseline Array(Tuple(name String, bins Array(String), frequencies Array(Float64))),
    record_offset Int64
)
ENGINE = ReplacingMergeTree
ORDER BY version`,
	}}, {
		tables: []string{
			// Small granules: settle looks up some customers of many.
			`CREATE TABLE IF NOT EXISTS churn_scores_current
(` + scores + recency + `
)
ENGINE = ReplacingMergeTree(score_recency)
ORDER BY customer_id
SETTINGS index_granularity = 512`,

			`CREATE TABLE IF NOT EXISTS churn_scores_at_risk
(` + scores + recency + `,
    not_at_risk UInt8 MATERIALIZED risk != 'HIGH'
)
ENGINE = ReplacingMergeTree(score_recency, not_at_risk)
ORDER BY customer_id
SETTINGS allow_experimental_replacing_merge_with_cleanup = 1`,
		},
		fill: []string{
			// The order starts as the table's does, so the server streams
			// instead of sorting.
			`INSERT INTO churn_scores_current ($COLUMNS)
SELECT $COLUMNS
FROM churn_scores
ORDER BY customer_id, source_offset DESC, scored_at DESC, model_version DESC
LIMIT 1 BY customer_id`,
			`INSERT INTO churn_scores_at_risk ($COLUMNS)
SELECT $COLUMNS
FROM churn_scores_current FINAL
WHERE risk = 'HIGH'`,
		},
	}, {
		// The order is eraseLate's.
		tables: []string{
			`CREATE TABLE IF NOT EXISTS erasures
(
    customer_id String CODEC(ZSTD(1)),
    source_partition Int32,
    source_offset Int64,
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (source_partition, source_offset, customer_id)
TTL toDateTime(erased_at) + INTERVAL 90 DAY`,
		},
	}}
	d.copies = []string{"churn_scores_current", "churn_scores_at_risk"}
	feedOf := func(table, query string) feed {
		name := table + "_feed"
		return feed{
			name:   name,
			create: "CREATE MATERIALIZED VIEW IF NOT EXISTS " + name + " TO " + table + " AS\n" + query,
			// The asterisk stands for the columns of the time it was given.
			alter: "ALTER TABLE " + name + " MODIFY QUERY " + query,
		}
	}
	d.feeds = []feed{
		feedOf("churn_scores_current", "SELECT * FROM churn_scores"),
		feedOf("churn_scores_at_risk", "SELECT * FROM churn_scores WHERE risk = 'HIGH'"),
	}
	// Rows that something else than Write brought into churn_scores.
	d.settle = []string{settleStatement(""), tidyStatement}
	d.views = []string{
		`CREATE OR REPLACE VIEW churn_scores_latest AS
SELECT *
FROM churn_scores_current FINAL`,

		`CREATE OR REPLACE VIEW customers_at_risk AS
SELECT
    customer_id,
    churn_probability,
    previous_probability,
    arrayStringConcat(
        arrayMap(
            e -> printf('%s: %s (%+.2f)', toString(e.feature), ifNull(e.value, 'missing'), coalesce(e.lime, e.shap, 0)),
            arrayFilter(e -> coalesce(e.lime, e.shap, 0) > 0, explanations)),
        '; ') AS reasons,
    best_change_feature,
    best_change_value,
    best_change_probability,
    occurred_at,
    scored_at,
    model_version` + d.featureList() + `
FROM churn_scores_at_risk FINAL
WHERE risk = 'HIGH'
ORDER BY churn_probability DESC, customer_id`,

		// In force is the score of the last event that had happened when the
		// outcome was observed. An event scored again by a later model has
		// several: the one computed last before the outcome, or, in history
		// that was scored afterwards, the first.
		`CREATE OR REPLACE VIEW model_accuracy_daily AS
SELECT
    toDate(observed_at) AS day,
    in_force.1 AS model_version,
    count() AS n,
    avg((in_force.2 >= 0.5) = churned) AS accuracy
FROM
(
    SELECT
        o.observed_at AS observed_at,
        any(o.churned) AS churned,
        argMax(
            (s.model_version, s.churn_probability),
            (s.occurred_at, s.source_offset,
             -abs(toUnixTimestamp64Milli(s.scored_at) - toUnixTimestamp64Milli(o.observed_at)), s.model_version)) AS in_force
    FROM churn_scores AS s
    INNER JOIN (SELECT customer_id, observed_at, churned FROM churn_outcomes FINAL) AS o ON s.customer_id = o.customer_id
    WHERE s.occurred_at <= o.observed_at
    GROUP BY o.customer_id, o.observed_at
)
GROUP BY day, model_version
ORDER BY day, model_version`,
	}
	return d
}
