package scorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// ErrUnreadableState means that a score which a scorer has written cannot be
// read. Going on without it would lose what it holds for good: a restart cures a
// process that knows too many levels, the right registry one that knows too few
// schemas.
var ErrUnreadableState = errors.New("the state in " + schemas.TopicScores + " cannot be read; is this the registry it was written with?")

// Where a state was restored from; values of a metric label.
const (
	fromTopic    = "topic"
	fromSnapshot = "snapshot"
	fromMemory   = "memory"
)

// progressInterval is the time between two lines in the log about a restore.
const progressInterval = 10 * time.Second

// restorer brings a state up to a marker by reading the output partition. It
// trusts, of all records of a customer, the one with the highest source
// offset, wherever it stands.
type restorer struct {
	p *partition
	// base is the watermark of the state it started from, −1 for none. A
	// score that rests on an event up to there can only be of a customer the
	// state has, or of one who has been erased.
	base int64
	// erased holds the source offsets of the erasures that were read.
	erased map[string]int64
	// behind holds the customers behind whose true record others stand that no
	// scorer should have written there. What comes of a snapshot, which may
	// know customers better than the log it goes back to, is settled by what
	// follows.
	behind map[string]*foreignRecords

	score    *schemas.ChurnScore
	packed   []byte
	read     int
	started  time.Time
	progress time.Time
}

// foreignRecords are those behind one customer's true record.
type foreignRecords struct {
	count   int
	offset  int64 // of the last
	problem string
}

// restore brings p.state up to the marker, from the state in memory or on disk
// if one of these fits the log, else from the log's start. It leaves the
// customers who need their true record written again in p.repairs.
func (p *partition) restore(ctx context.Context, marker int64) (from string, err error) {
	first, _, err := p.scorer.cfg.Cluster.Offsets(ctx, schemas.TopicScores, p.number)
	if err != nil {
		return "", fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	p.state, from = nil, fromTopic
	if s := p.scorer.lost.take(p.number); s != nil {
		switch err := p.fits(ctx, s, first, marker); {
		case err == nil:
			p.state, from = s, fromMemory
		case errors.Is(err, errSnapshot):
			p.log.Info("the state kept in memory is of no use", "reason", err)
		default:
			p.scorer.lost.keep(p.number, s)
			return "", err
		}
	}
	if p.state == nil && p.scorer.cfg.StateDir != "" {
		s, err := p.loadSnapshot(ctx, first, marker)
		switch {
		case err == nil:
			p.state, from = s, fromSnapshot
		case errors.Is(err, fs.ErrNotExist):
			p.log.Info("no snapshot of the state; reading all of the topic", "topic", schemas.TopicScores)
		case errors.Is(err, errSnapshot):
			p.scorer.metrics.refusedSnapshots.Inc()
			p.log.Warn("not using the snapshot of the state; reading all of the topic instead",
				"topic", schemas.TopicScores, "snapshot", p.snapshotPath(), "reason", err)
		default:
			return "", err
		}
	}
	if p.state == nil {
		p.state = newState(p.scorer.packing)
		p.state.reflected = first
	}
	r := newRestorer(p)
	if err := r.run(ctx, marker); err != nil {
		return "", err
	}
	for id, f := range r.behind {
		for range f.count {
			p.foreignRecord(f.offset, f.problem)
		}
		p.repairs = append(p.repairs, []byte(id))
	}
	return from, nil
}

// fits checks that a state is of this log and that nothing it lacks can have
// left the log. Reasons to refuse it match errSnapshot.
func (p *partition) fits(ctx context.Context, s *state, first, end int64) error {
	switch age := p.scorer.cfg.Now().Sub(s.asOf); {
	case s.reflected < first:
		return refuse("it reflects the topic up to offset %d, which now starts at %d", s.reflected, first)
	case s.reflected > end:
		return refuse("it reflects the topic up to offset %d, which ends at %d", s.reflected, end)
	case age > p.scorer.cfg.SnapshotMaxAge:
		return refuse("it is %s old; erasures of customers may have left the topic since", age.Round(time.Second))
	}
	for i := len(s.landmarks) - 1; i >= 0; i-- {
		l := s.landmarks[i]
		if l.offset < first || l.offset >= s.reflected {
			return refuse("it refers to offset %d, which it cannot know", l.offset)
		}
		f := p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
			Topic: schemas.TopicScores, Partition: p.number, Offset: l.offset, MaxBytes: 4 << 10,
		})
		records, err := f.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicScores, err)
		}
		if len(records) == 0 || records[0].Offset != l.offset {
			continue // compacted away
		}
		if recordHash(&records[0]) != l.hash {
			return refuse("it is of another topic: the record at offset %d differs", l.offset)
		}
		return nil
	}
	return refuse("no record is left by which the topic could be known again")
}

