package retry_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/churnstream/churnstream/internal/retry"
)

func TestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var process, partition retry.Waits
		outer := retry.Watch(t.Context(), &process)
		inner := retry.Watch(outer, &partition)
		expect := func(when string, w *retry.Waits, what string, since time.Time) {
			t.Helper()
			got, at, ok := w.Longest()
			if got != what || !at.Equal(since) || ok != (what != "") {
				t.Errorf("%s: %q since %v, want %q since %v", when, got, at, what, since)
			}
		}
		expect("at first", &process, "", time.Time{})

		began := time.Now()
		end := retry.Begin(inner, "a model")
		time.Sleep(time.Second)
		answers := make(chan error)
		done := make(chan error)
		go func() {
			done <- retry.Do(outer, nil, "asking", func(ctx context.Context) error { return <-answers })
		}()
		synctest.Wait()
		expect("while the other is only asked", &process, "a model", began)
		answers <- errors.New("no")
		synctest.Wait()
		expect("the older first", &process, "a model", began)
		expect("not notified of what is above it", &partition, "a model", began)
		end()
		expect("one left", &process, "asking: no", began.Add(time.Second))
		expect("none left", &partition, "", time.Time{})
		answers <- errors.New("not yet")
		synctest.Wait()
		expect("since it began", &process, "asking: not yet", began.Add(time.Second))
		answers <- nil
		if err := <-done; err != nil {
			t.Error(err)
		}
		expect("at the end", &process, "", time.Time{})
	})
	retry.Begin(t.Context(), "with nobody watching")()
}
