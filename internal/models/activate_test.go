package models_test

import (
	"context"
	"errors"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/schemas"
)

// Going back to an older version: it is the champion again, all else as it was.
func TestActivate(t *testing.T) {
	w := newWorld(t)
	w.publish(w.version(1, schemas.StageChampion))
	w.publish(w.version(2, schemas.StageChampion))
	feed := w.run(nil)
	old := feed.Get(1)
	if err := models.Activate(w.ctx, w.out, w.codec, old, "activated by hand"); err != nil {
		t.Fatal(err)
	}
	w.until(feed, "version 1 is the champion", func() bool { return feed.Champion().Version == 1 })
	now := feed.Champion()
	if now.Reason != "activated by hand" || now.Payload != old.Payload || now.CreatedAt != old.CreatedAt ||
		now.Offset <= old.Offset || len(feed.List()) != 2 {
		t.Errorf("champion %d, reason %q, offset %d after %d, %d versions", now.Version, now.Reason, now.Offset, old.Offset, len(feed.List()))
	}
	if old.Reason != "test" {
		t.Errorf("the version that was given has become %q", old.Reason)
	}
}

type failing struct{ err error }

func (f failing) Produce(context.Context, string, ...kafka.Record) error { return f.err }

func TestActivateReportsFailure(t *testing.T) {
	w := newWorld(t)
	w.publish(w.version(1, schemas.StageChallenger))
	v := w.run(nil).Get(1)
	want := errors.New("no acknowledgement")
	if err := models.Activate(w.ctx, failing{want}, w.codec, v, ""); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithCancel(w.ctx)
	cancel()
	if err := models.Activate(ended, w.out, w.codec, v, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
}
