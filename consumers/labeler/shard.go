package labeler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/deadletters"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/ownership"
	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

const (
	// maxRecordBytes bounds the examples of a customer in the topic.
	maxRecordBytes = 256 << 10
	// flushBytes is how much is made of a batch before it is written: with one more
	// customer and a marker it is a single record batch, which the broker takes as a
	// whole or not at all. Where batches may be less, it is half of one, and the
	// examples of a customer a quarter.
	flushBytes = 512 << 10
	// leastBatch is the least that batches are tried with.
	leastBatch = 4 << 10
	// sweepCustomers are looked at together for old scores.
	sweepCustomers = 1000
	// erasuresKept is for how long it is known that a customer was erased. Outcomes
	// from before that come later than this, redriven, would count again.
	erasuresKept = 90 * 24 * time.Hour
	// maxWriters bounds the owners that a marker lists.
	maxWriters = 100
	// identityInterval is the time between two looks at the ids of the topics.
	identityInterval = 2 * time.Second
)

// Why a partition is refused; values of a metric label.
const (
	// reasonPartitions: churn.examples has not as many partitions as when customers
	// were distributed over them.
	reasonPartitions = "partitions"
	// reasonOtherGroup: another group labels into the topic.
	reasonOtherGroup = "other_group"
	// reasonTopicMissing: a topic does not exist.
	reasonTopicMissing = "topic_missing"
	// reasonDisk: the state cannot be written to disk, or read from it.
	reasonDisk = "disk"
	// reasonTooLarge: a batch of the least that may be flushed is more than the topic
	// takes, or the producer sends.
	reasonTooLarge = "too_large"
	// reasonHorizon: the examples that there are answer another question.
	reasonHorizon = "horizon"
)

var refusals = [...]string{reasonPartitions, reasonOtherGroup, reasonTopicMissing, reasonDisk, reasonTooLarge, reasonHorizon}

// refusal is why a shard is not worked on until somebody has mended it.
type refusal struct{ reason, why string }

func (r *refusal) Error() string { return r.why }

// work owns a shard until ctx ends. When ownership is lost, or the state on disk,
// it starts over, which is right whatever has happened: the state is in the topic.
func (l *Labeler) work(ctx context.Context, claim *kafka.Claim) error {
	t := &trouble{}
	defer t.over()
	defer l.positions.drop(claim.Partition)
	for {
		s := l.newShard(claim, t)
		l.note(func() { l.starting[s.partition] = true })
		err := s.run(ctx)
		s.leave(ctx, err)
		var refused *refusal
		switch {
		case ctx.Err() != nil:
			l.metrics.forget(s.partition)
			l.note(func() {
				delete(l.starting, s.partition)
				delete(l.refused, s.partition)
				delete(l.again, s.partition)
			})
			return nil
		case errors.As(err, &refused):
			if !l.refuse(ctx, s, refused) {
				return nil
			}
		case errors.Is(err, errDisk):
			if !l.refuse(ctx, s, &refusal{reasonDisk, err.Error()}) {
				return nil
			}
		case errors.Is(err, kafka.ErrTooLarge):
			if s.smaller() {
				s.log.Warn("starting over with smaller batches", "bytes", l.batchBytes.Load(), "reason", err)
			} else if !l.refuse(ctx, s, &refusal{reasonTooLarge, fmt.Sprintf(
				"%v. Raise max.message.bytes of %s and --kafka-batch-bytes; if many outcomes wait, lower --label-max-waiting", err, schemas.TopicExamples)}) {
				return nil
			}
		case errors.Is(err, kafka.ErrUnknownTopic):
			// It may be made anew.
			if !l.refuse(ctx, s, &refusal{reasonTopicMissing, err.Error()}) {
				return nil
			}
		case errors.Is(err, kafka.ErrFenced):
			// Another one took the partition, so a rebalance is under way and ends
			// ctx. Taking the partition back at once would only make the two fence
			// each other.
			l.metrics.refenced.Inc()
			s.log.Warn("another labeler owns this partition now; waiting for the group to say so")
			if !pause(ctx, l.fencedPause, "another labeler owns this partition, and the group has not said so yet") {
				return nil
			}
		case err == nil, errors.Is(err, errOtherTopics), errors.Is(err, errDamaged), errors.Is(err, errMoved):
			if errors.Is(err, errDamaged) {
				t.damaged = err.Error()
			}
			s.log.Warn("starting over with this partition", "reason", err)
			if !s.again(ctx, fmt.Sprint("starting over: ", err)) {
				return nil
			}
		case errors.Is(err, kafka.ErrOutOfSequence), errors.Is(err, ownership.ErrShortened):
			l.metrics.refenced.Inc()
			s.log.Warn("taking the partition anew", "reason", err)
			if !s.again(ctx, fmt.Sprint("taking the partition anew: ", err)) {
				return nil
			}
		default:
			return fmt.Errorf("labelling for partition %d: %w", claim.Partition, err)
		}
	}
}

