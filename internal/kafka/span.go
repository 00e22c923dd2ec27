package kafka

import "context"

// Span is the records of a partition from one offset up to before another.
type Span struct {
	Topic      string
	Partition  int
	Start, End int64
}

// Spans returns what the partitions of a topic hold at this moment, in their
// order. It waits while the cluster is down; a topic that does not exist is
// ErrUnknownTopic.
func (c *Cluster) Spans(ctx context.Context, topic string) ([]Span, error) {
	n, err := c.Partitions(ctx, topic)
	if err != nil {
		return nil, err
	}
	spans := make([]Span, n)
	for p := range spans {
		first, end, err := c.Offsets(ctx, topic, p)
		if err != nil {
			return nil, err
		}
		spans[p] = Span{topic, p, first, end}
	}
	return spans, nil
}

// Read reads a span in order. use is called after each fetch with the records
// that it brought, which may be none and are valid until use returns, and with
// the offset up to which the span is read. The error is that of use, or ctx's.
func (c *Cluster) Read(ctx context.Context, span Span, use func(records []Record, next int64) error) error {
	f := c.NewFetcher(FetcherConfig{Topic: span.Topic, Partition: span.Partition, Offset: span.Start})
	defer f.Close()
	for next := span.Start; next < span.End; {
		records, err := f.Fetch(ctx)
		if err != nil {
			return err
		}
		for len(records) > 0 && records[len(records)-1].Offset >= span.End {
			records = records[:len(records)-1]
		}
		next = min(f.Offset(), span.End)
		if err := use(records, next); err != nil {
			return err
		}
	}
	return nil
}
