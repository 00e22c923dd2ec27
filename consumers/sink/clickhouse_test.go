package sink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/certificates"
	"github.com/churnstream/churnstream/schemas"
)

var update = flag.Bool("update", false, "write the golden files anew")

func openTestClickHouse(t testing.TB, attributes Attributes) *opened {
	t.Helper()
	return testServer(t).open(t, attributes, "native")
}

func openTestClickHouseHTTP(t testing.TB, attributes Attributes) *opened {
	t.Helper()
	s := testServer(t)
	if s.http == "" {
		t.Skip("CHURN_CLICKHOUSE_HTTP (host:port of the server's HTTP interface) is not set")
	}
	return s.open(t, attributes, "http")
}

// ddl returns the statements that Migrate brings an empty ClickHouse database
// to, for one feature specification: for reading, for review, and for
// operators who create tables themselves. Tables that exist are left as they
// are, so a replicated engine or a TTL may be added by hand.
func ddl(attributes Attributes) string {
	d := clickhouseDialect(attributes.Spec())
	statements := []string{clickhouseSchemaMigrations}
	var defined []string
	for _, m := range d.migrations {
		list, columns := d.render(m.tables, nil)
		statements, defined = append(statements, list...), append(defined, columns...)
	}
	for _, table := range slices.Sorted(maps.Keys(d.own)) {
		for _, c := range d.own[table] {
			if slices.Contains(defined, table+"."+c.name) {
				continue
			}
			statements = append(statements, d.add(table, c))
			if table == "churn_scores" {
				for _, copied := range d.copies {
					statements = append(statements, d.add(copied, c))
				}
			}
		}
	}
	for _, f := range d.feeds {
		statements = append(statements, f.create)
	}
	statements = append(statements,
		fmt.Sprintf("INSERT INTO schema_migrations (version, applied_at) SELECT %d, now64(3)", len(d.migrations)))
	statements = append(statements, d.statements(d.views, nil)...)
	return strings.Join(statements, ";\n\n") + ";\n"
}

// The reference copy of the tables for the shipped schema is what the program
// would create.
func TestDDLMatchesReferenceCopy(t *testing.T) {
	const head = "-- Tables and views of churnstream in ClickHouse, for the shipped customer schema.\n" +
		"-- The sink creates them itself; this copy is for reading and for operators who\n" +
		"-- create tables on their own. It is generated: go test ./consumers/sink -run DDL -update\n\n"
	path := filepath.Join("..", "..", "deploy", "clickhouse", "churnstream.sql")
	got := head + ddl(schemas.Telco())
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what Migrate makes; if the change is meant, run this test with -update", path)
	}
}

// Statements that an operator ran by hand leave nothing for Migrate to do, and
// rows go in.
func TestClickHouseDDLRunByHand(t *testing.T) {
	set := schemas.Telco()
	s := openTestClickHouse(t, set)
	for _, statement := range strings.Split(ddl(set), ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if _, err := s.db.Exec(statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	columns := func() []string {
		return s.ask(t, "SELECT table, name, type FROM system.columns WHERE database = currentDatabase() ORDER BY table, position")
	}
	before := columns()
	s.mustMigrate(t)
	expectRows(t, columns(), before...)
	s.mustWrite(t, telcoBatch(t, 10, 3, 0))
	expectRows(t, s.ask(t, "SELECT count() FROM churn_scores_latest"), "3")
}

// A migration may take longer than a write may.
func TestClickHouseWaitsForSlowStatements(t *testing.T) {
	c := threeFeatures(t)
	for protocol, open := range map[string]func(testing.TB, Attributes) *opened{"native": openTestClickHouse, "http": openTestClickHouseHTTP} {
		t.Run(protocol, func(t *testing.T) {
			before := open(t, c)
			before.mustMigrate(t)
			cfg := before.cfg
			cfg.Timeout = time.Second
			s, err := OpenClickHouse(cfg, c)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			slow := `INSERT INTO schema_migrations (version, applied_at)
SELECT 0, now64(3) FROM numbers(4) WHERE sleepEachRow(0.6) = 0 SETTINGS max_block_size = 1`
			s.dialect.migrations = append(s.dialect.migrations, migration{fill: slow})
			start := time.Now()
			if err := s.Migrate(t.Context()); err != nil {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
			if took := time.Since(start); took < 2*cfg.Timeout {
				t.Fatalf("the migration took only %v", took)
			}
			// Others are not waited for that long.
			if err := (clickhouseTables{s.conn, s.timeout}).exec(t.Context(), slow); err == nil {
				t.Error("no error for a statement that takes longer than the timeout")
			}
		})
	}
}

// Over TLS, as a server of a company is reached; one with an unknown
// certificate is refused.
func TestClickHouseTLS(t *testing.T) {
	c := threeFeatures(t)
	s := openTestClickHouse(t, c)
	backend := testServer(t).native
	authority, err := certificates.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Server("clickhouse")
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	front, err := certificates.Terminate(&tls.Config{Certificates: []tls.Certificate{certificate}}, backend)
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	for _, test := range []struct {
		name string
		cfg  ClickHouseConfig
		ok   bool
	}{
		{"known certificate", ClickHouseConfig{TLS: &tls.Config{RootCAs: authority.Pool()}, Username: "default"}, true},
		{"unknown certificate", ClickHouseConfig{TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, false},
		{"no TLS", ClickHouseConfig{}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.cfg.Addr, test.cfg.Timeout = front.Addr().String(), 2*time.Second
			if err := s.db.QueryRow("SELECT currentDatabase()").Scan(&test.cfg.Database); err != nil {
				t.Fatal(err)
			}
			store, err := OpenClickHouse(test.cfg, c)
			if err != nil {
				t.Fatal(err)
			}
			defer store.Close()
			err = store.Migrate(context.Background())
			if (err == nil) != test.ok {
				t.Fatalf("Migrate: %v", err)
			}
		})
	}
}

// The first packet of the native protocol carries database, user and
// password.
func TestClickHouseLogsIn(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hello := make(chan string, 1)
	go func() {
		conn, err := server.Accept()
		if err != nil {
			return
		}
		server.Close()
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		hello <- string(buf[:n])
		conn.Close()
	}()
	store, err := OpenClickHouse(ClickHouseConfig{
		Addr: server.Addr().String(), Database: "retention", Username: "anna", Password: "s3cret", Timeout: 2 * time.Second,
	}, threeFeatures(t))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	err = store.Migrate(context.Background())
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want an error that does not tell the password", err)
	}
	if first := <-hello; !strings.Contains(first, "\x09retention\x04anna\x06s3cret") {
		t.Errorf("the server was sent %q", first)
	}
}
