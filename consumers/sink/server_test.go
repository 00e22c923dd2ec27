package sink

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// server is a ClickHouse server that tests use.
type server struct {
	native, http string // host:port
	// Of a server that the tests started themselves:
	args []string
	data string
	cmd  *exec.Cmd
}

// shared is the server that most tests share.
var shared struct {
	sync.Once
	*server
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.server != nil && shared.cmd != nil {
		shared.kill()
		os.RemoveAll(shared.data)
	}
	os.Exit(code)
}

const launcherHelp = "CHURN_CHDB_LAUNCHER (a command line that runs a ClickHouse server when --data DIR --tcp PORT --http PORT are appended) is not set"

// testServer returns the server that CHURN_CLICKHOUSE names as host:port of
// its native protocol (and CHURN_CLICKHOUSE_HTTP of its HTTP interface), or
// else one started by CHURN_CHDB_LAUNCHER.
func testServer(t testing.TB) *server {
	t.Helper()
	if addr := os.Getenv("CHURN_CLICKHOUSE"); addr != "" {
		return &server{native: addr, http: os.Getenv("CHURN_CLICKHOUSE_HTTP")}
	}
	if os.Getenv("CHURN_CHDB_LAUNCHER") == "" {
		t.Skip("CHURN_CLICKHOUSE (host:port of a ClickHouse server's native protocol) is not set, and " + launcherHelp)
	}
	shared.Do(func() {
		dir, err := os.MkdirTemp("", "churn-clickhouse-")
		if err != nil {
			shared.err = err
			return
		}
		shared.server, shared.err = launch(dir)
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server
}

// ownServer starts a server for one test that is going to mistreat it.
func ownServer(t testing.TB) *server {
	t.Helper()
	if os.Getenv("CHURN_CHDB_LAUNCHER") == "" {
		t.Skip(launcherHelp)
	}
	s, err := launch(filepath.Join(t.TempDir(), "clickhouse"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

func launch(dir string) (*server, error) {
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports[i] = strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	s := &server{
		native: "127.0.0.1:" + ports[0], http: "127.0.0.1:" + ports[1], data: dir,
		args: append(strings.Fields(os.Getenv("CHURN_CHDB_LAUNCHER")), "--data", dir, "--tcp", ports[0], "--http", ports[1]),
	}
	return s, s.start()
}

// start starts the server, again if need be, and returns when it answers.
func (s *server) start() error {
	s.cmd = exec.Command(s.args[0], s.args[1:]...)
	s.cmd.Stderr = os.Stderr
	// A launcher may have the server as a child: signals are for both.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		return err
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		answer, err := http.Get("http://" + s.http + "/ping")
		if err == nil {
			answer.Body.Close()
			return nil
		}
		if time.Now().After(deadline) {
			s.kill()
			return fmt.Errorf("%s does not answer: %w", strings.Join(s.args, " "), err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kill ends the server as a power failure does.
func (s *server) kill() {
	syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	s.cmd.Wait()
}

func (s *server) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(-s.cmd.Process.Pid, sig); err != nil {
		t.Fatal(err)
	}
}

// open makes a database and opens a store in it.
func (s *server) open(t testing.TB, attributes Attributes, protocol string) *opened {
	t.Helper()
	admin := clickhouse.OpenDB(&clickhouse.Options{Addr: []string{s.native}})
	defer admin.Close()
	name := fmt.Sprintf("churn_test_%d", time.Now().UnixNano())
	if _, err := admin.Exec("CREATE DATABASE " + name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		admin := clickhouse.OpenDB(&clickhouse.Options{Addr: []string{s.native}})
		defer admin.Close()
		if _, err := admin.Exec("DROP DATABASE " + name); err != nil {
			t.Error(err)
		}
	})
	cfg := ClickHouseConfig{Addr: s.native, Database: name, Timeout: 20 * time.Second}
	options := &clickhouse.Options{Addr: []string{s.native}, Auth: clickhouse.Auth{Database: name}}
	if protocol == "http" {
		cfg.Addr, cfg.Protocol = s.http, "http"
		options.Addr, options.Protocol = []string{s.http}, clickhouse.HTTP
	}
	db := clickhouse.OpenDB(options)
	t.Cleanup(func() { db.Close() })
	reopen := func(a Attributes) Store {
		store, err := OpenClickHouse(cfg, a)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { store.Close() })
		return store
	}
	store := reopen(attributes).(*ClickHouse)
	o := &opened{Store: store, db: db, reopen: reopen, cfg: cfg}
	o.peculiarities = peculiarities{
		table:     func(name string) string { return name + " FINAL" },
		json:      func(name string) string { return "toJSONString(" + name + ")" },
		emptyList: "[]", scores: erasableScores.tables,
		dueTidy: func() { store.tidied.Store(0) },
		tidied:  store.tidying.Wait,
		older: func(t *testing.T, version int) {
			for _, statement := range strings.Split(olderTables(t, "clickhouse", version), ";\n") {
				if strings.TrimSpace(statement) != "" {
					o.exec(t, statement)
				}
			}
			tables := erasableScores.tables
			if version == 1 { // without copies of churn_scores
				tables = tables[:1]
			}
			for _, table := range tables {
				o.exec(t, "ALTER TABLE "+table+" ADD COLUMN `dropped one` Nullable(Float64)")
			}
			if version > 1 {
				for _, f := range store.dialect.feeds {
					o.exec(t, f.alter)
				}
			}
		},
		oldErasure: func(t *testing.T) {
			o.exec(t, "INSERT INTO erasures (customer_id, source_partition, source_offset, erased_at) SELECT 'old', 1, 5, now64(3) - INTERVAL 91 DAY")
			eventually(t, "the old erasure gone", func() bool {
				o.exec(t, "OPTIMIZE TABLE erasures FINAL")
				return o.ask(t, "SELECT count() FROM erasures WHERE customer_id = 'old'")[0] == "0"
			})
		},
	}
	return o
}
