// Package retry waits and tries again.
package retry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
	// logInterval bounds how often one loop writes to the log.
	logInterval = 10 * time.Second
)

// Do calls fn until it returns nil, an error marked by Permanent, or ctx
// ends, waiting between calls with exponential backoff from 50 ms to 5 s and
// jitter. The first failure is logged as a warning, later ones at most every
// ten seconds, and the recovery once. doing says what is being done, for the
// log and the error. A nil log logs nothing.
//
// When ctx ends the error matches ctx.Err() and names the last failure.
func Do(ctx context.Context, log *slog.Logger, doing string, fn func(context.Context) error) error {
	return Loop{Log: log, Doing: doing}.Run(ctx, fn)
}

// Loop is Do for a caller that makes the failures known itself too.
type Loop struct {
	// Log takes the failures and the recovery. Nil logs nothing.
	Log *slog.Logger
	// Doing says what is being done, for the log and the error.
	Doing string
	// Waiting says what is waited for, in Waits. Default Doing.
	Waiting string
	// Attrs are attributes of what is logged, as slog takes them.
	Attrs []any
	// Failing is called at the first failure that is going to be retried,
	// Failed at each, and Recovered at the end, for better or worse, if there
	// was one. Nil is not called.
	Failing   func(error)
	Failed    func(error)
	Recovered func()
}

// Run calls fn as Do does. While it fails it is one of the Waits that are watched
// below ctx.
func (l Loop) Run(ctx context.Context, fn func(context.Context) error) error {
	log := l.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With(l.Attrs...)
	var (
		last     error
		failures int
		since    time.Time
		limit    Limit
		waiting  *wait
		waited   func()
	)
	defer func() {
		if failures == 0 {
			return
		}
		waited()
		if l.Recovered != nil {
			l.Recovered()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return ended(l.Doing, err, last)
		}
		err := fn(ctx)
		if err == nil {
			if failures > 0 {
				log.Info("recovered", "doing", l.Doing, "failures", failures, "after", time.Since(since).Round(time.Millisecond))
			}
			return nil
		}
		var permanent *permanentError
		if errors.As(err, &permanent) {
			return fmt.Errorf("%s: %w", l.Doing, permanent.err)
		}
		if ctx.Err() != nil {
			// The error may only say that the context ended.
			if !errors.Is(err, ctx.Err()) {
				last = err
			}
			return ended(l.Doing, ctx.Err(), last)
		}
		last = err
		if failures == 0 {
			since = time.Now()
			waiting, waited = begin(ctx, cmp.Or(l.Waiting, l.Doing))
			if l.Failing != nil {
				l.Failing(err)
			}
		}
		failures++
		failed := err // last is read here only
		waiting.last.Store(&failed)
		if l.Failed != nil {
			l.Failed(err)
		}
		if limit.Allow() {
			log.Warn("failed, trying again", "doing", l.Doing, "failures", failures, "error", err)
		}
		Sleep(ctx, Backoff(failures))
	}
}

func ended(doing string, ctxErr, last error) error {
	if last == nil {
		return fmt.Errorf("%s: %w", doing, ctxErr)
	}
	return fmt.Errorf("%s: %w; last error: %w", doing, ctxErr, last)
}

// Permanent marks an error as one that trying again will not cure: Do returns
// it, without the mark, after what was being done.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Limit lets one line into the log every ten seconds. Its zero value lets the
// first.
type Limit struct{ last time.Time }

// Allow reports whether a line may be logged now, and takes it as logged.
func (l *Limit) Allow() bool {
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < logInterval {
		return false
	}
	l.last = now
	return true
}

// Backoff returns the wait after the given number of failures, one at least:
// half of a span that grows exponentially from 50 ms to 5 s, and a random part
// of the other half.
func Backoff(failures int) time.Duration {
	span := maxBackoff
	if failures < 8 {
		span = min(minBackoff<<(max(failures, 1)-1), maxBackoff)
	}
	return span/2 + rand.N(span/2+1)
}

// Sleep waits for d. It reports false when ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
