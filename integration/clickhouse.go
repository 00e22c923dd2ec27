//go:build integration

package integration

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const clickHouseVersion = "26.7.3-stable.1"

// ClickHouse is a running ClickHouse server.
type ClickHouse struct {
	t         testing.TB
	process   *Process
	tcp, http int
}

// StartClickHouse starts a server and returns when it takes queries.
func StartClickHouse(t testing.TB) *ClickHouse {
	t.Helper()
	begin := time.Now()
	library := installed(t, "chdb-"+clickHouseVersion, "libchdb.so")
	program := installed(t, "bin", "clickhouse-server")
	ports := FreePorts(t, 2)
	c := &ClickHouse{t: t, tcp: ports[0], http: ports[1]}
	c.process = StartProcess(t, "ClickHouse", nil, program, "--library", library,
		"--data", filepath.Join(t.TempDir(), "clickhouse"), "--tcp", strconv.Itoa(c.tcp), "--http", strconv.Itoa(c.http))
	c.await()
	t.Logf("ClickHouse up after %v", time.Since(begin).Round(10*time.Millisecond))
	return c
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

// Kill9 kills the server without a chance to tidy up.
func (c *ClickHouse) Kill9() { c.t.Helper(); c.process.Kill9() }

// Stop shuts the server down.
func (c *ClickHouse) Stop() { c.t.Helper(); c.process.Stop() }

// Freeze stops the server from running.
func (c *ClickHouse) Freeze() { c.t.Helper(); c.process.Freeze() }

// Thaw lets a frozen server go on.
func (c *ClickHouse) Thaw() { c.t.Helper(); c.process.Thaw() }

// Start starts the server again after Kill9 or Stop and waits until it is up.
func (c *ClickHouse) Start() { c.t.Helper(); c.process.Start(); c.await() }

// Connect returns a client of the native protocol.
func (c *ClickHouse) Connect() driver.Conn {
	c.t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{c.Addr()}, DialTimeout: 5 * time.Second})
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
