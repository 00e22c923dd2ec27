package demo

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// TestARestartChangesNoFigure lets a demonstration come to figures, and another one
// on what the first has left. Nothing new happens in between, so they must be the
// same to the last bit.
func TestARestartChangesNoFigure(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a training")
	}
	dir := t.TempDir()
	cfg := Config{Rate: 500, HTTP: "127.0.0.1:0", OutcomeDelay: 200 * time.Millisecond, Out: io.Discard}
	// run runs a demonstration until produce returns, and returns the figures then.
	run := func(produce func(context.Context, *demo) error) *quality.Report {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		d := newDemo(cfg, dir)
		var report *quality.Report
		d.produce = func(ctx context.Context) error {
			err := produce(ctx, d)
			report = d.monitor.Report()
			return err
		}
		if err := d.run(ctx, slog.New(slog.DiscardHandler)); err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		return report
	}
	until := func(ctx context.Context, done func() bool) error {
		for !done() {
			if !retry.Sleep(ctx, 20*time.Millisecond) {
				return ctx.Err()
			}
		}
		return nil
	}
	examples := func(d *demo) int64 { return d.monitor.Report().Examples }

	before := run(func(ctx context.Context, d *demo) error {
		producing, stop := context.WithCancel(ctx)
		defer stop()
		go func() {
			_ = until(producing, func() bool { return d.replay.Stats().Outcomes >= 700 })
			stop()
		}()
		if err := d.publish(producing); err != nil {
			return err
		}
		// Every outcome that is on the topic becomes an example. What was published
		// when the end came may be there without having been acknowledged.
		return until(ctx, func() bool {
			spans, err := d.process.Cluster.Spans(ctx, schemas.TopicOutcomes)
			live := -d.replay.Stats().HistoryDone
			for _, s := range spans {
				live += s.End
			}
			return err == nil && examples(d) == live
		})
	})
	after := run(func(ctx context.Context, d *demo) error {
		return until(ctx, func() bool { return d.monitor.Report().CaughtUp })
	})

	// On a busy machine a second version may have come in the middle.
	rows, churners, figures := int64(0), int64(0), 0
	for i := range before.Versions {
		v := &before.Versions[i]
		rows, churners, figures = rows+v.Rows, churners+v.Churners, max(figures, len(v.Measured))
	}
	if rows < 700 || churners < 100 || figures < 10 {
		t.Fatalf("there is little to compare: %d rows, %d churners, %d figures", rows, churners, figures)
	}
	before.At, after.At = time.Time{}, time.Time{}
	text := func(r *quality.Report) string {
		out, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if was, is := text(before), text(after); was != is {
		t.Errorf("figures before the restart\n%s\nand after it\n%s", was, is)
	}
}
