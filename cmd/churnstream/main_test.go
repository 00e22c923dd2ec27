package main

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/await"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// The test binary becomes the program itself when this variable is set, so
// that the tests can start it as processes.
const asProgram = "CHURNSTREAM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// child is the program running with some arguments.
type child struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	mu   sync.Mutex
	out  bytes.Buffer // both streams
	more chan struct{}
	done chan struct{}
}

func launch(t *testing.T, args ...string) *child {
	t.Helper()
	p := &child{t: t, name: args[0], cmd: exec.Command(os.Args[0], args...), more: make(chan struct{}), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), asProgram+"=1")
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			p.out.Write(append(lines.Bytes(), '\n'))
			close(p.more)
			p.more = make(chan struct{})
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = p.cmd.Wait()
		w.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("output of %s:\n%s", p.name, p.output())
		}
	})
	return p
}

func (p *child) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// find waits for output that the pattern matches and returns its groups.
func (p *child) find(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(60 * time.Second)
	for {
		p.mu.Lock()
		m, more := re.FindStringSubmatch(p.out.String()), p.more
		p.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-more:
		case <-p.done:
			if m := re.FindStringSubmatch(p.output()); m != nil {
				return m
			}
			p.t.Fatalf("%s ended without printing %s", p.name, pattern)
		case <-deadline:
			p.t.Fatalf("%s did not print %s", p.name, pattern)
		}
	}
}

// interrupt asks the process to end and returns its exit code and how long
// that took.
func (p *child) interrupt() (code int, took time.Duration) {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatalf("%s did not end", p.name)
	}
	return p.cmd.ProcessState.ExitCode(), time.Since(began)
}

func (p *child) url() string { return p.find(`listening url=(http://[^/]+)/`)[1] }

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	await.Until(t, what, done)
}

// metric returns the sum of the samples of a metric on a /metrics page.
func metric(page, name string) float64 {
	sum := 0.0
	for _, line := range strings.Split(page, "\n") {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err == nil {
			sum += v
		}
	}
	return sum
}

