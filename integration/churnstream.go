//go:build integration

package integration

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// programDir is where program has built churnstream.
var programDir string

// program builds churnstream once for all tests of a run.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "churnstream-integration-")
	if err != nil {
		return "", err
	}
	programDir = dir
	path := filepath.Join(dir, "churnstream")
	if out, err := exec.Command("go", "build", "-o", path, "github.com/churnstream/churnstream/cmd/churnstream").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building churnstream: %w\n%s", err, out)
	}
	return path, nil
})

// RemoveProgram removes what Program built. Call it when all tests are done.
func RemoveProgram() {
	if programDir != "" {
		os.RemoveAll(programDir)
	}
}

// Program returns the path of the churnstream program built from this tree.
func Program(t testing.TB) string {
	t.Helper()
	path, err := program()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Platform is a Kafka and a schema registry, and what runs on them.
type Platform struct {
	*Kafka
	Registry *embedded.Registry
	t        testing.TB
	n        int // processes started
}

// StartPlatform starts Kafka, and a registry in this process.
func StartPlatform(t testing.TB, cfg KafkaConfig) *Platform {
	t.Helper()
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	return &Platform{Kafka: StartKafka(t, cfg), Registry: reg, t: t}
}

// Codec returns a codec for a set of schemas, registered.
func (p *Platform) Codec(set *schemas.Set) *schemas.Codec {
	p.t.Helper()
	client, err := registry.New(registry.Config{URL: p.Registry.URL()})
	if err != nil {
		p.t.Fatal(err)
	}
	codec := schemas.NewCodec(set, client)
	if err := codec.Register(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	return codec
}

// Role is a running churnstream process.
type Role struct {
	*Process
	http   string
	client *http.Client // nil is the default one
}

func (r *Role) get(path string) (*http.Response, error) {
	return cmp.Or(r.client, http.DefaultClient).Get(r.http + path)
}

// connection returns how a churnstream command finds the platform.
func (p *Platform) connection() []string {
	return []string{"--brokers", p.Brokers(), "--registry", p.Registry.URL()}
}

// flags returns how a churnstream role does.
func (p *Platform) flags() []string {
	return append(p.connection(), "--replication", strconv.Itoa(min(len(p.brokers), 3)))
}

// StartRole starts churnstream with a subcommand and its flags, on this
// platform.
func (p *Platform) StartRole(args ...string) *Role {
	p.t.Helper()
	p.n++
	addr := fmt.Sprintf("127.0.0.1:%d", FreePorts(p.t, 1)[0])
	all := append(slices.Clone(args), p.flags()...)
	return newRole(p.t, fmt.Sprintf("churnstream %s (%d)", args[0], p.n), nil, addr, all...)
}

// newRole starts churnstream with arguments that have its HTTP side listen at
// an address.
func newRole(t testing.TB, name string, env []string, addr string, args ...string) *Role {
	t.Helper()
	return &Role{Process: StartProcess(t, name, env, Program(t), append(args, "--http", addr)...), http: "http://" + addr}
}

// Unready waits until the role says on /readyz that a part of it cannot work,
// "" for any, with some words in the reason, and returns the reason.
func (r *Role) Unready(limit time.Duration, part, words string) string {
	r.t.Helper()
	var why string
	Eventually(r.t, limit, r.name+" not ready", func() error {
		res, err := r.get("/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var answer struct {
			Checks map[string]struct {
				Ready bool
				Why   string
			}
		}
		if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
			return err
		}
		var reasons []string
		for name, c := range answer.Checks {
			if !c.Ready && (part == "" || name == part) && strings.Contains(c.Why, words) {
				reasons = append(reasons, name+": "+c.Why)
			}
		}
		if len(reasons) == 0 || res.StatusCode == http.StatusOK {
			return fmt.Errorf("it answers %s: %v", res.Status, answer.Checks)
		}
		slices.Sort(reasons)
		why = strings.Join(reasons, "; ")
		return nil
	})
	return why
}

// WaitReady waits until the role says on /readyz that it can work.
func (r *Role) WaitReady(limit time.Duration) time.Duration {
	r.t.Helper()
	return Eventually(r.t, limit, r.name+" ready", func() error {
		if !r.Running() {
			r.t.Fatalf("%s ended", r.name)
		}
		res, err := r.get("/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", res.Status)
		}
		return nil
	})
}

// Metric returns the sum of a metric's series, 0 if there is none.
func (r *Role) Metric(name string) (float64, error) {
	res, err := r.get("/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var sum float64
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if series, _, _ = strings.Cut(series, "{"); series != name {
			continue
		}
		// Values of labels may hold spaces; the number stands last.
		if i := strings.LastIndexByte(value, ' '); i >= 0 {
			value = value[i+1:]
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the metrics: %w", err)
		}
		sum += v
	}
	if err := lines.Err(); err != nil {
		return 0, fmt.Errorf("reading the metrics: %w", err)
	}
	return sum, nil
}
