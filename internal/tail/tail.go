// Package tail prints the records of a topic as JSON, one per line: the last
// ones, the first ones, and those that follow.
package tail

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/recordjson"
	"github.com/churnstream/churnstream/schemas"
)

// Config says which records to print, and where.
type Config struct {
	// Cluster has Topic, whose records are decoded by Decoder and written to
	// Out. All are required.
	Cluster *kafka.Cluster
	Topic   string
	Decoder *avrojson.Decoder
	Out     io.Writer
	// Key, if not nil, has only records with this key printed.
	Key []byte
	// Limit is the number of records printed: the last ones or, with
	// FromStart, the first. Below 0 it is all of them; then FromStart must be
	// set.
	Limit     int
	FromStart bool
	// Follow goes on with the records that are written from now on.
	Follow bool
	// Progress, if set, takes how far a long search is. done is total at its
	// end.
	Progress func(what string, done, total int64)
}

// Print prints records until it has printed what was asked for or ctx ends.
func Print(ctx context.Context, cfg Config) error {
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	t := &tail{Config: cfg}
	if err := t.open(ctx); err != nil {
		return err
	}
	if t.FromStart {
		left, err := t.forward(ctx, t.Limit)
		if err != nil || left == 0 || !t.Follow {
			return err
		}
		return t.follow(ctx, left)
	}
	if err := t.last(ctx, t.Limit); err != nil || !t.Follow {
		return err
	}
	return t.follow(ctx, -1)
}

// tail prints the records of one topic.
type tail struct {
	Config
	partitions []partition
	line       []byte
}

// partition is a partition's bounds when reading began.
type partition struct{ first, end int64 }

func (t *tail) open(ctx context.Context) error {
	n, err := t.Cluster.Partitions(ctx, t.Topic)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", t.Topic, err)
	}
	for p := range n {
		first, end, err := t.Cluster.Offsets(ctx, t.Topic, p)
		if err != nil {
			return err
		}
		t.partitions = append(t.partitions, partition{first, end})
	}
	return nil
}

func (t *tail) wants(r *kafka.Record) bool {
	return t.Key == nil || r.Key != nil && string(r.Key) == string(t.Key)
}

// maxBytes bounds the records that are kept until it is known that they
// are among the last.
const maxBytes = 256 << 20

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
		if t.Key != nil {
			back = p.end - p.first
		}
		var found []kafka.Record
		for {
			start := max(p.first, p.end-back)
			found = found[:0]
			bytes := 0
			f := t.Cluster.NewFetcher(kafka.FetcherConfig{Topic: t.Topic, Partition: number, Offset: start})
			for start < p.end && f.Offset() < p.end {
				records, err := f.Fetch(ctx)
				if err != nil {
					return err
				}
				for i := range records {
					if r := &records[i]; r.Offset < p.end && t.wants(r) {
						found = append(found, r.Clone())
						bytes += len(r.Key) + len(r.Value)
					}
				}
				if excess := len(found) - n; excess > 0 {
					for i := range excess {
						bytes -= len(found[i].Key) + len(found[i].Value)
					}
					found = slices.Delete(found, 0, excess)
				}
				if bytes > maxBytes {
					return fmt.Errorf("the last %d records take more than %d MiB of memory: ask for fewer with --records", n, maxBytes>>20)
				}
				if t.Key != nil {
					t.Progress("looking for the key", done+f.Offset()-p.first, total)
				}
			}
			f.Close()
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
	t.Progress("looking for the key", total, total)
	for i := range kept {
		if err := t.print(ctx, &kept[i]); err != nil {
			return err
		}
	}
	return nil
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
	// Records of one partition are kept while others are waited for.
	all := kafka.NewTogether(len(t.partitions))
	defer func() {
		for _, h := range heads {
			h.fetcher.Close()
		}
	}()
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
		h := &head{end: p.end, fetcher: t.Cluster.NewFetcher(kafka.FetcherConfig{
			Topic: t.Topic, Partition: number, Offset: p.first, MaxBytes: 256 << 10, Together: all,
		})}
		heads = append(heads, h)
		if err := fill(h); err != nil {
			return n, err
		}
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

// follow prints the records after those that were there when reading began,
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
			f := t.Cluster.NewFetcher(kafka.FetcherConfig{Topic: t.Topic, Partition: number, Offset: p.end})
			defer f.Close()
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
	b = recordjson.AppendHeaders(b, r.Headers)
	b, err := recordjson.AppendValue(ctx, b, t.Decoder, r.Header(schemas.ValueSchemaHeader), r.Value)
	if err != nil {
		return err
	}
	t.line = append(b, '}', '\n')
	_, err = t.Out.Write(t.line)
	return err
}
