package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
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
	FailedBy string  `help:"Only letters of this role: scorer, trainer or sink, or one store's: 'sink clickhouse'." placeholder:"ROLE"`
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
	MaxMemory byteSize      `help:"Most memory, in bytes or like 64MiB, for letters and what is noted of them." default:"256MiB"`
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
	c.CreateTopics = false
	p, err := c.open(log)
	if err != nil {
		return err
	}
	defer p.cluster.Close()
	if err := p.reach(ctx, &c.answering, schemas.TopicDeadLetters); err != nil {
		return err
	}
	bar := &scanBar{}
	defer bar.finish()
	return use(ctx, deadletters.New(deadletters.Config{
		Cluster: p.cluster, Codec: p.codec, Logger: log, MaxBytes: int(c.MaxMemory),
		Progress: func(what string, done, total int64) {
			if bar.set(what, done, total); done >= total {
				bar.finish()
			}
		},
	}))
}

type lettersListCommand struct {
	lettersFlags
	letterFilter
	Limit int  `help:"Letters to list, the newest of those that match; 0 means all." default:"50"`
	JSON  bool `name:"json" help:"Print JSON, one letter a line, instead of a table."`
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
			for i := range letters {
				if _, err := out.Write(append(appendLetterJSON(nil, &letters[i]), '}', '\n')); err != nil {
					return err
				}
			}
			return nil
		}
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "POSITION\tFAILED AT\tREASON\tCAME FROM\tKEY\tREDRIVEN\tDETAIL")
		for i := range letters {
			l := &letters[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s/%d:%d\t%s\t%s\t%s\n", l.Position, showTime(l.FailedAt), plain(string(l.Reason), 40),
				plain(l.Topic, 80), l.DeadLetter.Partition, l.DeadLetter.Offset, plainKey(l.Key), yesNo(l.Redriven), plain(l.Detail, 100))
		}
		return w.Flush()
	})
}

// showTime shows milliseconds since 1970 as models list does.
func showTime(millis int64) string {
	return time.UnixMilli(millis).UTC().Format(time.DateTime)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func plainKey(key []byte) string {
	if key == nil {
		return "(none)"
	}
	return plain(string(key), 60)
}

// plain returns text fit for a line on a terminal: cut to n characters, and
// quoted if there is anything in it that does not print, or nothing at all.
func plain(text string, n int) string {
	if utf8.RuneCountInString(text) > n {
		text = string([]rune(text)[:n-1]) + "…"
	}
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if text == "" || strings.ContainsFunc(text, odd) {
		return strconv.Quote(text)
	}
	return text
}

// appendLetterJSON appends a letter as a JSON object that is still open, without
// its value.
func appendLetterJSON(b []byte, l *deadletters.Letter) []byte {
	text := func(name, value string) {
		b = append(append(avrojson.AppendText(b, name), ':'), avrojson.AppendText(nil, value)...)
		b = append(b, ',')
	}
	number := func(name string, n int64) {
		b = strconv.AppendInt(append(avrojson.AppendText(b, name), ':'), n, 10)
		b = append(b, ',')
	}
	moment := func(name string, millis int64) { text(name, time.UnixMilli(millis).UTC().Format(time.RFC3339Nano)) }
	b = append(b, '{')
	text("position", l.Position.String())
	moment("failed_at", l.FailedAt)
	text("failed_by", l.FailedBy)
	text("reason", string(l.Reason))
	text("detail", l.Detail)
	text("topic", l.Topic)
	number("partition", int64(l.DeadLetter.Partition))
	number("offset", l.DeadLetter.Offset)
	moment("timestamp", l.Timestamp)
	b = append(avrojson.AppendBytes(b, "key", l.Key), ',')
	headers := make([]kafka.Header, len(l.Headers))
	for i, h := range l.Headers {
		headers[i] = kafka.Header(h)
	}
	b = append(b, `"headers":`...)
	b = append(appendJSONHeaders(b, headers), ',')
	number("value_bytes", int64(len(l.Value)))
	b = append(b, `"redriven":`...)
	return strconv.AppendBool(b, l.Redriven)
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
	registry, err := c.registry(slog.New(slog.DiscardHandler)) // open logs for both
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
			b, err := appendJSONValue(ctx, appendLetterJSON(nil, l), decoder, l.Value)
			if err != nil {
				return err
			}
			return indentJSON(out, append(b, '}'))
		}
		return showLetter(ctx, out, decoder, l)
	})
}

