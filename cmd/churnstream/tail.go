package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/kafka"
)

type tailCommand struct {
	answering
	Topic     string  `arg:"" help:"Topic to read, such as churn.scores."`
	FromStart bool    `help:"Print from the first record on, not only the last ones."`
	Records   *int    `name:"records" short:"n" help:"Records to print: the last ones, or with --from-start the first. Default: the last 10, with --from-start all." placeholder:"N"`
	Key       *string `help:"Print only records with this key." placeholder:"KEY"`
	Follow    bool    `short:"f" help:"Go on with the records that are written from now on, until stopped."`
}

// Help is shown by churnstream tail --help.
func (tailCommand) Help() string {
	return `Prints records of a topic as JSON, one a line, oldest first: partition, offset, timestamp, key, headers, and the value, decoded by the schema that it was written with, whatever its subject. A tombstone's value is null; a value that cannot be decoded is printed in base64, with the error. Aborted transactions are left out. Needs no consumer group and commits nothing.

Examples:
  churnstream tail churn.scores
  churnstream tail churn.customer-events --follow --key customer-17
  churnstream tail churn.outcomes --from-start | jq -c 'select(.value.churned) | .key'`
}

func (c *tailCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	limit := 10
	if c.FromStart {
		limit = -1
	}
	if c.Records != nil {
		if limit = *c.Records; limit < 0 {
			return fmt.Errorf("--records %d: it cannot be negative", limit)
		}
	}
	registry, err := c.registry(slog.New(slog.DiscardHandler)) // open logs for both
	if err != nil {
		return err
	}
	defer registry.Close()
	c.CreateTopics = false
	p, err := c.open(log)
	if err != nil {
		return err
	}
	defer p.cluster.Close()
	if err := p.reach(ctx, &c.answering, c.Topic); err != nil {
		return err
	}

	t := &tail{
		cluster: p.cluster, topic: c.Topic, out: out,
		decoder: avrojson.NewDecoder(registry, log), progress: &scanBar{},
	}
	defer t.progress.finish()
	if c.Key != nil {
		t.key = []byte(*c.Key)
	}
	if err := t.open(ctx); err != nil {
		return err
	}
	if c.FromStart {
		left, err := t.forward(ctx, limit)
		if err != nil || left == 0 || !c.Follow {
			return err
		}
		return t.follow(ctx, left)
	}
	if err := t.last(ctx, limit); err != nil || !c.Follow {
		return err
	}
	return t.follow(ctx, -1)
}

// tail prints the records of one topic.
type tail struct {
	cluster  *kafka.Cluster
	topic    string
	key      []byte // nil for all
	out      io.Writer
	decoder  *avrojson.Decoder
	progress *scanBar

	partitions []tailedPartition
	line       []byte
}

// tailedPartition is a partition and its bounds when reading began.
type tailedPartition struct{ first, end int64 }

func (t *tail) open(ctx context.Context) error {
	n, err := t.cluster.Partitions(ctx, t.topic)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", t.topic, err)
	}
	for p := range n {
		first, end, err := t.cluster.Offsets(ctx, t.topic, p)
		if err != nil {
			return err
		}
		t.partitions = append(t.partitions, tailedPartition{first, end})
	}
	return nil
}

func (t *tail) wants(r *kafka.Record) bool {
	return t.key == nil || r.Key != nil && string(r.Key) == string(t.key)
}

// maxTailBytes bounds the records that are kept until it is known that they
// are among the last.
const maxTailBytes = 256 << 20

// last prints the last n records that were there when reading began.
func (t *tail) last(ctx context.Context, n int) error {
	if n == 0 {
		return nil
	}
	var kept []kafka.Record
	var done, total int64
	for _, p := range t.partitions {
		total += p.end - p.first
	}
	for number, p := range t.partitions {
		// Offsets have gaps, after compaction and where transactions ended: if
		// there are too few records, look further back.
		back := int64(n)
		if t.key != nil {
			back = p.end - p.first
		}
		var found []kafka.Record
		for {
			start := max(p.first, p.end-back)
			found = found[:0]
			bytes := 0
			f := t.cluster.NewFetcher(kafka.FetcherConfig{Topic: t.topic, Partition: number, Offset: start})
			for start < p.end && f.Offset() < p.end {
				records, err := f.Fetch(ctx)
				if err != nil {
					return err
				}
				for i := range records {
					if r := &records[i]; r.Offset < p.end && t.wants(r) {
						found = append(found, cloneRecord(r))
						bytes += len(r.Key) + len(r.Value)
					}
				}
				if excess := len(found) - n; excess > 0 {
					for i := range excess {
						bytes -= len(found[i].Key) + len(found[i].Value)
					}
					found = slices.Delete(found, 0, excess)
				}
				if bytes > maxTailBytes {
					return fmt.Errorf("the last %d records take more than %d MiB of memory: ask for fewer with --records", n, maxTailBytes>>20)
				}
				if t.key != nil {
					t.progress.set("looking for the key", done+f.Offset()-p.first, total)
				}
			}
			if len(found) >= n || start <= p.first {
				break
			}
			back *= 4
		}
		done += p.end - p.first
		kept = append(kept, found...)
		slices.SortStableFunc(kept, func(a, b kafka.Record) int { return a.Time.Compare(b.Time) })
		if excess := len(kept) - n; excess > 0 {
			kept = slices.Delete(kept, 0, excess)
		}
	}
	t.progress.finish()
	for i := range kept {
		if err := t.print(ctx, &kept[i]); err != nil {
			return err
		}
	}
	return nil
}

func cloneRecord(r *kafka.Record) kafka.Record {
	c := *r
	c.Key, c.Value, c.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = slices.Clone(c.Headers[i].Value)
	}
	return c
}