// refuse waits a little before a shard is tried again that cannot be worked on, and
// says so. It reports false when ctx ended first.
func (l *Labeler) refuse(ctx context.Context, s *shard, r *refusal) bool {
	s.log.Error("not labelling for this partition", "reason", r.reason, "why", r.why)
	gauge := l.metrics.refused.WithLabelValues(strconv.Itoa(s.partition), r.reason)
	gauge.Set(1)
	l.note(func() { l.refused[s.partition] = r.why })
	defer func() {
		if ctx.Err() != nil {
			l.metrics.forget(s.partition)
		}
	}()
	s.trouble.begin(s.positions.watch(ctx), r.why)
	return retry.Sleep(ctx, s.pause)
}

// trouble is what keeps a partition from being worked on, from the first time until
// the shard has caught up.
type trouble struct {
	rounds  int
	end     func()
	damaged string // what is wrong with the state on disk, if that is to be built anew
}

// begin notes that the partition waits. Later calls change nothing: what begins anew
// each time is never seen to take long.
func (t *trouble) begin(ctx context.Context, why string) {
	if t.end == nil {
		t.end = retry.Begin(ctx, why)
	}
}

// over notes that the partition is worked on.
func (t *trouble) over() {
	if t.end != nil {
		t.end()
	}
	t.end, t.rounds = nil, 0
}

// longestPause is the longest time between two tries to work on a shard that does
// each time take its partition, which writes to it.
const longestPause = time.Minute

// again waits before a shard is worked on from the start, longer each time that it did
// not catch up in between. Once is nothing to worry about, and building a large state
// anew takes its time; what comes again counts as a wait. It reports false when ctx
// ended first.
func (s *shard) again(ctx context.Context, why string) bool {
	t := s.trouble
	pause := min(s.pause<<min(t.rounds, 20), max(s.pause, longestPause))
	if t.rounds++; t.rounds > 1 {
		t.begin(s.positions.watch(ctx), why)
	}
	s.note(func() { s.Labeler.again[s.partition] = why })
	return retry.Sleep(ctx, pause)
}

// pause waits, and says why meanwhile. It reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration, why string) bool {
	defer retry.Begin(ctx, why)()
	return retry.Sleep(ctx, d)
}

// shard works for the customers of a partition of the examples.
type shard struct {
	*Labeler
	partition int
	log       *slog.Logger
	claim     *kafka.Claim
	trouble   *trouble

	ids   topicIDs
	owner *ownership.Owner
	store *store
	join  *join
	feed  *feed

	scores   *intake.Reader[schemas.ChurnScore]
	outcomes *intake.Reader[schemas.ChurnOutcome]

	progress  schemas.LabelerProgress // as of the last marker
	sums      tally
	at        map[input]int64        // offsets to be read next
	pending   map[int]map[int64]bool // outcomes before them that are read once more, by partition
	repairs   map[string]bool        // customers whose valid record is followed by one of others
	reflected int64                  // offset after the last of the examples that is known
	changed   bool                   // what a marker says

	markedAt, flushedAt, committedAt, tidiedAt, lookedAt, sweptAt time.Time
	committed                                                     int64
	started                                                       bool
}

func (l *Labeler) newShard(claim *kafka.Claim, t *trouble) *shard {
	s := &shard{
		Labeler: l, partition: claim.Partition, claim: claim, trouble: t, log: l.log.With("partition", claim.Partition),
		at: map[input]int64{}, pending: map[int]map[int64]bool{}, sums: tally{}, committed: -1,
	}
	scores := intake.Scores(l.cfg.Codec, nil) // who wrote them is judged as they are read
	scores.Poison = l.intake.PassOver(func(_ string, reason schemas.Reason) { l.metrics.skipped.WithLabelValues(string(reason)).Inc() })
	s.scores = intake.NewReader(l.intake, scores)
	outcomes := intake.Outcomes(l.cfg.Codec)
	outcomes.Poison = l.letters.SetAside(s.log, func(_ string, reason schemas.Reason) { l.metrics.letters.WithLabelValues(string(reason)).Inc() })
	s.outcomes = intake.NewReader(l.intake, outcomes)
	return s
}