// figures returns what a monitor's page says of models, scores and customers.
func figures(page string) string {
	var b strings.Builder
	of := regexp.MustCompile(`^churn_(model|age|segment|feature|score|reason|drift|shadow|loss|customers|money|outcomes)_`)
	for line := range strings.Lines(page) {
		if of.MatchString(line) && !strings.HasPrefix(line, "churn_model_age_seconds") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// TestRolesAsProcesses runs every role as a process of its own against one
// broker process, and follows real customers through all of them.
func TestRolesAsProcesses(t *testing.T) {
	t.Parallel() // most of it is waiting
	broker := launch(t, "broker", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0")
	m := broker.find(`Kafka at (\S+), schema registry at (\S+)`)
	brokers, registry := m[1], m[2]
	start := func(args ...string) *child {
		return launch(t, append(args, "--brokers", brokers, "--registry", registry, "--http", "127.0.0.1:0")...)
	}
	database := filepath.Join(t.TempDir(), "churn.db")
	score := start("score")
	label := start("label", "--horizon", "1s", "--score-interval", "0s")
	train := start("train")
	monitor := start("monitor")
	sink := start("sink", "--sqlite", database)
	serve := start("serve")

	replay := start("replay", "--rate", "0", "--outcome-delay", "1s")
	published := replay.find(`published (\d+) labelled examples, (\d+) events and (\d+) outcomes`)
	if published[1] != "4225" && published[1] != "4226" {
		t.Errorf("published %s examples of history", published[1])
	}
	events, _ := strconv.ParseFloat(published[2], 64)

	until(t, "a score for every event", func() bool {
		return metric(get(t, score.url()+"/metrics"), `churn_scorer_events_total{result="scored"}`) == events
	})
	until(t, "every outcome at the monitor", func() bool {
		return metric(get(t, monitor.url()+"/metrics"), "churn_outcomes_total") == events
	})
	// A monitor that starts now comes to the same figures, to the bit.
	another := start("monitor")
	until(t, "another monitor to agree", func() bool {
		ours, theirs := figures(get(t, monitor.url()+"/metrics")), figures(get(t, another.url()+"/metrics"))
		return strings.Contains(ours, "churn_model_figure_upper{") && strings.Contains(ours, "churn_feature_psi{") && ours == theirs
	})
	until(t, "every score in the store", func() bool {
		db, err := sql.Open("sqlite", database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var n float64
		_ = db.QueryRow("SELECT count(*) FROM churn_scores").Scan(&n) // the table may not be there yet
		return n == events
	})
	until(t, "every customer on the page", func() bool {
		return metric(get(t, serve.url()+"/metrics"), "churn_customers_known") == events
	})
	if page := get(t, serve.url()+"/"); !strings.Contains(page, "HIGH") && !strings.Contains(page, "High") {
		t.Error("the first page shows nobody at high risk")
	}

	one := firstScore(t, brokers, registry)
	if !(one.Probability > 0 && one.Probability < 1) || one.ModelVersion < 1 || len(one.Explanations) != 5 {
		t.Errorf("a score read with a client of its own: %+v", one)
	}
	set := schemas.Telco()
	body, err := json.Marshal(set.AttributesToMap(one.Attributes, nil))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Post(serve.url()+"/v1/explain", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Probability float64            `json:"probability"`
		Explanation map[string]float64 `json:"explanation"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Explanation) != set.Spec().Len() || !(answer.Probability > 0 && answer.Probability < 1) {
		t.Errorf("explain answers %+v", answer)
	}
	for _, p := range []*child{score, label, train, monitor, another, sink, serve} {
		if ready := get(t, p.url()+"/healthz"); !strings.Contains(ready, "ok") {
			t.Errorf("%s /healthz: %s", p.name, ready)
		}
		code, took := p.interrupt()
		if code != 0 {
			t.Errorf("%s ended with code %d", p.name, code)
		}
		t.Logf("%s ended after %v", p.name, took)
	}
}

// firstScore reads one score as a foreign consumer would.
func firstScore(t *testing.T, brokers, registryURL string) *schemas.ChurnScore {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{brokers}, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	client, err := registry.New(registry.Config{URL: registryURL})
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(schemas.Telco(), client)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := cluster.NewFetcher(kafka.FetcherConfig{Topic: schemas.TopicScores, Partition: 0})
	for {
		records, err := f.Fetch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range records {
			if r.Value == nil || schemas.IsReservedKey(r.Key) {
				continue
			}
			score := codec.NewScore()
			if err := codec.DecodeScore(ctx, r.Value, score); err != nil {
				t.Fatal(err)
			}
			return score
		}
	}
}

// summaryFigure reads one figure of the demo's summary.
func summaryFigure(t *testing.T, output, name string) float64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(name) + ` {2,}(\S+)`).FindStringSubmatch(output)
	if m == nil {
		t.Fatalf("the summary has no %s", name)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDemoCarriesOn stops a demo in the middle of the table and starts it
// again on the same directory.
func TestDemoCarriesOn(t *testing.T) {
	t.Parallel() // most of it is waiting
	dir := t.TempDir()
	args := []string{"demo", "--data-dir", dir, "--http", "127.0.0.1:0", "--rate", "500", "--outcome-delay", "200ms"}
	first := launch(t, args...)
	url := strings.TrimSuffix(first.find(`customers at risk\s+(http://\S+)/`)[1], "/")
	until(t, "some live scores", func() bool {
		return metric(get(t, url+"/metrics"), `churn_scorer_events_total{result="scored"}`) > 300
	})
	code, took := first.interrupt()
	if code != 0 {
		t.Errorf("Ctrl-C: exit code %d", code)
	}
	t.Logf("Ctrl-C ended the demo after %v", took)
	before := summaryFigure(t, first.output(), "events")

	second := launch(t, append(args, "--duration", "20s")...)
	<-second.done
	out := second.output()
	if code := second.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	events, scores := summaryFigure(t, out, "events"), summaryFigure(t, out, "scores")
	if scores < events { // more if the first run left some unscored
		t.Errorf("%v events but %v scores", events, scores)
	}
	if n := summaryFigure(t, out, "dead letters"); n != 0 {
		t.Errorf("%v dead letters", n)
	}
	if a := summaryFigure(t, out, "accuracy"); a < 0.7 || a > 1 {
		t.Errorf("accuracy %v", a)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "churn.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()

	// Nothing happens any more: every outcome has become an example, among which as
	// many have left, and the monitor, which has begun anew, has the tables' figures.
	third := launch(t, "demo", "--data-dir", dir, "--http", "127.0.0.1:0", "--rate", "0.001", "--outcome-delay", "200ms")
	var outcomes, left, examples, leftThere int
	until(t, "an example of every outcome", func() bool {
		_ = db.QueryRow("SELECT count(*), sum(churned) FROM churn_outcomes").Scan(&outcomes, &left)
		_ = db.QueryRow("SELECT count(*), sum(churned) FROM churn_examples").Scan(&examples, &leftThere)
		return outcomes > 5000 && examples == outcomes && leftThere == left
	})
	var customers, doubled float64
	until(t, "the scores of both runs in the table", func() bool {
		_ = db.QueryRow(`SELECT count(*), count(*) - count(DISTINCT event_id) FROM churn_scores`).Scan(&customers, &doubled)
		return customers >= before+events
	})
	if doubled != 0 {
		t.Errorf("%v of %v scores stored are doubled", doubled, customers)
	}
	const version = `{model_version="1"}`
	var scored, logLoss float64
	var page string
	// One with room for all examples: the demo's is for the newest.
	at := third.find(`tail churn\.scores --brokers (\S+) --registry (\S+)`)
	monitor := launch(t, "monitor", "--window", "100000", "--brokers", at[1], "--registry", at[2], "--http", "127.0.0.1:0")
	until(t, "the monitor's figures", func() bool {
		_ = db.QueryRow("SELECT sum(examples), sum(examples * log_loss) / sum(examples) FROM model_accuracy_daily WHERE model_version = 1").Scan(&scored, &logLoss)
		page = get(t, monitor.url()+"/metrics")
		return metric(page, "churn_model_window_outcomes"+version) == scored
	})
	if monitored := metric(page, "churn_model_log_loss"+version); math.Abs(monitored-logLoss) > 1e-9 {
		t.Errorf("the monitor has a log loss of %v, the table %v", monitored, logLoss)
	}
	t.Logf("of %d outcomes and as many examples %d have left; log loss %.6f on %.0f", outcomes, left, logLoss, scored)
	monitor.interrupt()
	third.interrupt()
}

func TestUsageErrors(t *testing.T) {
	cases := []struct {
		args []string
		want string
	}{
		{[]string{"fly"}, "unexpected argument"},
		{[]string{"sink"}, "--clickhouse HOST:PORT or --sqlite FILE"},
		{[]string{"run", "--roles", "score,dance"}, `no role "dance"`},
		{[]string{"score", "--sasl", "plain"}, "CHURN_SASL_PASSWORD"},
		{[]string{"score", "--schema", "main.go"}, "--schema: "},
		{[]string{"replay", "--table", "main.go"}, "--id-column"},
	}
	for _, c := range cases {
		t.Run(fmt.Sprint(c.args), func(t *testing.T) {
			var out, errs bytes.Buffer
			if code := run(c.args, &out, &errs); code == 0 {
				t.Error("exit code 0")
			}
			if !strings.Contains(errs.String(), c.want) {
				t.Errorf("printed %q, want %q in it", errs.String(), c.want)
			}
		})
	}
}

func TestHelpHasExamples(t *testing.T) {
	for _, name := range []string{"demo", "broker", "score", "label", "train", "monitor", "sink", "serve", "run", "replay", "simulate"} {
		var out, errs bytes.Buffer
		if code := run([]string{name, "--help"}, &out, &errs); code != 0 {
			t.Errorf("%s --help: exit code %d, %s", name, code, errs.String())
		}
		if !strings.Contains(out.String(), "churnstream "+name) || !strings.Contains(out.String(), "Example") {
			t.Errorf("%s --help shows no example:\n%s", name, out.String())
		}
	}
}

// What is interrupted before it has answered does not say that all is well. Roles end
// that way every day.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for command, want := range map[string]int{"check": 1, "audit": 1, "models activate 1": 1, "dead-letters list": 1, "topics check": 1,
		"tail churn.models": 0, "score": 0} {
		var out, errs bytes.Buffer
		code := runContext(ctx, b.args(strings.Fields(command)...), &out, &errs)
		if code != want || strings.Contains(errs.String(), "interrupted") != (want == 1) {
			t.Errorf("%s: exit code %d, want %d: %s", command, code, want, errs.String())
		}
	}
}
