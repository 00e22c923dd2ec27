package intake

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// ScoresLog is what Owners ask of the topic of scores; *kafka.Cluster is one.
type ScoresLog interface {
	TopicID(ctx context.Context, topic string) (kafka.TopicID, error)
	Offsets(ctx context.Context, topic string, partition int) (first, end int64, err error)
	Read(ctx context.Context, span kafka.Span, use func(records []kafka.Record, next int64) error) error
}

// Owners tell what scorers have written to churn.scores, while the partition was
// theirs, from what anybody else has. A scorer makes a partition its own by a
// marker, and from then on appends to it under one producer id. Its markers of
// progress list all who have owned the partition, since compaction leaves the last
// of them only.
//
// They doubt only what is known to be somebody else's. What was written before
// there were markers of progress is believed, and so is all of a topic that was
// copied from another, whose markers speak of that one.
//
// Owners are safe for concurrent use. Records of one partition are to come in
// their order.
type Owners struct {
	log    ScoresLog
	intake *Intake
	codec  *schemas.Codec

	mu         sync.Mutex
	partitions map[int]*owned
}

// NewOwners returns the owners of the partitions of churn.scores, who are looked
// up as records are read.
func NewOwners(in *Intake, log ScoresLog, codec *schemas.Codec) *Owners {
	return &Owners{log: log, intake: in, codec: codec, partitions: map[int]*owned{}}
}

// owned is what is known of one partition.
type owned struct {
	*Owners
	number   int
	progress *Reader[schemas.Progress]

	mu     sync.Mutex
	read   int64 // offset after the last record that was judged
	sought int64 // up to which offset owners have been looked for; −1 before
	topic  kafka.TopicID
	// by are the owners in their order, each up to where the next begins; none
	// where nothing says who they are.
	by []schemas.Writer
}

// lookBack bounds how far from its end a partition is searched for a marker of
// progress, in offsets. Scorers write one every few thousand events.
const lookBack = 1 << 20

// Admit reports whether a record is somebody else's than an owner's. It waits
// while Kafka is down; the error is ctx's, or that the topic is gone.
func (o *Owners) Admit(ctx context.Context, r *kafka.Record) (foreign bool, err error) {
	o.mu.Lock()
	p := o.partitions[r.Partition]
	if p == nil {
		p = &owned{Owners: o, number: r.Partition, sought: -1}
		p.progress = NewReader(o.intake, Topic[schemas.Progress]{
			Decode: o.codec.DecodeProgress, Reserved: true,
			Poison: func(context.Context, *kafka.Record, *schemas.PoisonError) error { return nil }, // nobody's marker
		})
		o.partitions[r.Partition] = p
	}
	o.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sought < 0 || r.Offset < p.read { // read again, or another topic of that name
		p.by, p.sought = nil, -1
		if err := p.seek(ctx); err != nil {
			return false, err
		}
	}
	p.read = r.Offset + 1
	switch {
	case string(r.Key) == schemas.MarkerKey:
		p.fence(schemas.Writer{ProducerID: r.ProducerID, Since: r.Offset})
		return false, nil
	case string(r.Key) == schemas.ProgressKey:
		_, err := p.marker(ctx, r)
		return false, err
	}
	if own, known := Wrote(p.by, r); own || !known {
		return false, nil
	}
	if r.Offset >= p.sought {
		// The marker by which its writer became the owner may have been
		// compacted away; a later one lists the writer then.
		if err := p.seek(ctx); err != nil {
			return false, err
		}
	}
	own, known := Wrote(p.by, r)
	return known && !own, nil
}

// Wrote reports whether one of the owners of a partition of churn.scores, each up
// to where the next begins, has written a record; known is false for records from
// before the first of them.
func Wrote(owners []schemas.Writer, r *kafka.Record) (yes, known bool) {
	for i := len(owners) - 1; i >= 0; i-- {
		if r.Offset >= owners[i].Since {
			return r.ProducerID == owners[i].ProducerID, true
		}
	}
	return false, false
}

// fence notes that a writer has made the partition its own, where it is known who
// else did.
func (p *owned) fence(w schemas.Writer) {
	if n := len(p.by); n > 0 && w.ProducerID >= 0 && w.Since > p.by[n-1].Since && w.ProducerID != p.by[n-1].ProducerID {
		p.by = append(p.by, w)
	}
}

// marker takes the owners from a marker of progress, and reports whether it is
// one. Whoever wrote it is the last of them; who copies it is not.
func (p *owned) marker(ctx context.Context, r *kafka.Record) (bool, error) {
	kind, err := p.progress.Read(ctx, Marker(r))
	if err != nil || kind != Message {
		return false, err
	}
	m := p.progress.Message()
	n := len(m.Writers)
	if n == 0 || int(m.Partition) != p.number || m.ScoresTopicID != p.topic.String() ||
		m.Writers[n-1].ProducerID != r.ProducerID || m.Writers[n-1].Since > r.Offset {
		return false, nil
	}
	before := p.by
	p.by = slices.Clone(m.Writers)
	for _, w := range before {
		p.fence(w) // who came after the last that it lists
	}
	return true, nil
}

// seek looks for owners between where they were sought and the partition's end,
// backwards from there.
func (p *owned) seek(ctx context.Context) error {
	var err error
	if p.topic, err = p.log.TopicID(ctx, schemas.TopicScores); err != nil {
		return fmt.Errorf("asking who owns partition %d of %s: %w", p.number, schemas.TopicScores, err)
	}
	first, end, err := p.log.Offsets(ctx, schemas.TopicScores, p.number)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	var fences []schemas.Writer // in no order
	first = max(first, p.sought, end-lookBack)
	p.sought = end
	span := kafka.Span{Topic: schemas.TopicScores, Partition: p.number, Start: first, End: end}
	err = SeekBack(ctx, p.log, span, func(r *kafka.Record) (found bool, err error) {
		switch string(r.Key) {
		case schemas.MarkerKey:
			fences = append(fences, schemas.Writer{ProducerID: r.ProducerID, Since: r.Offset})
		case schemas.ProgressKey:
			return p.marker(ctx, r)
		}
		return false, nil
	})
	if err != nil {
		return fmt.Errorf("looking for who owns partition %d of %s: %w", p.number, schemas.TopicScores, err)
	}
	slices.SortFunc(fences, func(a, b schemas.Writer) int { return int(a.Since - b.Since) })
	for _, w := range fences {
		p.fence(w)
	}
	return nil
}

// SeekBack looks at the records of a span from its end on, in parts that grow, each
// in order, until one has brought what is sought: found is true of such a record,
// and the rest of its part is looked at too. A marker is near the end of a partition
// that has an owner.
func SeekBack(ctx context.Context, log interface {
	Read(ctx context.Context, span kafka.Span, use func(records []kafka.Record, next int64) error) error
}, span kafka.Span, look func(r *kafka.Record) (found bool, err error)) error {
	const firstPart = 1 << 10 // offsets
	first, found := span.Start, false
	for part := int64(firstPart); !found && span.End > first; part *= 4 {
		span.Start = max(first, span.End-part)
		err := log.Read(ctx, span, func(records []kafka.Record, _ int64) error {
			for i := range records {
				is, err := look(&records[i])
				if err != nil {
					return err
				}
				found = found || is
			}
			return nil
		})
		if err != nil {
			return err
		}
		span.End = span.Start
	}
	return nil
}