func (s *shard) run(ctx context.Context) error {
	ctx = s.positions.watch(ctx)
	if err := s.take(ctx); err != nil {
		return err
	}
	s.feed = s.reading.add(s.partition, s.from())
	defer s.reading.remove(s.feed)
	for {
		if err := s.stay(ctx); err != nil {
			return err
		}
		select {
		case c := <-s.feed.chunks:
			if err := s.handle(ctx, c); err != nil {
				return err
			}
		case <-time.After(time.Second):
		case <-s.feed.broken:
			return errMoved
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// leave hands the shard over, or ends it to begin anew because of err. What is on disk
// is at hand if it comes back.
func (s *shard) leave(ctx context.Context, err error) {
	if ctx.Err() != nil {
		s.positions.drop(s.partition)
	} else {
		s.positions.hold(ctx, s.partition, s.at)
	}
	for _, vec := range s.metrics.gauges() {
		vec.DeleteLabelValues(strconv.Itoa(s.partition))
	}
	if s.store == nil {
		return
	}
	if s.started && !s.killed.Load() {
		s.commit()
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if !s.killed.Load() && !errors.Is(err, errDamaged) {
			if err := s.store.flush(); err != nil {
				s.log.Warn("writing the state to disk", "error", err)
			}
		}
		s.store.close()
	}()
	select {
	case <-closed:
	case <-time.After(leaveGrace):
		// A disk that does not write must not keep the partition from others.
		s.log.Error("the state on disk is left as it is, since it cannot be written")
	}
}

// leaveGrace is how long a shard may take to write to disk when it is handed over.
const leaveGrace = 10 * time.Second

// take makes this shard the only writer of its partition of the examples, and then
// brings its state up to what is there.
func (s *shard) take(ctx context.Context) (err error) {
	defer retry.Begin(ctx, "reading "+schemas.TopicExamples)()
	began := s.cfg.Now()
	if s.ids, err = s.topicIDs(ctx, 0); err != nil {
		return err
	}
	n, err := s.cfg.Cluster.Partitions(ctx, schemas.TopicExamples)
	if err != nil {
		return fmt.Errorf("counting the partitions of %s: %w", schemas.TopicExamples, err)
	}
	if n != s.partitions {
		return s.grown(n, s.partitions)
	}
	// A group that labels already must not be fenced off.
	if err := s.checkGroup(ctx); err != nil {
		return err
	}
	// First, since taking the partition writes to it: not while that is in vain.
	var anew string
	s.store, anew, err = openStore(storeConfig{
		fs: s.fs, dir: storeDir(s.cfg.StateDir, s.partition), codec: s.cfg.Codec, log: s.log, cache: s.cache,
	}, meta{
		Format: storeFormat, Topics: s.ids, Features: s.cfg.Codec.Set().Spec().Fingerprint(),
		Partition: s.partition, Partitions: n, Interval: s.rules.interval, Retained: s.rules.horizon + s.rules.delay,
	}, s.cfg.Now().Add(-s.cfg.StateMaxAge).UnixMilli(), s.trouble.damaged)
	if err != nil {
		return err
	}
	s.trouble.damaged = ""
	if anew != "" {
		s.metrics.rebuilt.Inc()
		s.log.Info("building the state on disk anew", "dir", storeDir(s.cfg.StateDir, s.partition), "reason", anew)
	}
	var at int64
	s.owner, at, _, err = ownership.Take(ctx, ownership.Config{
		Cluster: s.cfg.Cluster, Topic: schemas.TopicExamples, Partition: s.partition,
		MarkerInterval: s.cfg.MarkerInterval, RenewInterval: s.cfg.RenewInterval, Now: s.cfg.Now,
	})
	if err != nil {
		return err
	}
	rules := s.rules
	rules.recordBytes = min(rules.recordBytes, s.maxBatch()/4)
	s.join = newJoin(rules, s.store)
	if err := s.restore(ctx, at); err != nil {
		return err
	}
	s.reflected = at + 1
	s.claim.Position.Advance(s.reflected)
	s.progress.Group, s.progress.Partition, s.progress.Partitions = s.cfg.Group, int32(s.partition), int32(n)
	s.progress.Horizon = s.rules.horizon
	s.progress.ExamplesTopicID, s.progress.OutcomesTopicID = s.ids.Examples, s.ids.Outcomes
	s.progress.Writers = withWriter(s.progress.Writers, s.owner.ProducerID(), at)
	s.changed, s.started = true, true
	if err := s.repair(ctx, s.repairs); err != nil {
		return err
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	s.note(func() { delete(s.refused, s.partition) })
	for _, reason := range refusals { // so that there are series to look at
		s.metrics.refused.WithLabelValues(strconv.Itoa(s.partition), reason).Set(0)
	}
	s.log.Info("labelling for a partition", "restored_to", at, "kept_scores", s.store.meta.Kept, "positions", fmt.Sprint(s.progress.Positions), "took", s.cfg.Now().Sub(began))
	return nil
}

// checkHorizon refuses to mix labels of another horizon with those of which the last
// marker of the partition is. Without one, others may tell.
func (s *shard) checkHorizon(ctx context.Context, p *schemas.LabelerProgress) error {
	for other := 0; p.Group == "" && other < s.partitions; other++ {
		first, end, err := s.cfg.Cluster.Offsets(ctx, schemas.TopicExamples, other)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicExamples, err)
		}
		_, q, err := s.lastMarker(ctx, other, first, end)
		if err != nil {
			return err
		}
		p = &q
	}
	accepted := p.Horizon == milliseconds(s.cfg.AcceptHorizon)
	if p.Group == "" || p.Horizon == 0 || p.Horizon == s.rules.horizon || accepted {
		return nil
	}
	before := time.Duration(p.Horizon) * time.Millisecond
	return &refusal{reasonHorizon, fmt.Sprintf(
		"the examples are labelled for leaving within %s, and this labeler is to label for %s: give it --horizon %[1]s, or, to go on with other labels than before, --label-accept-horizon %[1]s",
		before, time.Duration(s.rules.horizon)*time.Millisecond)}
}

// checkGroup refuses to label beside another group, and for another horizon.
func (s *shard) checkGroup(ctx context.Context) error {
	first, end, err := s.cfg.Cluster.Offsets(ctx, schemas.TopicExamples, s.partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicExamples, err)
	}
	_, p, err := s.lastMarker(ctx, s.partition, first, end)
	if err != nil {
		return err
	}
	if err := s.checkHorizon(ctx, &p); err != nil {
		return err
	}
	if p.Group == "" || p.Group == s.cfg.Group {
		return nil
	}
	members, err := s.cfg.Cluster.GroupMembers(ctx, p.Group)
	switch {
	case errors.Is(err, kafka.ErrNotAllowed):
		s.log.Warn("taking over from another group, of which this user may not see whether it has members", "before", p.Group)
		return nil
	case err != nil:
		return fmt.Errorf("looking at the group %s: %w", p.Group, err)
	case members > 0:
		return &refusal{reasonOtherGroup, fmt.Sprintf("%s is labelled by the group %s, which has %d members: one group at a time. Stop it, or give this one topics of its own",
			schemas.TopicExamples, p.Group, members)}
	}
	s.log.Warn("taking over from another group, which has no members", "before", p.Group)
	return nil
}

// lastMarker returns the last marker of progress in a partition of the examples from
// one offset up to before another, as it is there and decoded; nothing if there is none.
func (s *shard) lastMarker(ctx context.Context, partition int, first, end int64) (said []byte, p schemas.LabelerProgress, err error) {
	reader := intake.NewReader(s.intake, intake.Topic[schemas.LabelerProgress]{
		Decode: s.cfg.Codec.DecodeLabelerProgress, Reserved: true,
		Poison: func(context.Context, *kafka.Record, *schemas.PoisonError) error { return nil }, // nobody's
	})
	span := kafka.Span{Topic: schemas.TopicExamples, Partition: partition, Start: first, End: end}
	err = intake.SeekBack(ctx, s.cfg.Cluster, span, func(r *kafka.Record) (bool, error) {
		if string(r.Key) != schemas.ProgressKey {
			return false, nil
		}
		kind, err := reader.Read(ctx, intake.Marker(r))
		if err != nil || kind != intake.Message {
			return false, err
		}
		said, p = slices.Clone(r.Header(schemas.HeaderProgress)), *reader.Message()
		return true, nil
	})
	return said, p, err
}

func (s *shard) grown(now, before int) error {
	return &refusal{reasonPartitions, fmt.Sprintf(
		"%s has %d partitions, but customers are distributed over %d: their examples would be in two places. Give it its former number by making it anew, with labelers that are started after that: what outcomes there are is labelled again",
		schemas.TopicExamples, now, before)}
}

// withWriter returns the writers with one that owns the partition from an offset on.
func withWriter(w []schemas.Writer, producerID, since int64) []schemas.Writer {
	if n := len(w); n > 0 && w[n-1].ProducerID == producerID {
		return w
	}
	w = append(slices.Clone(w), schemas.Writer{ProducerID: producerID, Since: since})
	return w[max(0, len(w)-maxWriters):]
}

// restore brings the state on disk up to before the marker at an offset, and takes
// from the last marker of progress how far the outcomes are settled.
func (s *shard) restore(ctx context.Context, at int64) error {
	first, _, err := s.cfg.Cluster.Offsets(ctx, schemas.TopicExamples, s.partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicExamples, err)
	}
	if s.store.meta.Examples > at {
		s.log.Warn("the examples have become fewer; going back to what is left", "known_to", s.store.meta.Examples, "now_to", at)
		return fmt.Errorf("%w: it knows the examples up to offset %d, but they end at %d", errDamaged, s.store.meta.Examples, at)
	}
	from := max(first, s.store.meta.Examples)
	said, p, err := s.lastMarker(ctx, s.partition, from, at)
	if err != nil {
		return err
	}
	if said == nil && s.store.meta.Progress != nil {
		said = s.store.meta.Progress
		if p, err = s.decodeMarker(ctx, said); err != nil {
			return err
		}
	}
	if p.ExamplesTopicID != s.ids.Examples {
		p.Writers = nil // of a topic that this one was copied from
	}
	foreign := map[string]bool{}
	topic := intake.Examples(s.cfg.Codec)
	topic.Poison = func(ctx context.Context, r *kafka.Record, why *schemas.PoisonError) error {
		s.foreign(r.Offset, why.Error())
		if len(r.Key) > 0 && len(r.Key) <= schemas.MaxIDBytes {
			foreign[string(r.Key)] = true
		}
		return nil
	}
	reader := intake.NewReader(s.intake, topic)
	unwritten := 0
	span := kafka.Span{Topic: schemas.TopicExamples, Partition: s.partition, Start: from, End: at}
	err = s.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, next int64) error {
		for i := range records {
			r := &records[i]
			if own, known := intake.Wrote(p.Writers, r); known && !own && !schemas.IsReservedKey(r.Key) {
				s.foreign(r.Offset, "none of the owners of the partition has written it")
				if len(r.Key) > 0 && len(r.Key) <= schemas.MaxIDBytes {
					foreign[string(r.Key)] = true
				}
				continue
			}
			kind, err := reader.Read(ctx, r)
			if err != nil {
				return err
			}
			switch kind {
			case intake.Nothing:
				continue
			case intake.Tombstone:
				err = s.store.setRecord(customerOf(r.Key), nil)
				// One without a time only takes the place of a foreign record.
				if _, erased := r.HeaderNumber(deadletters.HeaderWrittenAt); err == nil && erased {
					err = s.store.forget(customerOf(r.Key), deadletters.WrittenAt(r).UnixMilli())
				}
			case intake.Message:
				err = s.store.setRecord(customerOf(r.Key), s.cfg.Codec.AppendExamples(nil, reader.Message()))
			}
			if err != nil {
				return err
			}
			delete(foreign, string(r.Key)) // what counts comes after it
			unwritten += len(r.Key) + len(r.Value)
		}
		if unwritten > 1<<20 {
			unwritten, s.store.meta.Examples, s.store.meta.Progress = 0, next, said
			return s.store.commit()
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.repairs = foreign
	s.store.meta.Examples, s.store.meta.Progress = at, said
	if err := s.store.commit(); err != nil {
		return err
	}
	return s.resume(ctx, p)
}

// decodeMarker decodes what a marker says.
func (s *shard) decodeMarker(ctx context.Context, said []byte) (p schemas.LabelerProgress, err error) {
	err = retry.Do(ctx, s.log, "decoding the marker of progress", func(ctx context.Context) error {
		err := s.cfg.Codec.DecodeLabelerProgress(ctx, said, &p)
		if why, poison := schemas.AsPoison(err); poison {
			return retry.Permanent(fmt.Errorf("%w: the marker of progress: %w", errDamaged, why))
		}
		return err
	})
	return p, err
}

// resume goes on where a marker says, if there is one.
func (s *shard) resume(ctx context.Context, p schemas.LabelerProgress) error {
	switch {
	case p.Partitions != 0 && int(p.Partitions) != s.partitions && p.ExamplesTopicID == s.ids.Examples:
		return s.grown(s.partitions, int(p.Partitions))
	case p.Partitions != 0 && p.OutcomesTopicID != s.ids.Outcomes:
		s.log.Warn("the topic of outcomes is another one than before; reading all of it", "before", p.OutcomesTopicID, "now", s.ids.Outcomes)
		p.Positions = nil
	}
	s.progress = p
	for _, sum := range p.Sums {
		s.sums[kind{sum.Result, sum.Churned}] = sum.Outcomes
	}
	for _, at := range p.Positions {
		in := input{schemas.TopicOutcomes, int(at.Partition)}
		_, end, err := s.cfg.Cluster.Offsets(ctx, in.topic, in.partition)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", in.topic, err)
		}
		if at.Next > end {
			s.log.Error("outcomes that were read are not there any more; going on from what is left",
				"topic", in.topic, "source_partition", in.partition, "read_to", at.Next, "end", end)
			at.Next = end
		}
		s.at[in] = at.Next
		for _, offset := range at.Waiting {
			if s.pending[in.partition] == nil {
				s.pending[in.partition] = map[int64]bool{}
			}
			s.pending[in.partition][offset] = true
		}
	}
	for partition, offset := range s.store.meta.Scores {
		in := input{schemas.TopicScores, partition}
		_, end, err := s.cfg.Cluster.Offsets(ctx, in.topic, in.partition)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", in.topic, err)
		}
		s.at[in] = min(offset, end)
	}
	return nil
}

