package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	kafkago "github.com/segmentio/kafka-go"
)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
	// logInterval bounds how often one retry loop writes to the log.
	logInterval = 10 * time.Second
)

// Retry calls fn until it returns nil, an error marked by Permanent, or ctx
// ends, waiting between calls with exponential backoff from 50 ms to 5 s and
// jitter. The first failure is logged as a warning, later ones at most every
// ten seconds, and the recovery once. what says what is being done, for the
// log and the error. A nil log logs nothing.
//
// When ctx ends the error matches ctx.Err() and names the last failure.
func Retry(ctx context.Context, log *slog.Logger, what string, fn func(context.Context) error) error {
	return retry(ctx, log, what, retryHooks{}, fn)
}

// Permanent marks an error as one that trying again will not cure: Retry
// returns it as it is.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// retryHooks let a Cluster show its retries in its metrics.
type retryHooks struct {
	failing  func()      // once, at the first failure
	failed   func(error) // at every failure that is going to be retried
	finished func()      // once, at the end, if failing was called
}

func retry(ctx context.Context, log *slog.Logger, what string, hooks retryHooks, fn func(context.Context) error) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	var (
		last     error
		failures int
		since    time.Time
		logged   time.Time
	)
	defer func() {
		if failures > 0 && hooks.finished != nil {
			hooks.finished()
		}
	}()
	for {
		if err := ctx.Err(); err != nil {
			return ended(what, err, last)
		}
		err := fn(ctx)
		if err == nil {
			if failures > 0 {
				log.Info("recovered", "doing", what, "failures", failures, "after", time.Since(since).Round(time.Millisecond))
			}
			return nil
		}
		var permanent *permanentError
		if errors.As(err, &permanent) {
			return fmt.Errorf("%s: %w", what, permanent.err)
		}
		if ctx.Err() != nil {
			// The error may only say that the context ended.
			if !errors.Is(err, ctx.Err()) {
				last = err
			}
			return ended(what, ctx.Err(), last)
		}
		last = err
		now := time.Now()
		if failures == 0 {
			since = now
			if hooks.failing != nil {
				hooks.failing()
			}
		}
		failures++
		if hooks.failed != nil {
			hooks.failed(err)
		}
		if now.Sub(logged) >= logInterval {
			logged = now
			log.Warn("failed, trying again", "doing", what, "failures", failures, "error", err)
		}
		sleep(ctx, backoff(failures))
	}
}

func ended(what string, ctxErr, last error) error {
	if last == nil {
		return fmt.Errorf("%s: %w", what, ctxErr)
	}
	return fmt.Errorf("%s: %w; last error: %w", what, ctxErr, last)
}

// backoff returns the wait after the given number of failures: half of an
// exponentially growing span and a random part of the other half.
func backoff(failures int) time.Duration {
	span := maxBackoff
	if failures < 8 {
		span = min(minBackoff<<(failures-1), maxBackoff)
	}
	return span/2 + rand.N(span/2+1)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// passing reports whether trying again may cure err. Everything that is not a
// broker's answer (networks, routing by metadata that is still to come) may
// pass; of the answers, those that Kafka calls retriable, a few that kafka-go
// does not count among them, and those about passwords and rights: a broker
// that has just started may not know them yet, and people change them while
// processes run.
func passing(err error) bool {
	var code kafkago.Error
	if !errors.As(err, &code) {
		return true
	}
	switch code {
	case kafkago.Unknown, kafkago.BrokerNotAvailable, kafkago.ReplicaNotAvailable,
		kafkago.ConcurrentTransactions,
		kafkago.SASLAuthenticationFailed, kafkago.TopicAuthorizationFailed, kafkago.GroupAuthorizationFailed,
		kafkago.ClusterAuthorizationFailed, kafkago.TransactionalIDAuthorizationFailed:
		return true
	}
	return code.Temporary()
}
