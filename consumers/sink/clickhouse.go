package sink

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
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

	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
)

// ClickHouseConfig says where the tables are. Addr is required.
type ClickHouseConfig struct {
	// Addr is the server as host:port, of the native protocol unless Protocol
	// says otherwise. Of several, separated by commas, one is used at a time,
	// the next when it fails.
	Addr string `name:"clickhouse" help:"ClickHouse servers to write to; one is used at a time." placeholder:"HOST:PORT,…"`
	// Protocol is "native", or "http" where only that passes.
	Protocol string `name:"clickhouse-protocol" help:"Speak to it by native (usually port 9000) or http (8123)." enum:"native,http" default:"native"`
	// Database must exist.
	Database string `name:"clickhouse-database" help:"Its database." default:"default"`
	// Username and Password log in.
	Username string `name:"clickhouse-user" help:"User to log in as. The password comes from CHURN_CLICKHOUSE_PASSWORD or --clickhouse-password-file." default:"default"`
	Password string `kong:"-"`
	// RetentionDays is for how many days after they were computed the scores
	// in churn_scores are kept. The views churn_scores_latest and
	// customers_at_risk keep the latest score of each customer all the same.
	// 0 leaves the table's TTL as it is: none, or one set by hand.
	RetentionDays int `name:"clickhouse-retention-days" help:"Days to keep scores in ClickHouse; 0 leaves that to the table." default:"0" unit:"days"`
	// TLS is nil for a plain connection.
	TLS *tls.Config `kong:"-"`
	// Timeout bounds connecting, each Write, and what else is quick. What goes
	// through whole tables takes as long as it takes.
	Timeout time.Duration `name:"clickhouse-timeout" help:"Longest that connecting or one write may take; it is tried again. Migrations and tidying up may take a day." default:"1m" advanced:""`
}

// ClickHouse is a Store in ClickHouse, over its native protocol or HTTP.
//
// Tables are ReplacingMergeTree on the row's identity, so what is written
// again replaces what was there when parts merge. Erasures are lightweight
// deletes: the rows cannot be read any more when Write returns, and leave the
// disk when their part is merged next. An example's row of an earlier record does
// not replace one of a later, whichever is written last.
//
// Two tables are derived from churn_scores, each with one row per customer once
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

var clickhouseProtocols = map[string]clickhouse.Protocol{"native": clickhouse.Native, "http": clickhouse.HTTP}