func (p *partition) snapshotPath() string {
	return snapshotPath(p.scorer.cfg.StateDir, p.scorer.cfg.Group, p.number)
}

// loadSnapshot reads the partition's snapshot. The error matches
// fs.ErrNotExist, or errSnapshot when it is of no use.
func (p *partition) loadSnapshot(ctx context.Context, first, end int64) (*state, error) {
	file, err := os.Open(p.snapshotPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, refuse("opening it: %w", err)
	}
	defer file.Close()
	r, err := openSnapshot(file)
	if err != nil {
		return nil, err
	}
	h := &r.header
	vocabulary := p.scorer.cfg.Codec.Set().Vocabulary()
	switch {
	case h.fingerprint != vocabulary.Spec().Fingerprint():
		return nil, refuse("it is of another feature specification")
	case h.topic != schemas.TopicScores || h.partition != p.number:
		return nil, refuse("it is of %s/%d", h.topic, h.partition)
	}
	s := &state{watermark: h.watermark, complete: h.watermark, reflected: h.reflected, landmarks: h.landmarks, asOf: h.written}
	if err := p.fits(ctx, s, first, end); err != nil {
		return nil, err
	}
	s.customers, err = r.customers(p.scorer.packing, vocabulary)
	return s, err
}

func newRestorer(p *partition) *restorer {
	now := p.scorer.cfg.Now()
	return &restorer{
		p: p, base: p.state.complete,
		erased: map[string]int64{}, behind: map[string]*foreignRecords{},
		score:   p.scorer.cfg.Codec.NewScore(),
		started: now, progress: now,
	}
}

// run reads from where the state ends to the marker.
func (r *restorer) run(ctx context.Context, marker int64) error {
	p := r.p
	out := p.scorer.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicScores, Partition: p.number, Offset: p.state.reflected,
	})
	for out.Offset() < marker {
		p.gauges.restoring.Set(float64(marker - out.Offset()))
		if now := p.scorer.cfg.Now(); now.Sub(r.progress) >= progressInterval {
			r.progress = now
			p.log.Info("restoring the state", "records", r.read, "remaining", marker-out.Offset(),
				"customers", p.state.customers.len(), "after", now.Sub(r.started).Round(time.Second))
		}
		records, err := out.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicScores, err)
		}
		for i := range records {
			if records[i].Offset >= marker {
				break
			}
			p.dirty = true
			if err := r.take(ctx, &records[i]); err != nil {
				return err
			}
		}
		p.scorer.metrics.restoreReads.Add(float64(len(records)))
		if n := len(records); n > 0 && records[n-1].Offset < marker {
			p.state.remember(records[n-1].Offset, &records[n-1])
			if t := records[n-1].Time; t.After(p.state.asOf) {
				p.state.asOf = t
			}
		}
		p.state.reflected = min(out.Offset(), marker)
		// What was read until ctx ends need not be read again, unless there is
		// something to put right.
		p.dirty = len(r.behind) > 0
	}
	p.state.complete = p.state.watermark
	p.dirty = false
	p.gauges.restoring.Set(0)
	return nil
}

