package scorer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer/customers"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// ErrUnreadableState means that a score which a scorer has written cannot be
// read. Going on without it would lose what it holds for good, so its partition
// waits: the right registry cures a process that knows too few schemas.
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
// offset, of those the one that speaks of the latest moment, and of those the
// last.
type restorer struct {
	*site
	state *state
	// base is the watermark of the state it started from, −1 for none. A
	// score that rests on an event up to there can only be of a customer the
	// state has, or of one who has been erased.
	base int64
	// erased holds the source offsets of the erasures that were read.
	erased map[string]int64
	// superseded holds the customers whose valid record is followed by others
	// that no scorer should have written there. What comes of a snapshot, which
	// may know customers better than the log it goes back to, is settled by
	// what follows.
	superseded map[string]*foreignRecords

	ids     topicIDs
	markers *markers
	writers writers // who may have written what is read
	// traces are signs of progress outside of the output topic.
	traces []trace
	// unreadable are the keys under which an owner has written what cannot be
	// read, unless something valid follows.
	unreadable map[string]error
	// removed counts the customers who were erased after the last marker.
	removed int64
	// orphans are the keys under which only others have written.
	orphans map[string]struct{}

	scores   *intake.Reader[schemas.ChurnScore]
	read     int
	started  time.Time
	progress time.Time
	named    int // foreign records in the log
}

// foreignRecords are those after one customer's valid record.
type foreignRecords struct {
	count  int
	offset int64 // of the last
	reason string
}

func newRestorer(s *site, ids topicIDs) *restorer {
	now := s.cfg.Now()
	r := &restorer{
		site: s, ids: ids, markers: newMarkers(s, ids), unreadable: map[string]error{}, orphans: map[string]struct{}{}, base: -1, erased: map[string]int64{}, superseded: map[string]*foreignRecords{},
		started: now, progress: now,
	}
	r.scores = intake.NewReader(s.intake, intake.Topic[schemas.ChurnScore]{
		Decode: s.cfg.Codec.DecodeScore, New: s.cfg.Codec.NewScore, Poison: r.poison,
	})
	return r
}

// restored is what a restore ends with.
type restored struct {
	state *state
	from  string
	// repairs are the ids of customers who need their valid record written
	// again.
	repairs [][]byte
	// foreign is how many foreign records were found.
	foreign int
}

// restore brings a state up to the marker, from the state in memory or on disk
// if one of these fits the log, else from the log's start. When it fails, the
// state so far is in r.state; it may be nil.
func (r *restorer) restore(ctx context.Context, marker int64) (restored, error) {
	from, err := r.start(ctx, marker)
	if err != nil {
		return restored{}, err
	}
	if err := r.markers.seek(ctx, r.state.reflected, marker); err != nil {
		return restored{}, err
	}
	r.follow(r.markers.last)
	r.base = r.state.complete
	if err := r.run(ctx, marker); err != nil {
		return restored{}, err
	}
	for _, err := range r.unreadable {
		return restored{}, err
	}
	r.state.depart(r.partition)
	if err := r.whole(); err != nil {
		return restored{}, err
	}
	r.gauges.orphans.Set(float64(len(r.orphans)))
	if n := len(r.orphans); n > 0 {
		r.log.Error("customers of whom the output topic holds only what its owners have not written: they are made up, or compaction has removed their scores",
			"topic", schemas.TopicScores, "customers", n)
	}
	out := restored{state: r.state, from: from}
	for id, f := range r.superseded {
		for range f.count {
			r.foreignRecord(&r.named, f.offset, f.reason)
		}
		out.repairs = append(out.repairs, []byte(id))
	}
	out.foreign = r.named
	return out, nil
}

// follow has the state go on from the last marker in the log.
func (r *restorer) follow(m *marker) {
	p := &r.state.progress
	switch {
	case m == nil:
	case m.Since == p.Since && m.Next < p.Next && len(p.Writers) > 0 && p.Writers[0] == m.Writers[0]:
		// The state is further than the marker of the same account.
		p.Writers = m.Writers
	default:
		if m.Next < p.Next {
			r.state.ahead = nil
		}
		maps.DeleteFunc(r.state.ahead, func(offset int64, _ struct{}) bool { return offset < m.Next })
		*p = m.Progress
	}
	r.writers = p.Writers
	if r.state.ahead == nil {
		r.state.ahead = map[int64]struct{}{}
	}
}

// empty reports whether nothing was restored: no marker, no customer, none who
// was erased.
func (r *restorer) empty() bool {
	return r.state.watermark < 0 && r.state.customers.Len() == 0 && len(r.state.progress.Writers) == 0
}

