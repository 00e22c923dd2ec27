package scorer

import (
	"context"
	"fmt"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// markers seeks the marker of progress in an output partition.
type markers struct {
	*site
	ids    topicIDs
	reader *intake.Reader[schemas.Progress]
	sought int64 // up to which offset it has been sought
	// last is the last one that an owner has written, nil if there is none.
	last *marker
	// other is the last one that speaks of another topic of scores.
	other *marker
}

// marker is one that was found.
type marker struct {
	schemas.Progress
	offset int64
}

func newMarkers(s *site, ids topicIDs) *markers {
	return &markers{site: s, ids: ids, reader: intake.NewReader(s.intake, intake.Topic[schemas.Progress]{
		Decode: s.cfg.Codec.DecodeProgress, Reserved: true,
		// It is not an owner's, and counted when the state is restored.
		Poison: func(context.Context, *kafka.Record, *schemas.PoisonError) error { return nil },
	})}
}

// seek looks for the last marker between what was looked at before, or an
// offset, and another.
func (m *markers) seek(ctx context.Context, from, to int64) error {
	span := kafka.Span{Topic: schemas.TopicScores, Partition: m.partition, Start: max(from, m.sought), End: to}
	m.sought = max(to, m.sought)
	err := intake.SeekBack(ctx, m.cfg.Cluster, span, func(r *kafka.Record) (bool, error) { return m.take(ctx, r) })
	if err != nil {
		return fmt.Errorf("looking for the marker of progress: %w", err)
	}
	return nil
}

// take looks at a record and reports whether it is a marker that counts.
func (m *markers) take(ctx context.Context, r *kafka.Record) (bool, error) {
	if string(r.Key) != schemas.ProgressKey {
		return false, nil
	}
	kind, err := m.reader.Read(ctx, intake.Marker(r))
	if err != nil || kind != intake.Message {
		return false, err
	}
	p := m.reader.Message()
	switch {
	case int(p.Partition) != m.partition || !sound(p):
		return false, nil
	case different(p.ScoresTopicID, m.ids.scores):
		if m.other == nil || m.other.offset < r.Offset {
			m.other = &marker{*m.reader.Keep(), r.Offset}
		}
		return false, nil
	}
	// Whoever wrote it counted itself among the owners; who copies it does not.
	last := p.Writers[len(p.Writers)-1]
	if last.ProducerID != r.ProducerID || last.Since > r.Offset {
		return false, nil
	}
	m.last = &marker{*m.reader.Keep(), r.Offset}
	return true, nil
}

// sound reports whether what a marker says can be.
func sound(p *schemas.Progress) bool {
	if p.Since < 0 || p.Next < p.Since || len(p.Writers) == 0 {
		return false
	}
	for i, w := range p.Writers {
		if w.ProducerID < 0 || w.Since < 0 || i > 0 && w.Since < p.Writers[i-1].Since {
			return false
		}
	}
	return true
}
