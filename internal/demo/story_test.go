package demo

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/schemas"
)

// TestTheWatchTellsTheStory goes through a change as it is seen from the figures.
func TestTheWatchTellsTheStory(t *testing.T) {
	clock := time.UnixMilli(1_750_000_000_000)
	report, champion := &quality.Report{CaughtUp: true}, (*models.Version)(nil)
	var said, asked []string
	var refuse bool
	w := &watch{
		report: func() *quality.Report { return report }, champion: func() *models.Version { return champion },
		changes: func() (time.Time, bool) { return time.UnixMilli(1_750_000_005_000), true },
		ask: func(_ context.Context, reason string) error {
			asked = append(asked, reason)
			if refuse {
				return context.DeadlineExceeded
			}
			return nil
		},
		say: func(s string) { said = append(said, s) }, now: func() time.Time { return clock },
	}
	look := func(after time.Duration, wantSaid string, wantAsked int) {
		t.Helper()
		clock = clock.Add(after)
		said, asked = nil, nil
		w.look(t.Context())
		if text := strings.Join(said, " | "); !strings.Contains(text, wantSaid) || wantSaid == "" && text != "" || len(asked) != wantAsked {
			t.Fatalf("said %q, asked %q; want %q and %d requests", text, asked, wantSaid, wantAsked)
		}
	}
	version := func(n int64, rows int64, skill, auc float64) quality.Version {
		v := quality.Version{Version: n, Rows: rows, Measured: quality.Figures{}, Holdout: quality.Figures{}}
		v.Measured.Set("log_loss_skill", skill, skill-.05, skill+.05)
		v.Measured.Set("roc_auc", auc, auc-.02, auc+.02)
		v.Measured.Set("log_loss", .6-.6*skill, .3, .5)
		v.Holdout.Set("roc_auc", .84, .82, .86)
		v.Holdout.Set("log_loss", .41, .39, .43)
		return v
	}
	look(0, "", 0) // no model
	champion = &models.Version{ModelVersion: schemas.ModelVersion{Version: 1, Reason: "there was no champion"}}
	look(time.Second, "", 0)
	report.Versions = []quality.Version{version(1, 1000, .3, .84)}
	look(time.Second, "", 0)
	look(3*time.Second, "What makes customers leave has changed", 0)
	look(time.Second, "", 0)
	report.Versions = []quality.Version{version(1, 150, -.3, .5)}
	look(time.Second, "", 0) // too few to judge by
	report.Versions = []quality.Version{version(1, 1000, .2, .75)}
	look(time.Second, "Version 1 has fallen: ROC AUC 0.750 (0.730 to 0.770) over the last 1000 outcomes, 0.840 on its holdout.", 1)
	report.Versions = []quality.Version{version(1, 1000, -.3, .5)}
	look(time.Second, "", 0) // asked just now
	refuse = true
	look(askEvery, "", 1)
	champion = &models.Version{ModelVersion: schemas.ModelVersion{Version: 2, Reason: "better"}}
	look(time.Second, "Version 2 is in use: better.", 0)
	refuse = false
	// Trained right after the change, it is what its holdout promised, which is little.
	weak := version(2, 300, .05, .67)
	weak.Holdout.Set("roc_auc", .67, .6, .74)
	report.Versions = []quality.Version{weak}
	look(10*time.Second, "", 0)
	report.Versions = []quality.Version{version(2, 300, .31, .85), version(1, 1000, -.3, .5)}
	look(4*time.Second, "Recovered after 26s: version 2 has log loss 0.414 (0.300–0.500), holdout 0.410, ROC AUC 0.850 (0.830–0.870), holdout 0.840 over 300 outcomes. Its skill is 0.310; version 1 had 0.300, of which 80 % make a recovery.", 0)
	look(time.Second, "", 0)
	report.Versions = []quality.Version{version(2, 300, -.3, .5)}
	look(askEvery, "The trainer was asked", 1) // and that it has fallen
	if !strings.HasPrefix(said[0], "Version 2 has fallen: skill") || !strings.Contains(said[0], "churn rate alone would do better") {
		t.Errorf("%q", said)
	}
	// What is learnt too early is no good; it takes as long as it takes.
	clock = clock.Add(-askEvery)
	champion = &models.Version{ModelVersion: schemas.ModelVersion{Version: 3, Reason: "better"}}
	report.Versions = []quality.Version{version(3, 300, -.3, .5)}
	look(askEvery, "Version 3 has fallen", 0)
	champion = &models.Version{ModelVersion: schemas.ModelVersion{Version: 4, Reason: "better"}}
	report.Versions = []quality.Version{version(4, 300, .3, .85)}
	look(askEvery, "Recovered after 10s: version 4", 0)
	report = nil
	look(askEvery, "", 0)
}

func TestTheTrainerIsAskedByHTTP(t *testing.T) {
	answer, got := http.StatusAccepted, ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, 100)
		n, _ := r.Body.Read(body)
		got = r.Method + " " + r.URL.Path + " " + string(body[:n])
		w.WriteHeader(answer)
	}))
	defer server.Close()
	if err := askTrainer(server.URL)(t.Context(), "it fell"); err != nil || got != `POST /v1/retrain {"reason":"it fell"}` {
		t.Errorf("%v, %s", err, got)
	}
	answer = http.StatusConflict
	if askTrainer(server.URL)(t.Context(), "") == nil {
		t.Error("a refusal is no error")
	}
	server.Close()
	if askTrainer(server.URL)(t.Context(), "") == nil {
		t.Error("no answer is no error")
	}
}