// whole refuses a state that has fewer customers than the last marker says, less
// those who were erased since and those whose scores others have superseded.
func (r *restorer) whole() error {
	m := r.markers.last
	if m == nil {
		return nil
	}
	got := int64(r.state.customers.Len())
	lost := m.Customers - r.removed - got
	if lost <= int64(len(r.orphans)) {
		return nil
	}
	return &refusal{reason: reasonStatesLost, why: fmt.Sprintf(
		"%s/%d has lost states: the marker at offset %d speaks of %d customers, and %d are there. Look at cleanup.policy, retention and who deletes records; bring the scores back, or go on without the states that are gone: %s",
		schemas.TopicScores, r.partition, m.offset, m.Customers, got, r.acceptAdvice("next"))}
}

// start sets the state to start from.
func (r *restorer) start(ctx context.Context, marker int64) (from string, err error) {
	first, _, err := r.cfg.Cluster.Offsets(ctx, schemas.TopicScores, r.partition)
	if err != nil {
		return "", fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicScores, err)
	}
	if s := r.lost.take(r.partition); s != nil {
		switch err := r.fits(ctx, s, first, marker); {
		case err == nil:
			r.state = s
			return fromMemory, nil
		case errors.Is(err, customers.ErrRefused):
			r.log.Info("the state kept in memory is of no use", "reason", err)
			r.trace("the state in memory", &s.progress)
			if different(s.progress.ScoresTopicID, r.ids.scores) {
				r.lost.keep(r.partition, s) // for as long as this is not decided
			}
		default:
			r.lost.keep(r.partition, s)
			return "", err
		}
	}
	if r.cfg.StateDir != "" {
		s, err := r.loadSnapshot(ctx, first, marker)
		switch {
		case err == nil:
			r.state = s
			return fromSnapshot, nil
		case errors.Is(err, fs.ErrNotExist):
			r.log.Info("no snapshot of the state; reading all of the topic", "topic", schemas.TopicScores)
		case errors.Is(err, customers.ErrRefused):
			r.metrics.refusedSnapshots.Inc()
			r.logAt(schemas.TopicScores).Warn("not using the snapshot of the state; reading all of the topic instead",
				"snapshot", r.snapshotPath(), "reason", err)
		default:
			return "", err
		}
	}
	r.state = newState(r.cfg.Codec.Set().Vocabulary())
	r.state.reflected = first
	return fromTopic, nil
}

// fits checks that a state is of this log and that nothing it lacks can have
// left the log. Reasons to refuse it match customers.ErrRefused.
func (r *restorer) fits(ctx context.Context, s *state, first, end int64) error {
	switch age := r.cfg.Now().Sub(s.asOf); {
	case different(s.progress.ScoresTopicID, r.ids.scores):
		return customers.Refuse("it is of the topic with the id %s; the one of today is %s", s.progress.ScoresTopicID, r.ids.scores)
	case s.reflected < first:
		return customers.Refuse("it reflects the topic up to offset %d, which now starts at %d", s.reflected, first)
	case s.reflected > end:
		return customers.Refuse("it reflects the topic up to offset %d, which ends at %d", s.reflected, end)
	case age > r.cfg.SnapshotMaxAge:
		return customers.Refuse("it is %s old; erasures of customers may have left the topic since", age.Round(time.Second))
	}
	for i := len(s.landmarks) - 1; i >= 0; i-- {
		l := s.landmarks[i]
		if l.Offset < first || l.Offset >= s.reflected {
			return customers.Refuse("it refers to offset %d, which it cannot know", l.Offset)
		}
		f := r.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
			Topic: schemas.TopicScores, Partition: r.partition, Offset: l.Offset, MaxBytes: 4 << 10,
		})
		records, err := f.Fetch(ctx)
		if err != nil {
			return fmt.Errorf("fetching from %s: %w", schemas.TopicScores, err)
		}
		found := len(records) > 0 && records[0].Offset == l.Offset
		same := found && recordHash(&records[0]) == l.Hash
		f.Close()
		if !found {
			continue // compacted away
		}
		if !same {
			return customers.Refuse("it is of another topic: the record at offset %d differs", l.Offset)
		}
		return nil
	}
	return customers.Refuse("no record is left by which the topic could be known again")
}

// trace notes what a state of before says.
func (r *restorer) trace(where string, p *schemas.Progress) {
	r.traces = append(r.traces, trace{where, p.ScoresTopicID, p.Next})
}

