package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/role"
)

const (
	// watchEvery is how often the figures are looked at.
	watchEvery = 500 * time.Millisecond
	// enough is how many outcomes a version is judged by, at least: with fewer,
	// 95 % intervals promise more than they hold.
	enough = 200
	// askEvery is the shortest time between two requests for a training.
	askEvery = 10 * time.Second
	// regained is the share of the greatest skill before the fall that makes a recovery.
	regained = 0.8
)

// watch follows how good the models are, tells what happens, and asks for a
// training when the one in use has fallen. It stands in for Prometheus and
// Alertmanager, which a demonstration does not have: the condition is that of their
// rules, the request that of their webhook.
type watch struct {
	report   func() *quality.Report
	champion func() *models.Version
	// changes returns when what makes customers leave changes, if it is known.
	changes func() (time.Time, bool)
	ask     func(ctx context.Context, reason string) error
	say     func(string)
	now     func() time.Time

	version  int64          // champion of the last look
	fallen   int64          // version that was seen to have fallen
	fellAt   time.Time      // when the first that fell did
	had      quality.Number // the greatest skill that was measured before that
	hadBy    int64          // version that had it, 0 while none was measured
	changed  bool           // that is told
	askedAt  time.Time
	answered bool // that the request was taken is told
}

// Run looks until ctx ends.
func (w *watch) Run(ctx context.Context) error {
	for retry.Sleep(ctx, watchEvery) {
		w.look(ctx)
	}
	return nil
}

func (w *watch) look(ctx context.Context) {
	now := w.now()
	if at, known := w.changes(); known && !w.changed && !now.Before(at) {
		w.changed = true
		w.say("What makes customers leave has changed. Nothing says so to the parts of the system; labels will.")
	}
	champion := w.champion()
	if champion == nil {
		return
	}
	if champion.Version != w.version {
		if w.version != 0 || w.fallen != 0 {
			w.say(fmt.Sprintf("Version %d is in use: %s.", champion.Version, champion.Reason))
		}
		w.version, w.answered = champion.Version, false
	}
	report := w.report()
	v := report.Of(champion.Version)
	if report == nil || !report.CaughtUp || v == nil || v.Judged().Rows < enough {
		return
	}
	found, fallen := v.Fallen()
	if skill, is := v.Judged().Figures["log_loss_skill"]; is && !fallen && w.fallen == 0 && (w.hadBy == 0 || skill.Value > w.had) {
		w.had, w.hadBy = skill.Value, v.Version
	}
	switch {
	case fallen && w.fallen != v.Version:
		if w.fallen == 0 {
			w.fellAt = now
		}
		w.fallen = v.Version
		w.say(fmt.Sprintf("Version %d has fallen: %s.", v.Version, described(v, found)))
	case !fallen && w.fallen != 0 && w.fallen != v.Version && w.recovered(v):
		w.say(fmt.Sprintf("Recovered after %s: version %d has %s.%s", now.Sub(w.fellAt).Round(time.Second), v.Version, summaryOf(v), w.compared(v)))
		w.fallen = 0
	}
	if !fallen || now.Sub(w.askedAt) < askEvery {
		return
	}
	w.askedAt = now
	if err := w.ask(ctx, fmt.Sprintf("version %d has fallen by its %s", v.Version, quality.Title(found.Figure))); err == nil && !w.answered {
		w.answered = true
		w.say("The trainer was asked for a training, as Alertmanager's webhook does.")
	}
}

// recovered says that a version, which has not fallen, is about as good as there was
// one before the fall: what it has to be itself may be little, if it was trained right
// after a change.
func (w *watch) recovered(v *quality.Version) bool {
	skill, is := v.Judged().Figures["log_loss_skill"]
	return w.hadBy == 0 || is && skill.Value >= regained*w.had
}

// compared says what a recovery is measured by.
func (w *watch) compared(v *quality.Version) string {
	if w.hadBy == 0 {
		return ""
	}
	return fmt.Sprintf(" Its skill is %.3f; version %d had %.3f, of which %.0f %% make a recovery.",
		v.Judged().Figures["log_loss_skill"].Value, w.hadBy, w.had, 100*regained)
}

// described says by which figure a version has fallen.
func described(v *quality.Version, f quality.Finding) string {
	text := fmt.Sprintf("%s %.3f (%.3f to %.3f) over the last %d outcomes", quality.Title(f.Figure), f.Measured.Value, f.Measured.Lower, f.Measured.Upper, v.Judged().Rows)
	if f.Promised.Value.Defined() && f.Promised != (quality.Interval{}) {
		return text + fmt.Sprintf(", %.3f on its holdout", f.Promised.Value)
	}
	return text + ", so the churn rate alone would do better"
}

// summaryOf gives a version's figures beside those of its holdout.
func summaryOf(v *quality.Version) string {
	return fmt.Sprintf("log loss %s, ROC AUC %s over %d outcomes", beside(v, "log_loss"), beside(v, "roc_auc"), v.Judged().Rows)
}

// beside is a figure as it was measured, beside the holdout's.
func beside(v *quality.Version, figure string) string {
	measured, is := v.Judged().Figures[figure]
	if !is {
		return "–"
	}
	text := fmt.Sprintf("%.3f", measured.Value)
	if measured.Lower.Defined() && measured.Upper.Defined() {
		text += fmt.Sprintf(" (%.3f–%.3f)", measured.Lower, measured.Upper)
	}
	if promised, was := v.Holdout[figure]; was {
		text += fmt.Sprintf(", holdout %.3f", promised.Value)
	}
	return text
}

// askTrainer returns a function that asks for a training at the address where this
// process answers.
func askTrainer(url string) func(ctx context.Context, reason string) error {
	client := &http.Client{Timeout: 5 * time.Second}
	return func(ctx context.Context, reason string) error {
		body, err := json.Marshal(map[string]string{"reason": reason})
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+role.RetrainPath, bytes.NewReader(body))
		if err != nil {
			return err
		}
		request.Header.Set("Content-Type", "application/json")
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusAccepted {
			return fmt.Errorf("asking for a training: %s", answer.Status)
		}
		return nil
	}
}
