package scorer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// From says where the scorer is to go on in a partition of events.
type From string

const (
	// FromNext is where the last marker says, also if that is of another topic
	// of scores.
	FromNext From = "next"
	// FromFirst is the first event there is.
	FromFirst From = "first"
	// FromEnd is after the last event there is.
	FromEnd From = "end"
)

// AcceptConfig says what Accept accepts. Cluster and Codec are required.
type AcceptConfig struct {
	Cluster   *kafka.Cluster
	Codec     *schemas.Codec
	Partition int
	// Group is the consumer group of the scorers from now on.
	Group string
	// From is one of the constants, or a decimal offset. Scores of events from
	// there on that are in the topic already are not believed any more, unless
	// it is FromNext.
	From From
	// EraseUnreadable erases the customers of whom an owner has written what
	// cannot be read.
	EraseUnreadable bool
}

// ErrNoProgress means that FromNext was given for a partition that holds no
// marker of progress.
var ErrNoProgress = errors.New("the partition of " + schemas.TopicScores + " holds no marker of progress: say where to go on")

// Accept declares the topics as they are to be those to go on with, and says
// where, by a marker in a partition of churn.scores. A scorer that refuses the
// partition then goes on; one that scores it is fenced off and restores its state
// anew. Accept returns what the marker says, and who was erased.
func Accept(ctx context.Context, cfg AcceptConfig) (p *schemas.Progress, erased []string, err error) {
	for attempt := 0; ; attempt++ {
		// A scorer that looks again meanwhile fences this off, refuses once more,
		// and then waits for longer than this takes.
		if p, erased, err = accept(ctx, cfg); !errors.Is(err, kafka.ErrFenced) || attempt == 10 {
			return p, erased, err
		}
		if !retry.Sleep(ctx, 100*time.Millisecond) {
			return nil, nil, ctx.Err()
		}
	}
}

func accept(ctx context.Context, cfg AcceptConfig) (p *schemas.Progress, erased []string, err error) {
	s := reader(cfg.Cluster, cfg.Codec, cfg.Group)
	site := newSite(s, cfg.Partition)
	ids, err := s.topicIDs(ctx)
	if err != nil {
		return nil, nil, err
	}
	m, err := lastMarker(ctx, site, ids)
	if err != nil {
		return nil, nil, err
	}
	p, err = accepted(ctx, cfg, m)
	if err != nil {
		return nil, nil, err
	}
	o := &owner{site: site}
	at, _, err := o.fence(ctx)
	if err != nil {
		return nil, nil, err
	}
	p.Group, p.Partition = cfg.Group, int32(cfg.Partition)
	p.EventsTopicID, p.ScoresTopicID = ids.events, ids.scores
	p.Writers = writers(p.Writers).with(o.ProducerID(), at)
	var records []kafka.Record
	if cfg.EraseUnreadable {
		if erased, err = unreadable(ctx, site, m, at); err != nil {
			return nil, nil, err
		}
		for _, id := range erased {
			records = append(records, kafka.Record{Key: []byte(id), Headers: []kafka.Header{
				{Key: schemas.HeaderSourcePartition, Value: strconv.AppendInt(nil, int64(cfg.Partition), 10)},
				{Key: schemas.HeaderSourceOffset, Value: strconv.AppendInt(nil, max(0, p.Next-1), 10)},
			}})
		}
	}
	_, err = o.Append(ctx, append(records, markerRecord(cfg.Codec, p)), at+1)
	return p, erased, err
}

// unreadable returns the customers of whom an owner has written what cannot be
// read, up to an offset.
func unreadable(ctx context.Context, s *site, m *markers, to int64) ([]string, error) {
	r := newRestorer(s, m.ids)
	r.state = newState(s.cfg.Codec.Set().Vocabulary())
	r.markers = m
	r.follow(m.last)
	if err := r.run(ctx, to); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(r.unreadable)), nil
}