// from returns from where on the topics are to be read for the shard.
func (s *shard) from() map[input]int64 {
	from := maps.Clone(s.at)
	for partition, offsets := range s.pending {
		for offset := range offsets {
			in := input{schemas.TopicOutcomes, partition}
			from[in] = min(from[in], offset)
		}
	}
	return from
}

// handle takes records in, and writes what has come of them.
func (s *shard) handle(ctx context.Context, c *chunk) error {
	for i := range c.records {
		r := &c.records[i]
		if err := s.record(ctx, r); err != nil {
			return err
		}
		if s.join.bytes >= min(flushBytes, s.maxBatch()/2) {
			if err := s.flush(ctx); err != nil {
				return err
			}
		}
	}
	if err := s.join.advance(c.time); err != nil {
		return err
	}
	for in, offset := range c.next {
		s.advance(in, offset)
	}
	if c.caughtUp && s.isStarting(s.partition) {
		s.log.Info("caught up", "kept_scores", s.store.meta.Kept, "waiting_outcomes", s.join.waits)
		if err := s.flush(ctx); err != nil {
			return err
		}
		s.trouble.over()
		s.note(func() { delete(s.starting, s.partition); delete(s.Labeler.again, s.partition) })
		return nil
	}
	return s.flush(ctx)
}

