package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/deadletters/listing"
	"github.com/churnstream/churnstream/internal/terminal"
	"github.com/churnstream/churnstream/schemas"
)

type lettersCommand struct {
	List    lettersListCommand    `cmd:"" help:"List letters, the newest last."`
	Show    lettersShowCommand    `cmd:"" help:"Show one letter: everything about it, and its value in hex and decoded."`
	Redrive lettersRedriveCommand `cmd:"" help:"Write records back to the topics they came from, once whatever they failed at is mended."`
}

// letterFilter holds the flags that choose letters.
type letterFilter struct {
	Reason   string  `help:"Only letters with this reason, such as unknown_schema." placeholder:"REASON"`
	Topic    string  `help:"Only records that came from this topic." placeholder:"TOPIC"`
	Key      *string `help:"Only records with this key." placeholder:"KEY"`
	FailedBy string  `help:"Only letters of this role: scorer, labeler or sink, or one store's: 'sink clickhouse'." placeholder:"ROLE"`
	Since    moment  `help:"Only letters that failed then or later: a time (2026-01-31T15:04:05Z) or how long ago (36h, 7d)." placeholder:"TIME"`
	Until    moment  `help:"Only letters that failed before then, likewise." placeholder:"TIME"`
}

func (f *letterFilter) filter() deadletters.Filter {
	out := deadletters.Filter{
		Reason: f.Reason, Topic: f.Topic, FailedBy: f.FailedBy,
		Since: time.Time(f.Since), Until: time.Time(f.Until),
	}
	if f.Key != nil {
		out.Key = []byte(*f.Key)
	}
	return out
}

// moment is a time, given as such or as how long ago it was.
type moment time.Time

// UnmarshalText parses RFC 3339 or a duration, in which d means 24 hours.
func (m *moment) UnmarshalText(text []byte) error {
	if t, err := time.Parse(time.RFC3339, string(text)); err == nil {
		*m = moment(t)
		return nil
	}
	var ago time.Duration
	rest := string(text)
	if days, hours, found := strings.Cut(rest, "d"); found {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil {
			return errMoment
		}
		ago, rest = time.Duration(n)*24*time.Hour, hours
	}
	if rest != "" || ago == 0 {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return errMoment
		}
		ago += d
	}
	*m = moment(time.Now().Add(-ago))
	return nil
}

var errMoment = errors.New("neither a time such as 2026-01-31T15:04:05Z nor how long ago, such as 36h or 7d")

// lettersFlags bound what a command over the dead letters takes.
type lettersFlags struct {
	answering
	MaxMemory int           `name:"max-memory" help:"Most memory, in bytes or like 64MiB, for letters and what is noted of them." default:"256MiB" type:"bytes"`
	Timeout   time.Duration `help:"Give up after this long, such as 10m; 0 is never." default:"0s"`
}

// letters opens the queue of dead letters. The context that use gets ends with
// --timeout.
func (c *lettersFlags) letters(ctx context.Context, log *slog.Logger, use func(context.Context, *deadletters.Queue) error) error {
	if c.Timeout < 0 {
		return fmt.Errorf("--timeout %v: it cannot be negative", c.Timeout)
	}
	if c.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		ctx = limited
	}
	err := c.openLetters(ctx, log, use)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("not done within --timeout %v: %w", c.Timeout, err)
	}
	return err
}

