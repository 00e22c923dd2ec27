package demo

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
)

// probe reads the scores topic as a downstream user would, and measures how
// long after an event its score can be read.
type probe struct {
	cluster *kafka.Cluster
	codec   *schemas.Codec
	log     *slog.Logger
	started time.Time

	mu      sync.Mutex
	count   int64
	letters int64
	// latencies is a ring of the latest ones, in milliseconds.
	latencies []float64
}

// maxLatencies bounds the probe's memory; percentiles are over the latest.
const maxLatencies = 1 << 18

// Run reads until ctx ends.
func (p *probe) Run(ctx context.Context) error {
	in := intake.New(intake.Config{Logger: p.log})
	reader := intake.NewReader(in, intake.Topic[schemas.ChurnScore]{
		Decode: p.codec.DecodeScore, New: p.codec.NewScore, Poison: in.PassOver(nil),
	})
	var reading sync.Mutex
	return p.cluster.Tail(ctx, kafka.TailConfig{Topics: []string{schemas.TopicScores, schemas.TopicDeadLetters}},
		func(ctx context.Context, records []kafka.Record) error {
			reading.Lock()
			defer reading.Unlock()
			now := time.Now()
			for i := range records {
				r := &records[i]
				if r.Value == nil || r.Time.Before(p.started) {
					continue // a marker, or left from an earlier run
				}
				if r.Topic == schemas.TopicDeadLetters {
					p.mu.Lock()
					p.letters++
					p.mu.Unlock()
					continue
				}
				kind, err := reader.Read(ctx, r)
				if err != nil {
					return err
				}
				if kind == intake.Message {
					p.add(float64(now.UnixMilli() - reader.Message().OccurredAt))
				}
			}
			return nil
		})
}

func (p *probe) add(latency float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.latencies) < maxLatencies {
		p.latencies = append(p.latencies, latency)
	} else {
		p.latencies[p.count%maxLatencies] = latency
	}
	p.count++
}

func (p *probe) scores() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *probe) deadLetters() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.letters
}

// percentiles returns the given quantiles of the latencies.
func (p *probe) percentiles(qs ...float64) []time.Duration {
	p.mu.Lock()
	sorted := slices.Clone(p.latencies)
	p.mu.Unlock()
	slices.Sort(sorted)
	out := make([]time.Duration, len(qs))
	for i, q := range qs {
		if len(sorted) > 0 {
			out[i] = time.Duration(sorted[int(q*float64(len(sorted)-1))] * float64(time.Millisecond))
		}
	}
	return out
}

// progress shows how far the demo is: bars on a terminal, a line now and then
// elsewhere.
type progress struct {
	stop func()
}

func (d *demo) startProgress(ctx context.Context) *progress {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	p := &progress{stop: func() { cancel(); <-done }}
	if f, ok := d.Out.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		go d.bars(ctx, f, done)
	} else {
		go d.lines(ctx, done)
	}
	return p
}

func (d *demo) lines(ctx context.Context, done chan<- struct{}) {
	defer close(done)
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case text := <-d.news:
			fmt.Fprintln(d.Out, text)
		case <-ticker.C:
			fmt.Fprintln(d.Out, d.status())
		case <-ctx.Done():
			return
		}
	}
}

func (d *demo) bars(ctx context.Context, w io.Writer, done chan<- struct{}) {
	defer close(done)
	bars := mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(200*time.Millisecond))
	bar := func(name string) *mpb.Bar {
		return bars.AddBar(0,
			mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersNoUnit("%d / %d", decor.WCSyncSpace)))
	}
	history, live := bar("  history"), bar("  live customers")
	status := bars.AddBar(0, mpb.BarFillerClearOnComplete(), mpb.BarFillerOnComplete(""), mpb.BarWidth(1),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return "  " + d.status() })))
	update := func() {
		s := d.replay.Stats()
		history.SetTotal(s.HistoryTotal, false)
		history.SetCurrent(s.HistoryDone)
		live.SetTotal(s.LiveTotal, false)
		live.SetCurrent(s.LiveDone)
	}
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case text := <-d.news:
			_, _ = bars.Write([]byte(text + "\n")) // above the bars
		case <-ticker.C:
			update()
		case <-ctx.Done():
		}
	}
	update()
	for _, b := range []*mpb.Bar{history, live, status} {
		b.Abort(false)
	}
	bars.Wait()
}

func (d *demo) status() string {
	model := "no model yet"
	if m := d.process.Models.Champion(); m != nil {
		model = fmt.Sprintf("model %d", m.Version)
	}
	line := fmt.Sprintf("%s events, %s scores, %s", humanize.Comma(d.published()), humanize.Comma(d.probe.scores()), model)
	if v := d.live(); v != nil && v.Rows >= enough {
		line += fmt.Sprintf(", log loss %s, ROC AUC %s", beside(v, "log_loss"), beside(v, "roc_auc"))
	}
	return line
}

// live is what is measured of the model in use, nil as long as nothing is.
func (d *demo) live() *quality.Version {
	report := d.monitor.Report()
	return report.Of(report.Champion)
}

// accuracy is that of all models over all examples so far.
func (d *demo) accuracy() (share float64, examples int64) {
	s := d.monitor.Stats()
	return s.Accuracy, s.Examples
}

// summary prints what the run came to, one figure a line.
func (d *demo) summary(took time.Duration) {
	events, scores := d.published(), d.probe.scores()
	accuracy, examples := d.accuracy()
	p := d.probe.percentiles(.5, .99)
	versions := len(d.process.Models.List())
	line := func(name, value, note string) {
		fmt.Fprintf(d.Out, "  %-22s%-12s%s\n", name, value, note)
	}
	// An event's time is in whole milliseconds.
	ms := func(d time.Duration) string {
		if d < time.Millisecond {
			return "<1 ms"
		}
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	fmt.Fprintln(d.Out, "\nSummary")
	line("events", n(events), "customer events published")
	line("scores", n(scores), "read back from "+schemas.TopicScores)
	line("dead letters", n(d.probe.deadLetters()), "")
	line("accuracy", fmt.Sprintf("%.3f", accuracy), fmt.Sprintf("over %d labelled examples of customers with a score", examples))
	if v := d.live(); v != nil {
		judged := v.Judged()
		for _, figure := range []string{"log_loss", "log_loss_skill", "roc_auc"} {
			if m, measured := judged.Figures[figure]; measured {
				line(quality.Title(figure), fmt.Sprintf("%.3f", m.Value), fmt.Sprintf("of version %d over %d outcomes, 95 %% interval %.3f to %.3f; holdout %.3f",
					v.Version, judged.Rows, m.Lower, m.Upper, v.Holdout[figure].Value))
			}
		}
	}
	line("model versions", strconv.Itoa(versions), d.modelNote())
	line("events per second", fmt.Sprintf("%.0f", float64(events)/took.Seconds()), fmt.Sprintf("over %s", took.Round(time.Millisecond)))
	line("event to score p50", ms(p[0]), "from the event's time until a reader has its score")
	line("event to score p99", ms(p[1]), "")
	if d.DataDir != "" {
		fmt.Fprintf(d.Out, "\nEverything is kept in %s; start again with --data-dir %s to carry on.\n", d.dir, d.DataDir)
	}
}

func (d *demo) modelNote() string {
	m := d.process.Models.Champion()
	if m == nil {
		return "none was let through"
	}
	return fmt.Sprintf("version %d in use, ROC AUC %.3f on %d customers it was not trained on", m.Version, m.Metrics.ROCAUC, m.Metrics.Rows)
}