// take takes one record of the output partition into the state.
func (r *restorer) take(ctx context.Context, record *kafka.Record) error {
	r.read++
	if len(record.Key) == 0 || isMarker(record.Key) {
		return nil
	}
	if record.Value == nil {
		offset, ok := sourceOffset(record.Headers)
		if !ok {
			r.foreign(record, "a tombstone that no scorer has written", r.knows(record.Key))
			return nil
		}
		r.erasure(record, offset)
		return nil
	}
	problem, err := r.decode(ctx, record.Value)
	if err != nil {
		return err
	}
	if offset, ok := sourceOffset(record.Headers); problem != "" && ok && sourcePartition(record.Headers) == r.p.number {
		return fmt.Errorf("%w: the score of the event at offset %d, at offset %d of %s/%d: %s",
			ErrUnreadableState, offset, record.Offset, schemas.TopicScores, r.p.number, problem)
	}
	s := r.score
	switch {
	case problem != "":
	case !bytes.Equal(s.CustomerID, record.Key):
		problem = "a score under another customer's key"
	case int(s.SourcePartition) != r.p.number || s.SourceOffset < 0:
		problem = fmt.Sprintf("a score of an event in partition %d at offset %d", s.SourcePartition, s.SourceOffset)
	}
	if problem != "" {
		// An unknown customer is left alone: the records of a newer scorer,
		// say, must not be deleted because this one cannot read them.
		r.foreign(record, problem, r.knows(record.Key))
		return nil
	}
	if r.stale(s) {
		r.foreign(record, "a score of an older event behind what is newer", true)
		return nil
	}
	r.packed = r.p.scorer.packing.append(r.packed[:0], s)
	r.p.state.customers.put(r.packed)
	r.p.state.watermark = max(r.p.state.watermark, s.SourceOffset)
	r.settled(s.CustomerID)
	return nil
}

// decode reads a score into r.score, waiting for the registry if it must. It
// returns what is wrong with the bytes, or an error when ctx ended.
func (r *restorer) decode(ctx context.Context, value []byte) (problem string, err error) {
	codec := r.p.scorer.cfg.Codec
	if err = codec.DecodeScore(ctx, value, r.score); err == nil {
		return "", nil
	}
	if _, poison := schemas.AsPoison(err); !poison {
		err = kafka.Retry(ctx, r.p.log, "decoding a score", func(ctx context.Context) error {
			err := codec.DecodeScore(ctx, value, r.score)
			if _, poison := schemas.AsPoison(err); poison {
				return kafka.Permanent(err)
			}
			return err
		})
	}
	if _, poison := schemas.AsPoison(err); poison {
		return err.Error(), nil
	}
	return "", err
}

// stale reports whether a score rests on an older event than what is known of
// its customer.
func (r *restorer) stale(s *schemas.ChurnScore) bool {
	if known := r.p.state.customers.get(s.CustomerID); known != nil {
		return s.SourceOffset < packedOffset(known)
	}
	if len(r.erased) > 0 {
		if at, ok := r.erased[string(s.CustomerID)]; ok {
			return s.SourceOffset < at
		}
	}
	return s.SourceOffset <= r.base
}

func (r *restorer) erasure(record *kafka.Record, offset int64) {
	if known := r.p.state.customers.get(record.Key); known != nil && packedOffset(known) > offset {
		r.foreign(record, "an erasure that is older than the score before it", true)
		return
	}
	r.p.state.customers.remove(record.Key)
	r.p.state.watermark = max(r.p.state.watermark, offset)
	r.erased[string(record.Key)] = max(r.erased[string(record.Key)], offset)
	r.settled(record.Key)
}

// settled notes that a customer's true record is the last one again.
func (r *restorer) settled(id []byte) {
	if len(r.behind) > 0 {
		delete(r.behind, string(id))
	}
}

// foreign notes a record that its owner has not written; repair says whether
// the customer's true record has to be written behind it.
func (r *restorer) foreign(record *kafka.Record, problem string, repair bool) {
	if !repair {
		r.p.foreignRecord(record.Offset, problem)
		return
	}
	f := r.behind[string(record.Key)]
	if f == nil {
		f = &foreignRecords{}
		r.behind[string(record.Key)] = f
	}
	f.count++
	f.offset, f.problem = record.Offset, problem
}

// knows reports whether it is known what is true of a customer.
func (r *restorer) knows(id []byte) bool {
	_, erased := r.erased[string(id)]
	return erased || r.p.state.customers.get(id) != nil
}

func isMarker(key []byte) bool { return len(key) > 0 && key[0] == 0 }

func sourceOffset(headers []kafka.Header) (int64, bool) {
	return headerNumber(headers, schemas.HeaderSourceOffset)
}

// sourcePartition returns −1 if the headers do not tell.
func sourcePartition(headers []kafka.Header) int {
	if n, ok := headerNumber(headers, schemas.HeaderSourcePartition); ok {
		return int(n)
	}
	return -1
}

func headerNumber(headers []kafka.Header, name string) (int64, bool) {
	for _, h := range headers {
		if h.Key == name {
			n, err := strconv.ParseInt(string(h.Value), 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