// isStarting reports whether a shard has not yet read what there is.
func (l *Labeler) isStarting(partition int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.starting[partition]
}

// advance notes that a topic has been read up to an offset.
func (s *shard) advance(in input, offset int64) {
	if offset <= s.at[in] {
		return
	}
	s.at[in] = offset
	if in.topic == schemas.TopicOutcomes {
		delete(s.pending, in.partition) // what has not come again is not there any more
	}
}

// record takes a record in, unless that was done before.
func (s *shard) record(ctx context.Context, r *record) error {
	again := r.Offset < s.at[r.input()]
	if again && !s.pending[r.Partition][r.Offset] || again && r.Topic != schemas.TopicOutcomes {
		return nil
	}
	if err := s.join.advance(r.at); err != nil {
		return err
	}
	var err error
	if r.Topic == schemas.TopicScores {
		err = s.takeScore(ctx, r)
	} else {
		err = s.takeOutcome(ctx, r)
	}
	if err != nil {
		return err
	}
	if again {
		delete(s.pending[r.Partition], r.Offset)
	} else {
		s.at[r.input()] = r.Offset + 1
	}
	return nil
}

func (s *shard) takeScore(ctx context.Context, r *record) error {
	kind, err := s.scores.Read(ctx, &r.Record)
	switch {
	case err != nil || kind == intake.Nothing:
		return err
	case kind == intake.Tombstone:
		s.metrics.erased.Inc()
		return s.join.erase(ctx, r.Key, deadletters.WrittenAt(&r.Record).UnixMilli())
	}
	return s.join.takeScore(ctx, s.scores.Message(), r.Time.UnixMilli())
}