func showLetter(ctx context.Context, out io.Writer, decoder *avrojson.Decoder, l *deadletters.Letter) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	moment := func(millis int64) string { return time.UnixMilli(millis).UTC().Format(time.RFC3339Nano) }
	line("position", "%s", l.Position)
	line("failed at", "%s", moment(l.FailedAt))
	line("failed by", "%s", plain(l.FailedBy, 200))
	line("reason", "%s", plain(string(l.Reason), 200))
	line("detail", "%s", plain(l.Detail, 2000))
	line("came from", "%s/%d:%d", plain(l.Topic, 300), l.DeadLetter.Partition, l.DeadLetter.Offset)
	line("timestamp", "%s", moment(l.Timestamp))
	if l.Key == nil {
		line("key", "(none)")
	} else {
		line("key", "%s", plain(string(l.Key), 2000))
	}
	for _, h := range l.Headers {
		line("header", "%s: %s", plain(h.Key, 200), plain(string(h.Value), 2000))
	}
	line("redriven", "%s", yesNo(l.Redriven))
	if l.Value == nil {
		line("value", "(none)")
		return w.Flush()
	}
	schema, datum, err := decoder.Schema(ctx, l.Value)
	switch {
	case errors.Is(err, avrojson.ErrFrame):
		line("schema", "none: the value is %s", err)
	case err != nil:
		return err
	case schema.Err() != nil:
		line("schema", "%d: %s", schema.ID(), plain(schema.Err().Error(), 2000))
	default:
		line("schema", "%d %s", schema.ID(), plain(schema.Name(), 300))
	}
	line("value", "%d bytes", len(l.Value))
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "\n%s\n", hex.Dump(l.Value)); err != nil {
		return err
	}
	if err != nil || schema.Err() != nil {
		return nil
	}
	text, problem := schema.Decode(datum)
	if problem != nil {
		fmt.Fprintf(out, "not decodable: %s\n", plain(problem.Error(), 2000))
		if text = schema.DecodePart(datum); text == nil {
			return nil
		}
		fmt.Fprintln(out, "as far as it goes:")
	}
	return indentJSON(out, text)
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
			return showPlan(out, plan)
		}
		result, err := q.Redrive(ctx, plan)
		if err != nil {
			goOn := "run it again to go on"
			if len(positions) > 0 {
				goOn = "churnstream dead-letters list shows which; name the others to go on"
			}
			return fmt.Errorf("%d of %d redriven: %w; %s", result.Redriven, len(plan.Letters), err, goOn)
		}
		fmt.Fprintf(out, "redriven: %d\n", result.Redriven)
		showLeftOut(out, plan)
		showRefused(out, result.Refused)
		return nil
	})
}

// showPlan prints what a redrive would do.
func showPlan(out io.Writer, plan *deadletters.Plan) error {
	if len(plan.Letters) > 0 {
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "POSITION\tTO\tTIMESTAMP\tKEY\tREDRIVEN\tREASON")
		for i := range plan.Letters {
			l := &plan.Letters[i]
			fmt.Fprintf(w, "%s\t%s/%d\t%s\t%s\t%s\t%s\n", l.Position, plain(l.Topic, 80), l.DeadLetter.Partition,
				showTime(l.Timestamp), plainKey(l.Key), yesNo(l.Redriven), plain(string(l.Reason), 40))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "would be redriven: %d\n", len(plan.Letters))
	showLeftOut(out, plan)
	if len(plan.Letters) > 0 {
		fmt.Fprintln(out, "nothing was written; --yes does it")
	}
	return nil
}

func showLeftOut(out io.Writer, plan *deadletters.Plan) {
	if plan.Done > 0 {
		fmt.Fprintf(out, "redriven before: %d\n", plan.Done)
	}
	if plan.Twice > 0 {
		fmt.Fprintf(out, "of a record that another of these letters holds, too: %d\n", plan.Twice)
	}
	showRefused(out, plan.Refused)
}

func showRefused(out io.Writer, refused deadletters.Refusals) {
	for _, why := range slices.Sorted(maps.Keys(refused)) {
		of := refused[why]
		var which []string
		for _, p := range of.First {
			which = append(which, p.String())
		}
		if of.Count > len(which) {
			which = append(which, "…")
		}
		fmt.Fprintf(out, "not redriven: %d, %s (%s)\n", of.Count, why, strings.Join(which, " "))
	}
}

// indentJSON prints JSON over several lines.
func indentJSON(out io.Writer, text []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return fmt.Errorf("indenting JSON: %w", err)
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(out)
	return err
}
