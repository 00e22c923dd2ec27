//go:build integration

package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// found returns the path of a program that the system has, or the stack.
func found(t testing.TB, program string) string {
	t.Helper()
	if path, err := exec.LookPath(program); err == nil {
		return path
	}
	return installed(t, "bin", program)
}

// PrometheusConfig says what a Prometheus scrapes and evaluates.
type PrometheusConfig struct {
	// Targets are the addresses of processes, with or without "http://".
	Targets []string
	// Rules are files. Default: deploy/prometheus/rules.yml.
	Rules []string
	// Alertmanager is the address of one that gets the alerts, if any.
	Alertmanager string
	// Interval is the time between two scrapes and between two evaluations.
	// Default 1 s.
	Interval time.Duration
}

// Prometheus is a running Prometheus.
type Prometheus struct {
	*Process
	URL string
}

// StartPrometheus starts a Prometheus and waits until all its targets are up.
func StartPrometheus(t testing.TB, cfg PrometheusConfig) *Prometheus {
	t.Helper()
	if len(cfg.Rules) == 0 {
		cfg.Rules = []string{filepath.Join(repository(t), "deploy", "prometheus", "rules.yml")}
	}
	if cfg.Interval == 0 {
		cfg.Interval = time.Second
	}
	quoted := func(list []string) string {
		var all []string
		for _, s := range list {
			all = append(all, strconv.Quote(strings.TrimPrefix(s, "http://")))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	text := fmt.Sprintf("global: {scrape_interval: %[1]v, evaluation_interval: %[1]v}\nrule_files: %s\nscrape_configs:\n  - job_name: churnstream\n    static_configs: [{targets: %s}]\n",
		cfg.Interval, quoted(cfg.Rules), quoted(cfg.Targets))
	if cfg.Alertmanager != "" {
		text += fmt.Sprintf("alerting:\n  alertmanagers: [{static_configs: [{targets: %s}]}]\n", quoted([]string{cfg.Alertmanager}))
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", FreePorts(t, 1)[0])
	p := &Prometheus{URL: "http://" + addr}
	p.Process = StartProcess(t, "Prometheus", nil, found(t, "prometheus"),
		"--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr)
	Eventually(t, time.Minute, "the targets being up", func() error {
		if up, err := p.Value(`sum(up{job="churnstream"})`); err != nil || up != float64(len(cfg.Targets)) {
			return fmt.Errorf("%v of %d are up, %v", up, len(cfg.Targets), err)
		}
		return nil
	})
	return p
}

// Ask asks for something of Prometheus's API, below /api/v1/.
func (p *Prometheus) Ask(path string, into any) error {
	res, err := http.Get(p.URL + "/api/v1/" + path)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: into}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return nil
}

// Sample is the present value of a series.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query returns the series that a query has now.
func (p *Prometheus) Query(query string) ([]Sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	if err := p.Ask("query?query="+url.QueryEscape(query), &data); err != nil {
		return nil, err
	}
	var all []Sample
	for _, r := range data.Result {
		x, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", query, err)
		}
		all = append(all, Sample{r.Metric, x})
	}
	return all, nil
}

// Value returns the only value of a query.
func (p *Prometheus) Value(query string) (float64, error) {
	all, err := p.Query(query)
	if err != nil {
		return 0, err
	}
	if len(all) != 1 {
		return 0, fmt.Errorf("%s has %d series", query, len(all))
	}
	return all[0].Value, nil
}

// StartAlertmanager starts an Alertmanager with a configuration and returns its
// address once it is ready.
func StartAlertmanager(t testing.TB, config string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("http://127.0.0.1:%d", FreePorts(t, 1)[0])
	StartProcess(t, "Alertmanager", nil, found(t, "prometheus-alertmanager"), "--config.file="+file,
		"--storage.path="+filepath.Join(dir, "data"), "--cluster.listen-address=", "--web.listen-address="+strings.TrimPrefix(addr, "http://"))
	Eventually(t, time.Minute, "Alertmanager being ready", func() error {
		res, err := http.Get(addr + "/-/ready")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", res.Status)
		}
		return nil
	})
	return addr
}