// forward prints the first n records, all if n is below zero, of those that
// were there when reading began: each partition in its order, the partitions
// merged by time. It returns how many of n are left.
func (t *tail) forward(ctx context.Context, n int) (left int, err error) {
	type head struct {
		fetcher *kafka.Fetcher
		records []kafka.Record
		end     int64
	}
	var heads []*head
	fill := func(h *head) error {
		for len(h.records) == 0 && h.fetcher.Offset() < h.end {
			records, err := h.fetcher.Fetch(ctx)
			if err != nil {
				return err
			}
			for len(records) > 0 && records[len(records)-1].Offset >= h.end {
				records = records[:len(records)-1]
			}
			h.records = records
		}
		return nil
	}
	for number, p := range t.partitions {
		if p.first >= p.end {
			continue
		}
		h := &head{end: p.end, fetcher: t.cluster.NewFetcher(kafka.FetcherConfig{
			Topic: t.topic, Partition: number, Offset: p.first, MaxBytes: 256 << 10,
		})}
		if err := fill(h); err != nil {
			return n, err
		}
		heads = append(heads, h)
	}
	for n != 0 {
		var next *head
		for _, h := range heads {
			if len(h.records) > 0 && (next == nil || h.records[0].Time.Before(next.records[0].Time)) {
				next = h
			}
		}
		if next == nil {
			return n, nil
		}
		if r := &next.records[0]; t.wants(r) {
			if err := t.print(ctx, r); err != nil {
				return n, err
			}
			n--
		}
		next.records = next.records[1:]
		if err := fill(next); err != nil {
			return n, err
		}
	}
	return 0, nil
}

// follow prints the records behind those that were there when reading began,
// as they come: n of them, or until ctx ends if n is below zero.
func (t *tail) follow(ctx context.Context, n int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type batch struct {
		records []kafka.Record
		err     error
		printed chan struct{}
	}
	batches := make(chan batch)
	for number, p := range t.partitions {
		go func() {
			f := t.cluster.NewFetcher(kafka.FetcherConfig{Topic: t.topic, Partition: number, Offset: p.end})
			for {
				records, err := f.Fetch(ctx)
				b := batch{records, err, make(chan struct{})}
				select {
				case batches <- b:
				case <-ctx.Done():
					return
				}
				if err != nil {
					return
				}
				select {
				case <-b.printed:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case b := <-batches:
			if b.err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return b.err
			}
			for i := range b.records {
				if !t.wants(&b.records[i]) {
					continue
				}
				if err := t.print(ctx, &b.records[i]); err != nil {
					if ctx.Err() != nil {
						return nil
					}
					return err
				}
				if n--; n == 0 {
					return nil
				}
			}
			close(b.printed)
		}
	}
}

// print writes a record as one line of JSON.
func (t *tail) print(ctx context.Context, r *kafka.Record) error {
	b := append(t.line[:0], `{"partition":`...)
	b = strconv.AppendInt(b, int64(r.Partition), 10)
	b = append(b, `,"offset":`...)
	b = strconv.AppendInt(b, r.Offset, 10)
	b = append(b, `,"timestamp":`...)
	b = avrojson.AppendText(b, r.Time.UTC().Format(time.RFC3339Nano))
	b = append(b, ',')
	b = avrojson.AppendBytes(b, "key", r.Key)
	b = append(b, `,"headers":`...)
	b = appendJSONHeaders(b, r.Headers)
	b, err := appendJSONValue(ctx, b, t.decoder, r.Value)
	if err != nil {
		return err
	}
	t.line = append(b, '}', '\n')
	_, err = t.out.Write(t.line)
	return err
}

func appendJSONHeaders(b []byte, headers []kafka.Header) []byte {
	b = append(b, '[')
	for i, h := range headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"key":`...)
		b = append(avrojson.AppendText(b, h.Key), ',')
		b = append(avrojson.AppendBytes(b, "value", h.Value), '}')
	}
	return append(b, ']')
}

// appendJSONValue appends the members that show a record's value to an object
// that has members: schema_id and value, or error and value_base64.
func appendJSONValue(ctx context.Context, b []byte, d *avrojson.Decoder, value []byte) ([]byte, error) {
	if value == nil {
		return append(b, `,"value":null`...), nil
	}
	text, id, err := d.Decode(ctx, value)
	if id != 0 {
		b = append(b, `,"schema_id":`...)
		b = strconv.AppendUint(b, uint64(id), 10)
	}
	var reason *avrojson.UndecodableError
	switch {
	case errors.As(err, &reason):
		b = append(b, `,"error":`...)
		b = avrojson.AppendText(b, reason.Error())
		b = append(b, `,"value_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, value)
		return append(b, '"'), nil
	case err != nil:
		return nil, err
	}
	b = append(b, `,"value":`...)
	return append(b, text...), nil
}

// scanBar shows how far a long scan is, on a terminal and nowhere else.
type scanBar struct {
	began time.Time
	what  string
	bars  *mpb.Progress
	bar   *mpb.Bar
}

// showAfter keeps short scans from flickering.
const showAfter = time.Second

func (p *scanBar) set(what string, done, total int64) {
	if what != p.what {
		p.finish()
		p.what, p.began = what, time.Now()
	}
	if p.bar == nil {
		if time.Since(p.began) < showAfter || !isatty.IsTerminal(os.Stderr.Fd()) {
			return
		}
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40))
		p.bar = p.bars.AddBar(total, mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Name(what, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace)))
	}
	p.bar.SetTotal(total, false)
	p.bar.SetCurrent(done)
}

// finish takes the bar away.
func (p *scanBar) finish() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
	*p = scanBar{}
}