// accepted returns the progress to go on with, but for who and where.
func accepted(ctx context.Context, cfg AcceptConfig, m *markers) (*schemas.Progress, error) {
	first, end, err := cfg.Cluster.Offsets(ctx, schemas.TopicEvents, cfg.Partition)
	if err != nil {
		return nil, fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
	}
	p := &schemas.Progress{LeaderEpoch: -1}
	switch cfg.From {
	case FromNext:
		switch {
		case m.last != nil:
			*p = m.last.Progress
			p.LeaderEpoch, p.Customers = -1, 0
		case m.other != nil:
			p.Next = m.other.Next
			p.Since = p.Next
		default:
			return nil, ErrNoProgress
		}
	case FromFirst:
		p.Since, p.Next = first, first
	case FromEnd:
		p.Since, p.Next = end, end
	default:
		n, err := strconv.ParseInt(string(cfg.From), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("from %q: not an offset, and none of %s, %s, %s", cfg.From, FromNext, FromFirst, FromEnd)
		}
		p.Since, p.Next = n, n
	}
	last := m.last
	if last == nil {
		last = m.other
	}
	if last != nil {
		// Who is at home here does not change.
		p.Partitions, p.Former, p.Moving, p.Origins = last.Partitions, last.Former, last.Moving, last.Origins
	}
	if m.last != nil && len(p.Former) > 0 && p.Next < m.last.Next && cfg.From != FromFirst {
		return nil, fmt.Errorf("events up to offset %d are processed, and customers have moved since to other partitions, where their events would have their effect once more: go on from there or later", m.last.Next-1)
	}
	if p.Next < first || p.Next > end {
		return nil, fmt.Errorf("%s/%d holds offsets %d to %d, so nobody can go on at %d", schemas.TopicEvents, cfg.Partition, first, end, p.Next)
	}
	return p, nil
}

// PartitionProgress is what the last marker of a partition says, and what the
// topics hold.
type PartitionProgress struct {
	Partition int
	// Marker is nil if the partition of churn.scores holds none.
	Marker *schemas.Progress
	// MarkerOffset is that in churn.scores.
	MarkerOffset int64
	// EventsEnd is the end of the partition of churn.customer-events.
	EventsEnd int64
	// Problem says why a scorer would refuse the partition; "" if the topics are
	// those of the marker.
	Problem string
}

// ReadProgress reads the last markers of all partitions.
func ReadProgress(ctx context.Context, cluster *kafka.Cluster, codec *schemas.Codec) ([]PartitionProgress, error) {
	s := reader(cluster, codec, "")
	ids, err := s.topicIDs(ctx)
	if err != nil {
		return nil, err
	}
	n, err := cluster.Partitions(ctx, schemas.TopicScores)
	if err != nil {
		return nil, err
	}
	events, err := cluster.Partitions(ctx, schemas.TopicEvents)
	if err != nil {
		return nil, err
	}
	out := make([]PartitionProgress, n)
	for i := range out {
		p := &out[i]
		p.Partition = i
		if i < events { // else the topics are being given more
			if _, p.EventsEnd, err = cluster.Offsets(ctx, schemas.TopicEvents, i); err != nil {
				return nil, fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
			}
		}
		m, err := lastMarker(ctx, newSite(s, i), ids)
		if err != nil {
			return nil, err
		}
		switch {
		case m.last != nil:
			p.Marker, p.MarkerOffset = &m.last.Progress, m.last.offset
			switch {
			case different(p.Marker.EventsTopicID, ids.events):
				p.Problem = schemas.TopicEvents + " is another topic"
			case p.Marker.Next > p.EventsEnd:
				p.Problem = schemas.TopicEvents + " is shorter"
			}
		case m.other != nil:
			p.Marker, p.MarkerOffset = &m.other.Progress, m.other.offset
			p.Problem = schemas.TopicScores + " is another topic"
		}
	}
	return out, nil
}

// lastMarker seeks a partition's marker in all of it.
func lastMarker(ctx context.Context, s *site, ids topicIDs) (*markers, error) {
	first, end, err := s.cfg.Cluster.Offsets(ctx, schemas.TopicScores, s.partition)
	if err != nil {
		return nil, fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	m := newMarkers(s, ids)
	return m, m.seek(ctx, first, end)
}

// reader returns a scorer that does not score.
func reader(cluster *kafka.Cluster, codec *schemas.Codec, group string) *Scorer {
	s := &Scorer{log: slog.New(slog.DiscardHandler), metrics: newMetrics(nil, codec.Set().Spec()), intake: intake.New(intake.Config{Name: "progress"})}
	s.cfg.Cluster, s.cfg.Codec, s.cfg.Group, s.cfg.Now = cluster, codec, group, time.Now
	s.topicIDs = s.askTopicIDs
	return s
}