func (s *shard) takeOutcome(ctx context.Context, r *record) error {
	s.changed = true
	written := deadletters.WrittenAt(&r.Record)
	kind, err := s.outcomes.Read(ctx, &r.Record)
	switch {
	case err != nil || kind == intake.Nothing:
		return err
	case kind == intake.Tombstone:
		s.metrics.erased.Inc()
		return s.join.erase(ctx, intake.CustomerID(s.cfg.Codec.Keys, &r.Record), written.UnixMilli())
	}
	s.metrics.lastOutcome.Set(float64(written.UnixMilli()) / 1000)
	return s.join.takeOutcome(ctx, s.outcomes.Message(), written.UnixMilli(), r.Partition, r.Offset)
}

// flush writes what has come of the records: the examples, with how far that is, in
// one append to the topic, and then to disk.
func (s *shard) flush(ctx context.Context) error {
	now := s.cfg.Now()
	j := s.join
	s.changed = s.changed || len(j.tally) > 0
	if len(j.changed) > 0 || s.changed || s.behind() && now.Sub(s.markedAt) >= s.cfg.ProgressInterval {
		if err := s.append(ctx, now); err != nil {
			return err
		}
	}
	s.store.meta.Examples = s.reflected
	s.store.meta.Scores = map[int]int64{}
	for in, offset := range s.at {
		if in.topic == schemas.TopicScores {
			s.store.meta.Scores[in.partition] = offset
		}
	}
	if err := s.commitStore(ctx); err != nil {
		return err
	}
	s.positions.set(s.partition, s.at)
	s.show()
	return nil
}