func (c *lettersFlags) openLetters(ctx context.Context, log *slog.Logger, use func(context.Context, *deadletters.Queue) error) error {
	cluster, codec, err := c.openWithCodec(ctx, schemas.TopicDeadLetters, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	bar := &terminal.Bar{}
	defer bar.Finish()
	return use(ctx, deadletters.New(deadletters.Config{
		Cluster: cluster, Codec: codec, Logger: log, MaxBytes: c.MaxMemory, Progress: bar.Progress,
	}))
}

type lettersListCommand struct {
	lettersFlags
	letterFilter
	Limit int  `help:"Letters to list, the newest of those that match; 0 means all." default:"50"`
	JSON  bool `name:"json" help:"Print JSON, one letter per line, instead of a table."`
}

// Help is shown by churnstream dead-letters list --help.
func (lettersListCommand) Help() string {
	return `POSITION is what churnstream dead-letters show and redrive take.

Examples:
  churnstream dead-letters list --since 24h
  churnstream dead-letters list --reason unknown_schema --topic churn.customer-events --limit 0 --json`
}

func (c *lettersListCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	if c.Limit < 0 {
		return fmt.Errorf("--limit %d: it cannot be negative", c.Limit)
	}
	return c.letters(ctx, log, func(ctx context.Context, q *deadletters.Queue) error {
		letters, err := q.Newest(ctx, c.filter(), c.Limit)
		if err != nil {
			return err
		}
		if c.JSON {
			return listing.Lines(out, letters)
		}
		return listing.Table(out, letters)
	})
}

type lettersShowCommand struct {
	lettersFlags
	Position string `arg:"" help:"Letter to show, as PARTITION:OFFSET from churnstream dead-letters list."`
	JSON     bool   `name:"json" help:"Print JSON, with the value decoded or in base64."`
}

// Help is shown by churnstream dead-letters show --help.
func (lettersShowCommand) Help() string {
	return `Shows a letter and the record in it. The value is decoded by the schema that it names, if the registry knows it; of a damaged one, the fields before the damage are shown.

Example:
  churnstream dead-letters show 3:17`
}

func (c *lettersShowCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	position, err := deadletters.ParsePosition(c.Position)
	if err != nil {
		return err
	}
	registry, err := c.registry(slog.New(slog.DiscardHandler)) // the codec's warns for both
	if err != nil {
		return err
	}
	defer registry.Close()
	return c.letters(ctx, log, func(ctx context.Context, q *deadletters.Queue) error {
		l, err := q.Get(ctx, position)
		if err != nil {
			return err
		}
		decoder := avrojson.NewDecoder(registry, log)
		if c.JSON {
			return listing.JSON(ctx, out, decoder, l)
		}
		return listing.Letter(ctx, out, decoder, l)
	})
}

type lettersRedriveCommand struct {
	lettersFlags
	Positions []string `arg:"" optional:"" name:"position" help:"Letters to redrive, as PARTITION:OFFSET, also those redriven before; without any, those that the filters choose."`
	letterFilter
	Limit int `help:"Letters to redrive, the oldest of those that match, can be redriven and were not; 0 means all." default:"0"`
	// Not from the environment: there it would be forgotten.
	Yes bool `help:"Do it. Without, only what would be done is printed." env:"-"`
}

// Help is shown by churnstream dead-letters redrive --help.
func (lettersRedriveCommand) Help() string {
	return `Writes the records in dead letters back to the topic and partition they came from: key, value, headers and timestamp as they were, with two headers added: redriven-from, the letter's position, and written-at, the timestamp once more, as topics with LogAppendTime set their own. Prints what it would do, and does it only with --yes.

A letter is redriven once, however often this is run; runs that were cut short can be run again. Not at the same time, though: of two runs either may repeat what the other writes. A record that fails once more makes a new letter, which can be redriven again. Letters of customers who were erased since are left out. A position that is named is redriven all the same, erased or redriven before.

Every consumer of the topic reads a redriven record, also those that took it the first time. Records keep their time where the topic lets them, so brokers delete those that are older than the topic's retention soon. Only events and outcomes are redriven; scores and models are the scorer's and the trainer's own.

Examples:
  churnstream dead-letters redrive 3:17
  churnstream dead-letters redrive --reason unknown_schema --since 2h --yes`
}

func (c *lettersRedriveCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	var positions []deadletters.Position
	for _, text := range c.Positions {
		p, err := deadletters.ParsePosition(text)
		if err != nil {
			return err
		}
		positions = append(positions, p)
	}
	if len(positions) > 0 && (c.letterFilter != letterFilter{} || c.Limit != 0) {
		return errors.New("give positions or filters, not both")
	}
	if c.Limit < 0 {
		return fmt.Errorf("--limit %d: it cannot be negative", c.Limit)
	}
	return c.letters(ctx, log, func(ctx context.Context, q *deadletters.Queue) error {
		var plan *deadletters.Plan
		var err error
		if len(positions) > 0 {
			plan, err = q.PlanFor(ctx, positions)
		} else {
			plan, err = q.Plan(ctx, c.filter(), c.Limit)
		}
		if err != nil {
			return err
		}
		if !c.Yes {
			return listing.Plan(out, plan)
		}
		result, err := q.Redrive(ctx, plan)
		if err != nil {
			goOn := "run it again to go on"
			if len(positions) > 0 {
				goOn = "churnstream dead-letters list shows which; name the others to go on"
			}
			return fmt.Errorf("%d of %d redriven: %w; %s", result.Redriven, len(plan.Letters), err, goOn)
		}
		listing.Result(out, plan, result)
		return nil
	})
}