// loadSnapshot reads the partition's snapshot. The error matches
// fs.ErrNotExist, or customers.ErrRefused when it is of no use.
func (r *restorer) loadSnapshot(ctx context.Context, first, end int64) (*state, error) {
	file, err := os.Open(r.snapshotPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, customers.Refuse("opening it: %w", err)
	}
	defer file.Close()
	in, err := customers.OpenSnapshot(file)
	if err != nil {
		return nil, err
	}
	h := in.Header()
	vocabulary := r.cfg.Codec.Set().Vocabulary()
	switch {
	case h.Fingerprint != vocabulary.Spec().Fingerprint():
		return nil, customers.Refuse("it is of another feature specification")
	case h.Topic != schemas.TopicScores || h.Partition != r.partition:
		return nil, customers.Refuse("it is of %s/%d", h.Topic, h.Partition)
	}
	s := &state{watermark: h.Watermark, complete: h.Watermark, reflected: h.Reflected, landmarks: h.Landmarks, asOf: h.Written, progress: h.Progress}
	r.trace("the snapshot "+r.snapshotPath(), &h.Progress)
	if err := r.fits(ctx, s, first, end); err != nil {
		return nil, err
	}
	s.customers, err = in.Table(vocabulary)
	return s, err
}

// run reads from where the state ends to the marker.
func (r *restorer) run(ctx context.Context, marker int64) error {
	span := kafka.Span{Topic: schemas.TopicScores, Partition: r.partition, Start: r.state.reflected, End: marker}
	r.gauges.restoring.Set(float64(marker - span.Start))
	err := r.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, next int64) error {
		for i := range records {
			r.state.dirty = true
			if err := r.take(ctx, &records[i]); err != nil {
				return err
			}
		}
		r.metrics.restoreReads.Add(float64(len(records)))
		if n := len(records); n > 0 {
			r.state.remember(records[n-1].Offset, &records[n-1])
			if t := records[n-1].Time; t.After(r.state.asOf) {
				r.state.asOf = t
			}
		}
		r.state.reflected = next
		// What was read until ctx ends need not be read again, unless there is
		// something to put right.
		r.state.dirty = len(r.superseded) > 0
		r.gauges.restoring.Set(float64(marker - next))
		if now := r.cfg.Now(); now.Sub(r.progress) >= progressInterval {
			r.progress = now
			r.log.Info("restoring the state", "records", r.read, "remaining", marker-next,
				"customers", r.state.customers.Len(), "after", now.Sub(r.started).Round(time.Second))
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.state.complete = r.state.watermark
	r.state.dirty = false
	r.gauges.restoring.Set(0)
	return nil
}

// take takes one record of the output partition into the state.
func (r *restorer) take(ctx context.Context, record *kafka.Record) error {
	r.read++
	if len(record.Key) == 0 {
		return nil
	}
	own, known := r.writers.wrote(record)
	if known && !own {
		r.stranger(record)
		return nil
	}
	kind, err := r.scores.Read(ctx, record)
	if err != nil || kind == intake.Nothing {
		return err
	}
	if kind == intake.Tombstone {
		offset, ok := sourceOffset(record)
		if !ok || !known && len(r.writers) > 0 && offset >= r.state.progress.Since {
			r.foreign(record, "a tombstone that no scorer has written", r.knows(record.Key))
			return nil
		}
		r.erasure(record, offset)
		return nil
	}
	s := r.scores.Message()
	problem := ""
	switch {
	case !bytes.Equal(s.CustomerID, record.Key):
		problem = "a score under another customer's key"
	case !known && len(r.writers) > 0 && int(s.SourcePartition) == r.partition && s.SourceOffset >= r.state.progress.Since:
		problem = fmt.Sprintf("a score of the event at offset %d from before anybody counted it", s.SourceOffset)
	case int(s.SourcePartition) != r.partition && !own && (known || !r.movedHere(record.Key, s.SourcePartition)) || s.SourceOffset < 0:
		problem = fmt.Sprintf("a score of an event in partition %d at offset %d", s.SourcePartition, s.SourceOffset)
	}
	if problem != "" {
		// An unknown customer is left alone: the records of a newer scorer,
		// say, must not be deleted because this one cannot read them.
		r.foreign(record, problem, r.knows(record.Key))
		return nil
	}
	if r.stale(s) {
		r.foreign(record, "a score of an older event or moment after a newer one", true)
		return nil
	}
	r.state.customers.Put(s)
	r.settled(s.CustomerID)
	if int(s.SourcePartition) != r.partition {
		return nil
	}
	r.state.watermark = max(r.state.watermark, s.SourceOffset)
	if len(r.writers) > 0 && s.SourceOffset >= r.state.progress.Next {
		r.state.ahead[s.SourceOffset] = struct{}{}
	}
	return nil
}

// movedHere reports whether a customer may have moved here from a partition.
func (r *restorer) movedHere(key []byte, from int32) bool {
	h := homesOf(&r.state.progress)
	return h.is(r.partition, key) && h.was(int(from), key)
}

// stranger takes a record that is known not to be an owner's.
func (r *restorer) stranger(record *kafka.Record) {
	const problem = "its producer is none of the scorers that have owned the partition"
	if schemas.IsReservedKey(record.Key) {
		if string(record.Key) == schemas.ProgressKey {
			r.foreign(record, problem, false) // a marker follows this restore
		}
		return
	}
	// A state that was complete once knows who is none of its customers.
	knows := r.knows(record.Key) || r.base >= 0
	r.foreign(record, problem, knows)
	if !knows && len(r.orphans) < maxOrphans {
		r.orphans[string(record.Key)] = struct{}{}
	}
}

// maxOrphans bounds the keys that are remembered since others wrote under them.
const maxOrphans = 100_000

// poison is the policy for a record that cannot be decoded. Unless something
// valid follows one that is this partition's own, it ends the restore: going on
// without it would lose it.
func (r *restorer) poison(_ context.Context, record *kafka.Record, why *schemas.PoisonError) error {
	own, _ := r.writers.wrote(record)
	if offset, ok := sourceOffset(record); ok && (own || sourcePartition(record) == r.partition) {
		r.unreadable[string(record.Key)] = fmt.Errorf("%w: at offset %d, the score of the event at offset %d: %v", ErrUnreadableState, record.Offset, offset, why)
		return nil
	}
	r.foreign(record, why.Error(), r.knows(record.Key))
	return nil
}

// stale reports whether a score rests on an older event than what is known of
// its customer, or on the same event and speaks of an earlier moment.
func (r *restorer) stale(s *schemas.ChurnScore) bool {
	if known := r.state.customers.Get(s.CustomerID); known != nil {
		partition, offset := known.Source()
		if s.SourcePartition != partition { // the customer has moved
			return s.AsOf < known.AsOf()
		}
		return s.SourceOffset < offset || s.SourceOffset == offset && s.AsOf < known.AsOf()
	}
	if int(s.SourcePartition) != r.partition {
		return false
	}
	if len(r.erased) > 0 {
		if at, ok := r.erased[string(s.CustomerID)]; ok {
			return s.SourceOffset < at
		}
	}
	return s.SourceOffset <= r.base
}

func (r *restorer) erasure(record *kafka.Record, offset int64) {
	if known := r.state.customers.Get(record.Key); known != nil {
		if partition, at := known.Source(); int(partition) == r.partition && at > offset {
			r.foreign(record, "an erasure that is older than the score before it", true)
			return
		}
	}
	if m := r.markers.last; m != nil && record.Offset > m.offset {
		r.removed++
	}
	r.state.customers.Remove(record.Key)
	r.state.watermark = max(r.state.watermark, offset)
	r.erased[string(record.Key)] = max(r.erased[string(record.Key)], offset)
	r.settled(record.Key)
}

// settled notes that a customer's valid record is the last one again.
func (r *restorer) settled(id []byte) {
	if len(r.superseded) > 0 {
		delete(r.superseded, string(id))
	}
	if len(r.unreadable) > 0 {
		delete(r.unreadable, string(id))
	}
	if len(r.orphans) > 0 {
		delete(r.orphans, string(id))
	}
}

// foreign notes a record that its owner has not written; repair says whether
// the customer's valid record has to be written once more after it.
func (r *restorer) foreign(record *kafka.Record, problem string, repair bool) {
	if !repair {
		r.foreignRecord(&r.named, record.Offset, problem)
		return
	}
	f := r.superseded[string(record.Key)]
	if f == nil {
		f = &foreignRecords{}
		r.superseded[string(record.Key)] = f
	}
	f.count++
	f.offset, f.reason = record.Offset, problem
}

// knows reports whether it is known which record of a customer is valid.
func (r *restorer) knows(id []byte) bool {
	_, erased := r.erased[string(id)]
	return erased || r.state.customers.Get(id) != nil
}

func sourceOffset(r *kafka.Record) (int64, bool) { return headerNumber(r, schemas.HeaderSourceOffset) }

// sourcePartition returns −1 if the headers do not say.
func sourcePartition(r *kafka.Record) int {
	if n, ok := headerNumber(r, schemas.HeaderSourcePartition); ok {
		return int(n)
	}
	return -1
}

// headerNumber is Record.HeaderNumber, but that it takes −1, the position of a
// tombstone that repairs a partition before its first event.
func headerNumber(r *kafka.Record, name string) (int64, bool) {
	n, err := strconv.ParseInt(string(r.Header(name)), 10, 64)
	return n, err == nil
}