// behind reports whether the last marker does not say how far the outcomes are read.
func (s *shard) behind() bool {
	for _, at := range s.progress.Positions {
		if s.at[input{schemas.TopicOutcomes, int(at.Partition)}] != at.Next {
			return true
		}
	}
	return false
}

// append appends the examples that have changed, and a marker.
func (s *shard) append(ctx context.Context, now time.Time) error {
	j := s.join
	var records []kafka.Record
	for _, id := range j.changed {
		value, err := s.store.record(customerOf([]byte(id)))
		if err != nil {
			return err
		}
		if _, erased := j.erased[id]; erased || value == nil {
			records = append(records, s.tombstone(id, now))
		}
		if value != nil {
			records = append(records, kafka.Record{Key: []byte(id), Value: slices.Clone(value), Time: now})
		}
	}
	for k, n := range j.tally {
		s.sums[k] += n
	}
	s.progress.Positions, s.progress.Sums = nil, nil
	unsettled := j.unsettled()
	for in, offset := range s.at {
		if in.topic == schemas.TopicOutcomes {
			waiting := append(unsettled[in.partition], slices.Collect(maps.Keys(s.pending[in.partition]))...)
			slices.Sort(waiting)
			s.progress.Positions = append(s.progress.Positions, schemas.OutcomesPosition{Partition: int32(in.partition), Next: offset, Waiting: waiting})
		}
	}
	slices.SortFunc(s.progress.Positions, func(a, b schemas.OutcomesPosition) int { return int(a.Partition - b.Partition) })
	for k, n := range s.sums {
		s.progress.Sums = append(s.progress.Sums, schemas.OutcomeSum{Result: k.result, Churned: k.churned, Outcomes: n})
	}
	slices.SortFunc(s.progress.Sums, func(a, b schemas.OutcomeSum) int {
		if a.Result != b.Result {
			return strings.Compare(a.Result, b.Result)
		}
		return strings.Compare(labelOf(a.Churned), labelOf(b.Churned))
	})
	said := s.cfg.Codec.AppendLabelerProgress(nil, &s.progress)
	records = append(records, kafka.Record{
		Key: []byte(schemas.ProgressKey), Value: s.cfg.Codec.AppendExamples(nil, &schemas.CustomerExamples{}), Time: now,
		Headers: []kafka.Header{{Key: schemas.HeaderProgress, Value: said}},
	})
	if err := s.writeBy(ctx, s.owner.AppendBatch, records); err != nil {
		return err
	}
	s.store.meta.Progress = said
	s.metrics.settled(j.tally)
	for _, d := range j.delays {
		s.metrics.delay.Observe(max(0, float64(d)/1000))
	}
	j.flushed()
	s.changed, s.markedAt = false, now
	return nil
}

// tombstone returns the record by which a customer has no examples, with when the
// customer was erased: restore takes it from there.
func (s *shard) tombstone(id string, now time.Time) kafka.Record {
	r := kafka.Record{Key: []byte(id), Time: now}
	if at, erased := s.store.erasedAt(customerOf(r.Key)); erased {
		r.Headers = []kafka.Header{{Key: deadletters.HeaderWrittenAt, Value: strconv.AppendInt(nil, at, 10)}}
	}
	return r
}

// write appends records to the partition of the examples, and notices what others
// have written there.
func (s *shard) write(ctx context.Context, records []kafka.Record) error {
	return s.writeBy(ctx, s.owner.Append, records)
}

func (s *shard) writeBy(ctx context.Context, write func(context.Context, []kafka.Record, int64) (int64, error), records []kafka.Record) error {
	base, err := write(ctx, records, s.reflected)
	if err != nil {
		return err
	}
	from := s.reflected
	s.reflected = base + int64(len(records))
	s.claim.Position.Advance(s.reflected)
	if base == from {
		return nil
	}
	foreign := map[string]bool{}
	span := kafka.Span{Topic: schemas.TopicExamples, Partition: s.partition, Start: from, End: base}
	err = s.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, _ int64) error {
		for i := range records {
			r := &records[i]
			s.foreign(r.Offset, "it was written while this process owned the partition")
			if !schemas.IsReservedKey(r.Key) && len(r.Key) > 0 && len(r.Key) <= schemas.MaxIDBytes {
				foreign[string(r.Key)] = true
			}
			s.changed = s.changed || string(r.Key) == schemas.ProgressKey
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.repair(ctx, foreign)
}

// maxBatch is what a batch of examples may be.
func (s *shard) maxBatch() int {
	limit := s.owner.MaxBatchBytes()
	if of := int(s.batchBytes.Load()); of > 0 {
		limit = min(limit, of)
	}
	return limit
}

// smaller has batches be half of what they were, after one that the topic did not take.
// It reports false if they cannot be smaller.
func (s *shard) smaller() bool {
	if s.owner == nil || s.maxBatch()/2 < leastBatch {
		return false
	}
	s.batchBytes.Store(int64(s.maxBatch() / 2))
	return true
}

// look has what others have written among the examples found and put right, though
// there is nothing to be written: by a marker.
func (s *shard) look(ctx context.Context) error {
	_, end, err := s.cfg.Cluster.Offsets(ctx, schemas.TopicExamples, s.partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicExamples, err)
	}
	if end <= s.reflected {
		return nil
	}
	s.changed = true
	return s.flush(ctx)
}