// OpenClickHouse returns a store on the given servers for rows with the given
// attributes. It does not connect yet; Migrate does.
func OpenClickHouse(cfg ClickHouseConfig, attributes Attributes) (*ClickHouse, error) {
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	servers := strings.Split(cfg.Addr, ",")
	for i, server := range servers {
		servers[i] = strings.TrimSpace(server)
		if _, _, err := net.SplitHostPort(servers[i]); err != nil {
			return nil, fmt.Errorf("clickhouse: address %q: %w", cfg.Addr, err)
		}
	}
	conn, err := clickhouse.Open(&clickhouse.Options{
		Protocol:    clickhouseProtocols[cfg.Protocol],
		Addr:        servers,
		Auth:        clickhouse.Auth{Database: cfg.Database, Username: cfg.Username, Password: cfg.Password},
		TLS:         cfg.TLS,
		DialTimeout: min(cfg.Timeout, 10*time.Second),
		// Every statement has a deadline of its own.
		ReadTimeout: longest,
		Compression: &clickhouse.Compression{Method: clickhouse.CompressionLZ4},
		// One worker per partition writes at a time; none should wait for a
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
	for _, kind := range erasables {
		if err := c.eraseReturned(ctx, kind); err != nil {
			return err
		}
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

func (t clickhouseTables) columns(ctx context.Context, table string) (map[string]definition, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	rows, err := t.conn.Query(ctx, "SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = ? AND default_kind IN ('', 'DEFAULT')", table)
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
		list[c.name] = c
	}
	return list, rows.Err()
}

// Write deletes what was erased, then inserts each table's rows as one block.
// Of scores and examples it then deletes those of customers erased meanwhile. It
// settles who is at risk, and deletes examples that are none any more.
func (c *ClickHouse) Write(ctx context.Context, b *Batch) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.forget(ctx, erasableScores, b.Erased); err != nil {
		return err
	}
	if err := c.forget(ctx, erasableExamples, b.ErasedExamples); err != nil {
		return err
	}
	if err := c.eraseOutcomes(ctx, b.ErasedOutcomes); err != nil {
		return err
	}
	if len(b.Scores) > 0 {
		err := insertClickHouse(ctx, c, "churn_scores", c.dialect.scores, len(b.Scores), func(i int) *schemas.ChurnScore { return b.Scores[i] })
		if err != nil {
			return err
		}
		err = c.eraseLate(ctx, erasableScores, len(b.Scores),
			func(i int) (int32, int64) { return b.Scores[i].SourcePartition, b.Scores[i].SourceOffset },
			func(i int) string { return string(b.Scores[i].CustomerID) })
		if err != nil {
			return err
		}
		if err := c.settle(ctx, b.Scores); err != nil {
			return err
		}
		c.tidy()
	}
	if len(b.Examples) > 0 {
		if err := c.writeExamples(ctx, b.Examples); err != nil {
			return err
		}
		c.tidy()
	}
	err := insertClickHouse(ctx, c, "churn_outcomes", columns.Outcome, len(b.Outcomes), func(i int) *schemas.ChurnOutcome { return b.Outcomes[i] })
	if err != nil {
		return err
	}
	return insertClickHouse(ctx, c, "model_versions", modelColumns, len(b.Models), func(i int) *ModelRow { return &b.Models[i] })
}

// insertClickHouse sends n rows as one block, nothing if there are none;
// message returns that of row i. The server answers when it is on disk.
func insertClickHouse[M any](ctx context.Context, c *ClickHouse, table string, list []columns.Column[M], n int, message func(i int) *M) error {
	if n == 0 {
		return nil
	}
	batch, err := c.conn.PrepareBatch(ctx, c.dialect.insert(table, columns.Names(list)))
	if err != nil {
		return fmt.Errorf("clickhouse: insert into %s: %w", table, err)
	}
	defer batch.Close()
	row := &clickhouseCells{attributes: c.attributes, cells: make([]any, 0, len(list))}
	for i := range n {
		row.reset()
		appendRow(row, list, message(i))
		if err := batch.Append(row.cells...); err != nil {
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

// tidyInterval is how often the tables are freed of erased customers' rows
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
		for _, kind := range erasables {
			_ = c.eraseReturned(c.background, kind)
		}
		_ = clickhouseTables{c.conn, c.timeout}.fill(c.background, tidyStatement)
	})
}

// settleStatement returns the statement for the customers that the condition
// leaves.
func settleStatement(and string) string {
	return `INSERT INTO churn_scores_at_risk (customer_id, scored_at, model_version, source_partition, source_offset, as_of, risk)
SELECT customer_id, scored_at, model_version, source_partition, source_offset, as_of, risk
FROM churn_scores_current FINAL
WHERE risk != 'HIGH' AND customer_id IN
(
    SELECT customer_id FROM churn_scores_at_risk FINAL WHERE risk = 'HIGH'` + and + `
)`
}

// writeExamples inserts examples, and deletes those of their customers that are
// none any more.
func (c *ClickHouse) writeExamples(ctx context.Context, rows []ExampleRow) error {
	err := insertClickHouse(ctx, c, "churn_examples", c.dialect.examples, len(rows), func(i int) *ExampleRow { return &rows[i] })
	if err != nil {
		return err
	}
	err = c.eraseLate(ctx, erasableExamples, len(rows),
		func(i int) (int32, int64) { return rows[i].RecordPartition, rows[i].RecordOffset },
		func(i int) string { return rows[i].CustomerID })
	if err != nil {
		return err
	}
	return c.withdraw(ctx, listings(rows))
}

// withdraw deletes what customers' last records have left out. Most often that
// is nothing.
func (c *ClickHouse) withdraw(ctx context.Context, last map[customer]*listing) error {
	batch, err := ext.NewTable("batch", ext.Column("customer_id", "String"))
	if err != nil {
		return fmt.Errorf("clickhouse: withdraw: %w", err)
	}
	var newest int64
	for customer, l := range last {
		newest = max(newest, l.offset)
		if err := batch.Append(customer.id); err != nil {
			return fmt.Errorf("clickhouse: withdraw: %w", err)
		}
	}
	// Rows that others have replaced count as well: both are of a record before
	// the last.
	rows, err := c.conn.Query(clickhouse.Context(ctx, clickhouse.WithExternalTable(batch)), fmt.Sprintf(
		`SELECT DISTINCT customer_id, record_partition, record_offset, toUnixTimestamp64Milli(observed_at)
FROM churn_examples WHERE customer_id IN (SELECT customer_id FROM batch) AND record_offset < %d`, newest))
	if err != nil {
		return fmt.Errorf("clickhouse: withdraw: %w", err)
	}
	defer rows.Close()
	var customers []string
	var observed []int64
	for rows.Next() {
		var of customer
		var offset, observedAt int64
		if err := rows.Scan(&of.id, &of.partition, &offset, &observedAt); err != nil {
			return fmt.Errorf("clickhouse: withdraw: %w", err)
		}
		if l := last[of]; l != nil && l.withdrawn(observedAt, offset) {
			customers, observed = append(customers, of.id), append(observed, observedAt)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("clickhouse: withdraw: %w", err)
	}
	for len(customers) > 0 {
		ids, n := literals(customers)
		// Rows that have yet to be merged all go. What a later record has brought
		// meanwhile stays.
		err := c.conn.Exec(ctx, fmt.Sprintf("DELETE FROM churn_examples WHERE customer_id IN (%s) AND (customer_id, toUnixTimestamp64Milli(observed_at)) IN arrayZip([%s], [%s]) AND record_offset < %d",
			ids, ids, commas(observed[:n]), newest))
		if err != nil {
			return fmt.Errorf("clickhouse: withdraw from churn_examples: %w", err)
		}
		customers, observed = customers[n:], observed[n:]
	}
	return nil
}

// forget notes erasures, for eraseLate and eraseReturned of whatever sink, and
// deletes the rows.
func (c *ClickHouse) forget(ctx context.Context, kind *erasable, erasures []Erasure) error {
	err := insertClickHouse(ctx, c, kind.memory, kind.columns, len(erasures), func(i int) *Erasure { return &erasures[i] })
	if err != nil {
		return err
	}
	return c.erase(ctx, kind, erasures)
}

// eraseLate deletes those of a batch's n rows whose customers were erased
// after them. Most often there are none to know of, as erasures come in the
// order of the rows; not so when a sink was held up for so long that another
// has gone on in its place. place and id say of what row i is.
//
// It comes after the insert, as an erasure is remembered before it deletes: of
// two writers, one with a row and one with its erasure, the latter deletes
// the row, or the former finds the erasure.
func (c *ClickHouse) eraseLate(ctx context.Context, kind *erasable, n int, place func(i int) (partition int32, offset int64), id func(i int) string) error {
	var partitions []int32
	_, first := place(0)
	for i := range n {
		partition, offset := place(i)
		first = min(first, offset)
		if !slices.Contains(partitions, partition) { // a batch has one or few
			partitions = append(partitions, partition)
		}
	}
	later, err := c.erasures(ctx, fmt.Sprintf("SELECT customer_id, %[1]s, %[2]s FROM %[3]s WHERE %[1]s IN (%[4]s) AND %[2]s > %[5]d",
		kind.partition, kind.offset, kind.memory, commas(partitions), first))
	if err != nil || len(later) == 0 {
		return err
	}
	erased := lastErasures(later)
	var late []Erasure
	for i := range n {
		partition, offset := place(i)
		c := customer{id(i), partition}
		if after := erased[c]; offset < after {
			late = append(late, Erasure{c.id, partition, after})
		}
	}
	return c.erase(ctx, kind, late)
}

// eraseReturned deletes what others have written late of erased customers'
// rows: a sink that ended before it could erase them itself, one of an older
// version, the migration of one that began before the erasure.
func (c *ClickHouse) eraseReturned(ctx context.Context, kind *erasable) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	var rows []string
	for _, table := range kind.tables {
		rows = append(rows, fmt.Sprintf("SELECT customer_id, %s AS of_partition, %s AS of_offset FROM %s WHERE customer_id IN (SELECT customer_id FROM %s)",
			kind.partition, kind.offset, table, kind.memory))
	}
	returned, err := c.erasures(ctx, fmt.Sprintf(`SELECT e.customer_id, e.%[1]s, max(e.%[2]s)
FROM (%[3]s) AS s
INNER JOIN %[4]s AS e ON s.customer_id = e.customer_id AND s.of_partition = e.%[1]s
WHERE s.of_offset < e.%[2]s
GROUP BY e.customer_id, e.%[1]s`, kind.partition, kind.offset, strings.Join(rows, " UNION ALL "), kind.memory))
	if err != nil {
		return err
	}
	return c.erase(ctx, kind, returned)
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
		if err := rows.Scan(&e.CustomerID, &e.Partition, &e.Offset); err != nil {
			return nil, fmt.Errorf("clickhouse: read erasures: %w", err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("clickhouse: read erasures: %w", err)
	}
	return list, nil
}

// erase deletes rows of before the erasures from all tables that have any.
func (c *ClickHouse) erase(ctx context.Context, kind *erasable, erasures []Erasure) error {
	// The last erasure of a customer is what counts.
	erasures = slices.SortedFunc(slices.Values(erasures), func(a, b Erasure) int {
		return cmp.Or(cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.CustomerID, b.CustomerID), cmp.Compare(b.Offset, a.Offset))
	})
	erasures = slices.CompactFunc(erasures, func(a, b Erasure) bool {
		return a.Partition == b.Partition && a.CustomerID == b.CustomerID
	})
	for len(erasures) > 0 {
		var customers []string
		var offsets []int64
		partition := erasures[0].Partition
		for _, e := range erasures {
			if e.Partition != partition {
				break
			}
			customers, offsets = append(customers, e.CustomerID), append(offsets, e.Offset)
		}
		ids, n := literals(customers)
		// A thousand conditions with OR between them would take the server a
		// minute.
		condition := fmt.Sprintf("%s = %d AND customer_id IN (%s) AND %s < transform(customer_id, [%s], [%s], 0)",
			kind.partition, partition, ids, kind.offset, ids, commas(offsets[:n]))
		for _, table := range kind.tables {
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

// clickhouseCells lays a row's values out for the client, which is done with
// them when the next row begins.
type clickhouseCells struct {
	attributes   Attributes
	cells        []any
	explanations [][]any // as many as rows have had, of which the first used are in use
	used         int
	names        []string
}

func (c *clickhouseCells) reset() { c.cells, c.used, c.names = c.cells[:0], 0, c.names[:0] }

func (c *clickhouseCells) add(v any)       { c.cells = append(c.cells, v) }
func (c *clickhouseCells) Null()           { c.add(nil) }
func (c *clickhouseCells) Text(s string)   { c.add(s) }
func (c *clickhouseCells) Int32(n int32)   { c.add(n) }
func (c *clickhouseCells) Int64(n int64)   { c.add(n) }
func (c *clickhouseCells) Float(x float64) { c.add(nullable(x)) }
func (c *clickhouseCells) Bool(b bool)     { c.add(b) }
func (c *clickhouseCells) Time(ms int64)   { c.add(clampMillis(ms)) }

func (c *clickhouseCells) Feature(position int) { c.add(c.attributes.Spec().Feature(position).Name) }

func (c *clickhouseCells) Features(positions []int) {
	start := len(c.names)
	for _, j := range positions {
		c.names = append(c.names, c.attributes.Spec().Feature(j).Name)
	}
	c.add(c.names[start:])
}

func (c *clickhouseCells) Value(feature int, x float64, levels scoring.Levels) {
	if c.attributes.Spec().Feature(feature).Kind == scoring.Categorical {
		c.ValueText(feature, x, levels)
	} else {
		c.Float(x)
	}
}

func (c *clickhouseCells) ValueText(feature int, x float64, levels scoring.Levels) {
	c.add(text(c.attributes, feature, x, levels))
}

func (c *clickhouseCells) Explanations(list []schemas.Explanation, attributes scoring.Vector, levels scoring.Levels) {
	start := c.used
	c.used += len(list)
	for len(c.explanations) < c.used {
		c.explanations = append(c.explanations, make([]any, 4))
	}
	for i := range list {
		e, cells := &list[i], c.explanations[start+i]
		cells[0] = c.attributes.Spec().Feature(e.Feature).Name
		cells[1] = text(c.attributes, e.Feature, attributes[e.Feature], levels)
		cells[2], cells[3] = nullable(e.LIME), nullable(e.SHAP)
	}
	c.add(c.explanations[start:c.used])
}

func (c *clickhouseCells) Distributions(list []schemas.BaselineDistribution) {
	rows := make([][]any, len(list))
	for i := range list {
		b := &list[i]
		rows[i] = []any{b.Name, append([]string{}, b.Bins...), append([]float64{}, b.Frequencies...)}
	}
	c.add(rows)
}

const clickhouseSchemaMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations
(
    version Int32,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version`

func clickhouseDialect(spec *scoring.Spec) *dialect {
	feedOf := func(table, query string) feed {
		name := table + "_feed"
		return feed{
			name:   name,
			create: "CREATE MATERIALIZED VIEW IF NOT EXISTS " + name + " TO " + table + " AS\n" + query,
			// The asterisk stands for the columns of the time it was given.
			alter: "ALTER TABLE " + name + " MODIFY QUERY " + query,
		}
	}
	return newDialect(dialect{
		quote:      quoteClickHouse,
		fold:       func(name string) string { return name },
		typeOf:     clickhouseType,
		constraint: clickhouseCodec,
		addColumn:  "ADD COLUMN IF NOT EXISTS",
		copies:     []string{"churn_scores_current", "churn_scores_at_risk"},
		feeds: []feed{
			feedOf("churn_scores_current", "SELECT * FROM churn_scores"),
			feedOf("churn_scores_at_risk", "SELECT * FROM churn_scores WHERE risk = 'HIGH'"),
		},
		// Rows that something else than Write brought into churn_scores.
		settle: []string{settleStatement(""), tidyStatement},
	}, "clickhouse", spec)
}

func clickhouseType(t columns.Type, nullable bool, symbols []string) string {
	var name string
	switch t {
	case columns.Text, columns.Word:
		name = "String"
	case columns.Int32:
		name = "Int32"
	case columns.Int64:
		name = "Int64"
	case columns.Float:
		name = "Float64"
	case columns.Bool:
		name = "Bool"
	case columns.Time:
		name = "DateTime64(3, 'UTC')"
	case columns.Enum:
		list := make([]string, len(symbols))
		for i, s := range symbols {
			list[i] = fmt.Sprintf("'%s' = %d", s, i)
		}
		name = "Enum8(" + strings.Join(list, ", ") + ")"
	case columns.Words:
		return "Array(LowCardinality(String))"
	case columns.Explanations:
		return "Array(Tuple(feature LowCardinality(String), value Nullable(String), lime Nullable(Float64), shap Nullable(Float64)))"
	case columns.Distributions:
		return "Array(Tuple(name String, bins Array(String), frequencies Array(Float64)))"
	}
	if nullable {
		name = "Nullable(" + name + ")"
	}
	if t == columns.Word {
		name = "LowCardinality(" + name + ")"
	}
	return name
}

func clickhouseCodec(_ columns.Type, _ bool, shape columns.Shape) string {
	switch shape {
	case columns.Similar:
		return " CODEC(ZSTD(1))"
	case columns.Rising:
		return " CODEC(Delta, ZSTD(1))"
	case columns.Long:
		return " CODEC(ZSTD(3))"
	}
	return ""
}
