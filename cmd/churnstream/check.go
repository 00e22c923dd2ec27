package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/check"
)

type checkCommand struct {
	Since  span   `help:"How far to look back from --until, by when examples were observed: days (30d), weeks (4w), or a duration (12h)." default:"30d" placeholder:"TIME"`
	Until  string `help:"Look at what was observed before this moment, such as 2026-11-01T00:00:00Z. Default: now." placeholder:"TIME"`
	Out    string `help:"Write the report to this file as a page that needs nothing else." placeholder:"FILE"`
	Output string `help:"What to print: text, json or none." enum:"text,json,none" default:"text"`
	Worst  int    `help:"Worst misses to name, with the customers' ids and attributes; 0 has none in the report." default:"10" unit:"examples"`
	Scores bool   `help:"Read churn.scores too, for drift and what to expect." default:"true" negatable:""`

	check.Thresholds `embed:"" group:"thresholds"`
	answering
}

// Help is shown by churnstream check --help.
func (checkCommand) Help() string {
	return `Reads labelled examples, model versions and scores, and reports how good the models were: figures by version and week with 95 % intervals, confusion matrix, ROC, precision-recall and calibration curves, segments, drift, which features the loss is due to, the worst misses with what led to them, and what the scores let expect beside what happened. It disturbs nobody, and takes about 550 bytes of memory for an example and for a customer.

Thresholds are on the figures of all scores that were in force, whatever their version. One that is given misses if its figure is not defined, as ROC AUC when nobody left.

Exit codes: 0 all thresholds are met, 1 the check could not be made, 2 the flags are wrong, 3 a threshold is missed.

Examples:
  churnstream check --since 30d --out report.html
  churnstream check --since 4w --output json --min-skill 0 --min-roc-auc 0.7 --beyond-chance

For cron take deploy/cron/churn-check of the sources, which mails the page on exit code 3 only: on 1 and 2 there is none, and a file of that name is of a former check. --log-level warn keeps it from writing anything when all is well.`
}

// span is a time that may be given in days and weeks.
type span time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *span) UnmarshalText(text []byte) error {
	const day = 24 * time.Hour
	for suffix, unit := range map[string]time.Duration{"d": day, "w": 7 * day} {
		number, ok := strings.CutSuffix(string(text), suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 32)
		if err != nil || n <= 0 || n > 36_500 {
			return fmt.Errorf("%q is no number of days or weeks", text)
		}
		*s = span(time.Duration(n) * unit)
		return nil
	}
	d, err := time.ParseDuration(string(text))
	if err != nil || d < time.Second {
		return fmt.Errorf("%q is neither days (30d), weeks (4w) nor a duration of a second or more (12h)", text)
	}
	*s = span(d)
	return nil
}

// missedThresholds is what check ends with when figures miss their thresholds.
type missedThresholds struct{ missed []string }

func (e *missedThresholds) Error() string {
	return "thresholds are missed: " + strings.Join(e.missed, "; ")
}

// ExitCode implements exitCoder.
func (e *missedThresholds) ExitCode() int { return 3 }

func (c *checkCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	if c.Worst < 0 {
		return fmt.Errorf("--worst %d: it cannot be negative", c.Worst)
	}
	now := time.Now()
	until := now
	if c.Until != "" {
		var err error
		if until, err = time.Parse(time.RFC3339, c.Until); err != nil {
			return fmt.Errorf("--until: %q is no moment such as 2026-11-01T00:00:00Z", c.Until)
		}
	}
	return c.directory(ctx, log, func(d *directory) error {
		data, err := check.Collect(ctx, check.Source{Cluster: d.cluster, Codec: d.codec, NoScores: !c.Scores, Logger: log},
			until.Add(-time.Duration(c.Since)), until)
		if err != nil {
			return err
		}
		report, err := check.Analyse(ctx, d.codec.Set(), data, d, check.Config{At: now, Worst: c.Worst, Thresholds: c.Thresholds})
		if err != nil {
			return err
		}
		if c.Out != "" {
			if err := replaceFile(c.Out, report.WriteHTML); err != nil {
				return fmt.Errorf("--out: %w", err)
			}
		}
		switch c.Output {
		case "json":
			err = report.WriteJSON(out)
		case "text":
			err = report.WriteText(out)
		}
		if err != nil {
			return err
		}
		var missed []string
		for _, t := range report.Thresholds {
			if !t.Met {
				missed = append(missed, fmt.Sprintf("--%s %g: %s", t.Threshold, t.Limit, t.Why))
			}
		}
		if missed != nil {
			return &missedThresholds{missed}
		}
		return nil
	})
}

// replaceFile has write write a file, which takes the place of one of that name when
// it is complete. What is in it may be about customers, so it is its owner's alone.
func replaceFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err = write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