// repair writes the valid records of customers again, after those of others.
func (s *shard) repair(ctx context.Context, customers map[string]bool) error {
	if len(customers) == 0 {
		return nil
	}
	var records []kafka.Record
	for id := range customers {
		value, err := s.store.record(customerOf([]byte(id)))
		if err != nil {
			return err
		}
		if value == nil {
			records = append(records, s.tombstone(id, s.cfg.Now()))
			continue
		}
		records = append(records, kafka.Record{Key: []byte(id), Value: slices.Clone(value), Time: s.cfg.Now()})
	}
	s.log.Info("repaired customers after foreign records", "topic", schemas.TopicExamples, "customers", len(records))
	return s.write(ctx, records)
}

// foreign counts a record that the owner has not written.
func (s *shard) foreign(offset int64, problem string) {
	s.metrics.foreign.Inc()
	s.log.Warn("foreign record among the examples", "topic", schemas.TopicExamples, "offset", offset, "reason", problem)
}

// commitStore writes to disk. While that cannot be done, it waits, and says so.
func (s *shard) commitStore(ctx context.Context) error {
	s.store.meta.At = s.cfg.Now().UnixMilli()
	defer retry.Begin(ctx, "writing the state to disk")()
	return s.store.commit()
}

// stay does what is to be done now and then.
func (s *shard) stay(ctx context.Context) error {
	now := s.cfg.Now()
	wait := time.Duration(0)
	if since, any := s.join.oldestWait(); any {
		wait = time.Since(since)
	}
	s.metrics.wait.WithLabelValues(strconv.Itoa(s.partition)).Set(wait.Seconds())
	if err := s.owner.Stay(ctx, func(ctx context.Context, records []kafka.Record) error { return s.write(ctx, records) }); err != nil {
		return err
	}
	if now.Sub(s.lookedAt) >= identityInterval {
		s.lookedAt = now
		if ids, err := s.topicIDs(ctx, identityInterval); err != nil {
			return err
		} else if ids != s.ids {
			return fmt.Errorf("%w: %+v became %+v", errOtherTopics, s.ids, ids)
		}
		if err := s.look(ctx); err != nil {
			return err
		}
	}
	if now.Sub(s.committedAt) >= time.Second {
		s.committedAt = now
		s.commit()
	}
	if now.Sub(s.flushedAt) >= s.cfg.FlushInterval {
		s.flushedAt = now
		if err := s.store.flush(); err != nil {
			return err
		}
		s.metrics.bytes.WithLabelValues(strconv.Itoa(s.partition)).Set(float64(s.store.bytes()))
	}
	if now.Sub(s.sweptAt) >= s.cfg.SweepInterval || s.store.swept != nil {
		done, err := s.store.sweep(sweepCustomers, s.join.until())
		if err == nil && done {
			s.sweptAt = now
			err = s.store.expire(now.Add(-erasuresKept).UnixMilli())
		}
		if err != nil {
			return err
		}
	}
	if s.store.rubbish > 0 && now.Sub(s.tidiedAt) >= s.cfg.TidyInterval {
		s.tidiedAt = now
		if err := s.store.tidy(ctx); err != nil {
			return err
		}
	}
	return nil
}

// commit lets the group know how far the partition of the examples is known. It is
// for tools that show lag: where to go on stands in the markers.
func (s *shard) commit() {
	if s.reflected == s.committed {
		return
	}
	if err := s.claim.Commit(s.reflected); err != nil {
		s.log.Debug("committing the offset", "offset", s.reflected, "error", err)
		return
	}
	s.committed = s.reflected
}

func (s *shard) show() {
	p := strconv.Itoa(s.partition)
	s.metrics.waiting.WithLabelValues(p).Set(float64(s.join.waits))
	s.metrics.kept.WithLabelValues(p).Set(float64(s.store.meta.Kept))
}
