// Package listing prints dead letters, and what a redrive of them does, for
// people and as JSON.
package listing

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/recordjson"
	"github.com/churnstream/churnstream/internal/terminal"
	"github.com/churnstream/churnstream/schemas"
)

// Lines prints letters as JSON, one per line, without their values.
func Lines(out io.Writer, letters []deadletters.Letter) error {
	for i := range letters {
		if _, err := out.Write(append(appendLetter(nil, &letters[i]), '}', '\n')); err != nil {
			return err
		}
	}
	return nil
}

// Table prints letters as a table.
func Table(out io.Writer, letters []deadletters.Letter) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "POSITION\tFAILED AT\tREASON\tCAME FROM\tKEY\tREDRIVEN\tDETAIL")
	for i := range letters {
		l := &letters[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s/%d:%d\t%s\t%s\t%s\n", l.Position, showTime(l.FailedAt), plain(string(l.Reason), 40),
			plain(l.Topic, 80), l.DeadLetter.Partition, l.DeadLetter.Offset, plainKey(l.Key), yesNo(l.Redriven), plain(l.Detail, 100))
	}
	return w.Flush()
}

// JSON prints one letter as JSON, with its value decoded or in base64.
func JSON(ctx context.Context, out io.Writer, decoder *avrojson.Decoder, l *deadletters.Letter) error {
	b, err := recordjson.AppendValue(ctx, appendLetter(nil, l), decoder, schemaHeader(l), l.Value)
	if err != nil {
		return err
	}
	return indentJSON(out, append(b, '}'))
}

// Letter prints everything about one letter, and its value in hex and decoded.
func Letter(ctx context.Context, out io.Writer, decoder *avrojson.Decoder, l *deadletters.Letter) error {
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
	schema, datum, err := decoder.Schema(ctx, schemaHeader(l), l.Value)
	switch {
	case errors.Is(err, avrojson.ErrFrame):
		line("schema", "none: the value is %s", err)
	case err != nil:
		return err
	case schema.Err() != nil:
		line("schema", "%s: %s", schema.ID(), plain(schema.Err().Error(), 2000))
	default:
		line("schema", "%s %s", schema.ID(), plain(schema.Name(), 300))
	}
	line("value", "%d bytes", len(l.Value))
	if l.OriginalBytes > 0 {
		line("cut", "of a record of %d bytes this is the beginning; its value has SHA-256 %s", l.OriginalBytes, plain(l.ValueSHA256, 200))
	}
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

// schemaHeader returns the header of a letter's record that may name its schema.
func schemaHeader(l *deadletters.Letter) []byte {
	for _, h := range slices.Backward(l.Headers) {
		if h.Key == schemas.ValueSchemaHeader {
			return h.Value
		}
	}
	return nil
}

// Plan prints what a redrive would do.
func Plan(out io.Writer, plan *deadletters.Plan) error {
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

// Result prints what a redrive did.
func Result(out io.Writer, plan *deadletters.Plan, result deadletters.Result) {
	fmt.Fprintf(out, "redriven: %d\n", result.Redriven)
	showLeftOut(out, plan)
	showRefused(out, result.Refused)
}

func plain(text string, n int) string { return terminal.Plain(text, n) }

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

// appendLetter appends a letter as a JSON object that is still open, without
// its value.
func appendLetter(b []byte, l *deadletters.Letter) []byte {
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
	if l.OriginalBytes > 0 {
		number("original_bytes", l.OriginalBytes)
		text("value_sha256", l.ValueSHA256)
	}
	b = append(avrojson.AppendBytes(b, "key", l.Key), ',')
	headers := make([]kafka.Header, len(l.Headers))
	for i, h := range l.Headers {
		headers[i] = kafka.Header(h)
	}
	b = append(b, `"headers":`...)
	b = append(recordjson.AppendHeaders(b, headers), ',')
	number("value_bytes", int64(len(l.Value)))
	b = append(b, `"redriven":`...)
	return strconv.AppendBool(b, l.Redriven)
}
