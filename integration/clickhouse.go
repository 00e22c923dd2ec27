//go:build integration

package integration

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const clickHouseVersion = "26.7.3-stable.1"

// ClickHouseConfig says what StartClickHouse starts. The zero value is a server
// that anybody may use.
type ClickHouseConfig struct {
	// User is the only one who may do anything, with Password. "" is the
	// user default, without a password.
	User, Password string
}

// ClickHouse is a running ClickHouse server.
type ClickHouse struct {
	t         testing.TB
	cfg       ClickHouseConfig
	process   *Process
	data      string
	users     string // file
	tcp, http int
}

// StartClickHouse starts a server and returns when it takes queries.
func StartClickHouse(t testing.TB, cfg ClickHouseConfig) *ClickHouse {
	t.Helper()
	begin := time.Now()
	library := installed(t, "chdb-"+clickHouseVersion, "libchdb.so")
	program := installed(t, "bin", "clickhouse-server")
	ports := FreePorts(t, 2)
	dir := t.TempDir()
	c := &ClickHouse{
		t: t, cfg: cfg, tcp: ports[0], http: ports[1],
		data: filepath.Join(dir, "clickhouse"), users: filepath.Join(dir, "users.xml"),
	}
	c.allow(false)
	config := filepath.Join(dir, "config.xml")
	text := fmt.Sprintf("<clickhouse><users_config>%s</users_config></clickhouse>\n", c.users)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c.process = StartProcess(t, "ClickHouse", nil, program, "--library", library, "--config", config,
		"--data", c.data, "--tcp", strconv.Itoa(c.tcp), "--http", strconv.Itoa(c.http))
	c.await()
	t.Logf("ClickHouse up after %v", time.Since(begin).Round(10*time.Millisecond))
	return c
}

// allow says what the user may do from the next start on: everything, or only
// read.
func (c *ClickHouse) allow(onlyRead bool) {
	c.t.Helper()
	const entry = "<%[1]s><password>%[2]s</password><networks><ip>127.0.0.1</ip></networks><profile>%[3]s</profile><quota>default</quota>%[4]s</%[1]s>\n"
	profile := "default"
	if onlyRead {
		profile = "reading"
	}
	var users string
	if c.cfg.User == "" {
		users = fmt.Sprintf(entry, "default", "", profile, "")
	} else {
		// The engine itself works as the user default. These rights are for it.
		grants := "<grants><query>GRANT SYSTEM LISTEN, CREATE TEMPORARY TABLE, FILE ON *.*</query></grants>"
		users = fmt.Sprintf(entry, "default", "", "default", grants) + fmt.Sprintf(entry, c.cfg.User, c.cfg.Password, profile, "")
	}
	text := "<clickhouse>\n<profiles><default/><reading><readonly>2</readonly></reading></profiles>\n<quotas><default/></quotas>\n<users>\n" + users + "</users>\n</clickhouse>\n"
	if err := os.WriteFile(c.users, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *ClickHouse) await() {
	c.t.Helper()
	Eventually(c.t, 30*time.Second, "ClickHouse starting", func() error {
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/ping", c.http))
		if err != nil {
			if !c.process.Running() {
				c.t.Fatalf("ClickHouse ended:\n%s", tail(c.process.Log(), 4000))
			}
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", res.Status)
		}
		return nil
	})
}

// Addr returns the address of the native protocol.
func (c *ClickHouse) Addr() string { return fmt.Sprintf("127.0.0.1:%d", c.tcp) }

// HTTPAddr returns the address of the HTTP interface.
func (c *ClickHouse) HTTPAddr() string { return fmt.Sprintf("127.0.0.1:%d", c.http) }

// Kill9 kills the server without a chance to tidy up.
func (c *ClickHouse) Kill9() { c.t.Helper(); c.process.Kill9() }

// Stop shuts the server down.
func (c *ClickHouse) Stop() { c.t.Helper(); c.process.Stop() }

// Start starts the server again after Kill9 or Stop and waits until it is up.
func (c *ClickHouse) Start() { c.t.Helper(); c.process.Start(); c.await() }

// Connect returns a client of the native protocol.
func (c *ClickHouse) Connect() driver.Conn {
	c.t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{c.Addr()}, Auth: clickhouse.Auth{Username: c.cfg.User, Password: c.cfg.Password}, DialTimeout: 5 * time.Second})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// Count returns the one number a query asks for.
func (c *ClickHouse) Count(conn driver.Conn, query string) (uint64, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	var n uint64
	err := conn.QueryRow(ctx, query).Scan(&n)
	return n, err
}
