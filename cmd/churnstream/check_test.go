package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// TestCheck makes reports of a small topic, and ends with what thresholds want.
func TestCheck(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBench(t)
	b.publishModel()
	now := time.Now()
	for i := range 60 {
		customer := fmt.Sprintf("customer-%02d", i)
		var levels scoring.Levels
		x := scoring.NewVector(2)
		x[0], x[1] = b.set.Vocabulary().Find(0, []byte("monthly"), &levels), float64(i%10)
		observed := now.Add(-time.Duration(i+1) * 12 * time.Hour).UnixMilli()
		b.produce(schemas.TopicExamples, kafka.Record{Key: []byte(customer), Value: b.codec.AppendExamples(nil, &schemas.CustomerExamples{
			CustomerID: []byte(customer), Levels: levels, Examples: []schemas.LabelledExample{{
				AsOf: observed - 1000, ObservedAt: observed, LabelledAt: observed, Churned: i%3 == 0, ModelVersion: 1,
				Probability: 0.2 + 0.4*float64((i+i/9)%3/2), SourceOffset: int64(i), Attributes: x}}})})
	}
	check := func(want int, args ...string) (out, errs string) {
		t.Helper()
		var o, e bytes.Buffer
		if code := run(b.args(append([]string{"check"}, args...)...), &o, &e); code != want {
			t.Errorf("%q: exit code %d, want %d: %s", args, code, want, e.String())
		}
		return o.String(), e.String()
	}
	page := filepath.Join(t.TempDir(), "report.html")
	out, _ := check(0, "--since", "30d", "--out", page, "--min-examples", "50", "--max-log-loss", "5")
	if !strings.Contains(out, "59 labelled examples of 59 customers") || !strings.Contains(out, "1 (in use)") || !strings.Contains(out, "met     max-log-loss 5\n") {
		t.Errorf("printed %s", out)
	}
	written, err := os.ReadFile(page)
	if err != nil || !bytes.HasPrefix(written, []byte("<!DOCTYPE html>")) || !bytes.HasSuffix(written, []byte("</html>\n")) || !bytes.Contains(written, []byte("customer-")) {
		t.Errorf("the page: %v, %.200s", err, written)
	}
	if info, err := os.Stat(page); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the page's mode: %v, %v", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(page), ".*")); err != nil || left != nil {
		t.Errorf("left behind: %v, %v", left, err)
	}

	out, errs := check(3, "--since", "1w", "--output", "json", "--min-roc-auc", "0.999", "--worst", "0", "--no-scores")
	var report struct {
		Passed   bool
		Worst    []any
		Outlook  any
		Examples struct{ Examples int }
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Passed || len(report.Worst) != 0 || report.Outlook != nil || report.Examples.Examples != 13 {
		t.Errorf("%v: %+v of %s", err, report, out)
	}
	if strings.Contains(out, "customer-") {
		t.Error("a customer is named")
	}
	if !strings.Contains(errs, "thresholds are missed: --min-roc-auc 0.999: roc_auc 0.") {
		t.Errorf("said %s", errs)
	}
	if out, _ := check(3, "--until", "2020-01-01T00:00:00Z", "--output", "none"); out != "" {
		t.Errorf("without examples it printed %s", out)
	}
	if _, errs := check(3, "--until", "2020-01-01T00:00:00Z", "--min-examples", "0", "--min-skill", "0"); !strings.Contains(errs, "not defined") {
		t.Errorf("without examples it said %s", errs)
	}
	for _, c := range []struct {
		code int
		args string
		says string
	}{
		{2, "--since 30", "neither days (30d), weeks (4w) nor a duration"},
		{2, "--since 0d", "no number of days or weeks"},
		{2, "--output yaml", "text"},
		{1, "--until yesterday", "no moment such as"},
		{1, "--worst=-1", "cannot be negative"},
		{1, "--out /no/such/directory/report.html", "--out: "},
	} {
		if _, errs := check(c.code, strings.Fields(c.args)...); !strings.Contains(errs, c.says) {
			t.Errorf("%s: said %s", c.args, errs)
		}
	}
}

// What the examples of schedules run is understood.
func TestSchedulesRunTheCheck(t *testing.T) {
	manifest, err := os.ReadFile("../../deploy/kubernetes/check-cronjob.yaml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/figures.md")
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("../../deploy/cron/churn-check")
	if err != nil {
		t.Fatal(err)
	}
	commands := [][]string{{"check"}}
	for _, m := range regexp.MustCompile(`(?m)^ +- (--\S+)$`).FindAllSubmatch(manifest, -1) {
		commands[0] = append(commands[0], string(m[1]))
	}
	for _, m := range regexp.MustCompile(`(?m)churnstream (check --[^|\n]*)`).FindAllSubmatch(slices.Concat(page, bytes.ReplaceAll(script, []byte("\\\n"), nil)), -1) {
		commands = append(commands, strings.Fields(strings.ReplaceAll(strings.ReplaceAll(string(m[1]), `"$report"`, "report.html"), "|", "")))
	}
	if len(commands) < 4 || len(commands[0]) < 8 {
		t.Fatalf("found %q", commands)
	}
	for _, args := range commands {
		c := cli{Run: newRunCommand()}
		parser, err := newParser(&c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(args); err != nil {
			t.Errorf("%q: %v", args, err)
		}
		if time.Duration(c.Check.Since) != 30*24*time.Hour {
			t.Errorf("%q looks back %v", args, time.Duration(c.Check.Since))
		}
	}
}

// TestCronMailsTheReportOfMissedThresholds runs the script for cron with a check that
// ends in every way: only a page that this check has written is mailed.
func TestCronMailsTheReportOfMissedThresholds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code   int
		writes string // what the check does
		mailed string
	}{
		{0, `echo "all is well" >"$report"`, ""},
		{1, `echo "Kafka does not answer" >&2`, ""},
		{2, `echo "unknown flag" >&2`, ""},
		{3, `echo "this month" >"$report"`, "this month"},
	} {
		dir := t.TempDir()
		program := func(name, does string) {
			t.Helper()
			if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nreport="+dir+"/report\n"+does+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		program("churnstream", fmt.Sprintf("%s\nexit %d", c.writes, c.code))
		program("sendmail", "cat >"+dir+"/mail")
		program("report", "last month")
		cmd := exec.CommandContext(t.Context(), "sh", "../../deploy/cron/churn-check", "team@example.com")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "CHURN_REPORT="+dir+"/report")
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != c.code {
			t.Errorf("exit code %d: ended with %v", c.code, err)
		}
		if said := cmp.Or(stdout.String(), stderr.String()); (said != "") != (c.code == 1 || c.code == 2) {
			t.Errorf("exit code %d: said %q", c.code, said)
		}
		mail, _ := os.ReadFile(filepath.Join(dir, "mail"))
		if (len(mail) > 0) != (c.mailed != "") || !strings.Contains(string(mail), c.mailed) || strings.Contains(string(mail), "last month") ||
			len(mail) > 0 && !strings.Contains(string(mail), "To: team@example.com\n") {
			t.Errorf("exit code %d: mailed %q", c.code, mail)
		}
	}
}
