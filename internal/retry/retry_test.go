package retry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/churnstream/churnstream/internal/retry"
)

func TestDo(t *testing.T) {
	t.Run("until it succeeds", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			calls := 0
			err := retry.Do(t.Context(), slog.New(slog.NewTextHandler(&log, nil)), "counting", func(context.Context) error {
				if calls++; calls < 4 {
					return io.ErrUnexpectedEOF
				}
				return nil
			})
			if err != nil || calls != 4 {
				t.Errorf("%d calls, %v", calls, err)
			}
			// One line for the failures, one for the recovery.
			if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "recovered") {
				t.Errorf("logged %q", log.String())
			}
		})
	})
	t.Run("until an error is permanent", func(t *testing.T) {
		bad := errors.New("bad")
		calls := 0
		err := retry.Do(t.Context(), nil, "trying", func(context.Context) error {
			calls++
			return fmt.Errorf("wrapped: %w", retry.Permanent(bad))
		})
		if !errors.Is(err, bad) || calls != 1 {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
	t.Run("until the context ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			calls := 0
			err := retry.Do(ctx, nil, "trying", func(context.Context) error {
				if calls++; calls == 2 {
					cancel()
				}
				return io.ErrUnexpectedEOF
			})
			if !errors.Is(err, context.Canceled) || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v", err)
			}
		})
	})
	if retry.Permanent(nil) != nil {
		t.Error("no error became one")
	}
}

func TestLoopMakesFailuresKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var seen []string
		calls := 0
		err := retry.Loop{
			Log: slog.New(slog.NewTextHandler(&log, nil)), Doing: "trying", Attrs: []any{"topic", "t", "offset", 7},
			Failing:   func(err error) { seen = append(seen, "failing "+err.Error()) },
			Failed:    func(err error) { seen = append(seen, "failed "+err.Error()) },
			Recovered: func() { seen = append(seen, "recovered") },
		}.Run(t.Context(), func(context.Context) error {
			if calls++; calls < 3 {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		want := "failing unexpected EOF, failed unexpected EOF, failed unexpected EOF, recovered"
		if got := strings.Join(seen, ", "); err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
		if !strings.Contains(log.String(), "topic=t offset=7 doing=trying failures=1") {
			t.Errorf("logged %q", log.String())
		}
	})
}

func TestSleepAndBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		if !retry.Sleep(t.Context(), time.Minute) || time.Since(begin) != time.Minute {
			t.Errorf("woke after %v", time.Since(begin))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if begin = time.Now(); retry.Sleep(ctx, time.Minute) || time.Since(begin) != time.Second {
			t.Errorf("an ended context was noticed after %v", time.Since(begin))
		}
	})
	for failures, span := range map[int]time.Duration{
		0: 50 * time.Millisecond, 1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 7: 3200 * time.Millisecond, 8: 5 * time.Second, 1000: 5 * time.Second,
	} {
		for range 100 {
			if d := retry.Backoff(failures); d < span/2 || d > span {
				t.Fatalf("%v after %d failures, want between %v and %v", d, failures, span/2, span)
			}
		}
	}
}
