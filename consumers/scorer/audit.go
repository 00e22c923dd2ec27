package scorer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// AuditConfig says what Audit audits. Cluster and Codec are required.
type AuditConfig struct {
	Cluster   *kafka.Cluster
	Codec     *schemas.Codec
	Partition int
	// From and To are the first offset of churn.customer-events to account for
	// and the one after the last; negative for all that the topic holds and
	// that is processed.
	From, To int64
}

// Audit is what became of events, by what the topics hold: every offset is one of
// Found, Superseded, Expired or Unaccounted.
type Audit struct {
	Partition int
	// From and To are the offsets that were accounted for.
	From, To int64
	// Found are those of which the topics show what became of them.
	Found schemas.Sums
	// Superseded are events without a score whose customer has a later one, or
	// was erased since: compaction may have removed theirs. The sums of markers
	// are all that says whether they had one.
	Superseded int64
	// Expired are dead letters that may have left churn.dead-letters.
	Expired int64
	// Unaccounted are all others, of which Findings lists the first.
	Unaccounted int64
	// Markers is how many pairs of markers the offsets between which were
	// compared with what was found; Contradictions of them did not agree.
	Markers, Contradictions int
	// Findings say what is wrong, at most maxFindings of them.
	Findings []string
}

// OK reports whether all is accounted for.
func (a *Audit) OK() bool { return a.Unaccounted == 0 && a.Contradictions == 0 }

const maxFindings = 100

func (a *Audit) find(format string, args ...any) {
	if len(a.Findings) < maxFindings {
		a.Findings = append(a.Findings, fmt.Sprintf(format, args...))
	}
}

// ErrNotProcessed means that the offsets to audit are not processed yet, or not
// known to be.
var ErrNotProcessed = errors.New("not processed yet")

// RunAudit accounts for the events of a partition by reading what the topics
// hold: events, scores, dead letters and markers. It takes about 150 bytes of
// memory for an event, and does not disturb anybody.
func RunAudit(ctx context.Context, cfg AuditConfig) (*Audit, error) {
	a := &auditor{cfg: cfg, Audit: Audit{Partition: cfg.Partition}}
	s := reader(cfg.Cluster, cfg.Codec, "")
	a.site = newSite(s, cfg.Partition)
	if err := a.span(ctx); err != nil {
		return nil, err
	}
	for _, step := range []func(context.Context) error{a.readScores, a.readLetters, a.readForwards, a.readEvents} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	a.judge()
	a.compare()
	return &a.Audit, nil
}

// fate is what became of an offset.
type fate uint8

const (
	noRecord fate = iota
	scored
	duplicate
	deadLetter
	erasure
	forwarded
	superseded
	expired
	open // to be judged when all is read
	unaccounted
)

type auditor struct {
	Audit
	cfg     AuditConfig
	site    *site
	ids     topicIDs
	writers writers
	markers []marker // in the order of the log

	first  int64 // event there is
	next   int64 // event that is not processed
	scored map[int64]struct{}
	// latest is the source offset of the last record of each customer.
	latest map[string]int64
	// applied are the events that scores say their customers have had, with the
	// least offset at which one says so.
	applied map[appliedEvent]int64
	// letters are the offsets of records that became dead letters; lettersGone
	// says that some have left the topic.
	letters     map[int64]struct{}
	lettersGone bool
	// forwarded are the offsets of events that other partitions hold copies of.
	forwarded map[int64]struct{}
	// fates are those of the offsets from From on; suspects the events among
	// them of which there is no trace.
	fates    []fate
	suspects []suspect
}

type appliedEvent struct {
	customer uint64
	event    int64
}

// suspect is an event that has no score.
type suspect struct {
	offset   int64
	customer string
	event    string
}

// span finds what is to be accounted for.
func (a *auditor) span(ctx context.Context) (err error) {
	if a.ids, err = a.site.topicIDs(ctx); err != nil {
		return err
	}
	m, err := lastMarker(ctx, a.site, a.ids)
	if err != nil {
		return err
	}
	if m.last == nil {
		return fmt.Errorf("%w: %s/%d holds no marker that says how far events are", ErrNotProcessed, schemas.TopicScores, a.Partition)
	}
	if different(m.last.EventsTopicID, a.ids.events) {
		return fmt.Errorf("%w: the marker speaks of another topic of events", ErrNotProcessed)
	}
	a.writers, a.next = m.last.Writers, m.last.Next
	first, _, err := a.cfg.Cluster.Offsets(ctx, schemas.TopicEvents, a.Partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicEvents, err)
	}
	a.first, a.From, a.To = first, a.cfg.From, a.cfg.To
	if a.From < 0 {
		// What is older nobody has counted, but here.
		a.From = min(max(first, m.last.Since), a.next)
	}
	if a.To < 0 {
		a.To = a.next
	}
	switch {
	case a.To > a.next:
		return fmt.Errorf("%w: partition %d is processed up to offset %d", ErrNotProcessed, a.Partition, a.next)
	case a.From > a.To:
		return fmt.Errorf("from %d to %d is no range", a.From, a.To)
	case a.From < first:
		return fmt.Errorf("%s/%d holds events from offset %d on; of older ones only the sums in markers are left", schemas.TopicEvents, a.Partition, first)
	}
	return nil
}

// read reads what a partition of a topic holds.
func (a *auditor) read(ctx context.Context, topic string, partition int, from, to int64, use func(*kafka.Record) error) error {
	first, end, err := a.cfg.Cluster.Offsets(ctx, topic, partition)
	if err != nil {
		return fmt.Errorf("asking for the offsets of %s: %w", topic, err)
	}
	if to < 0 {
		to = end
	}
	span := kafka.Span{Topic: topic, Partition: partition, Start: max(first, from), End: min(end, to)}
	return a.cfg.Cluster.Read(ctx, span, func(records []kafka.Record, _ int64) error {
		for i := range records {
			if err := use(&records[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// readScores reads what the owners of the partition have written.
func (a *auditor) readScores(ctx context.Context) error {
	a.scored, a.latest, a.applied = map[int64]struct{}{}, map[string]int64{}, map[appliedEvent]int64{}
	scores := intake.NewReader(a.site.intake, intake.Topic[schemas.ChurnScore]{
		Decode: a.cfg.Codec.DecodeScore, New: a.cfg.Codec.NewScore, Poison: passOver,
	})
	markers := newMarkers(a.site, a.ids)
	return a.read(ctx, schemas.TopicScores, a.Partition, 0, -1, func(r *kafka.Record) error {
		if ok, err := markers.take(ctx, r); err != nil {
			return err
		} else if ok {
			a.markers = append(a.markers, *markers.last)
			return nil
		}
		if own, known := a.writers.wrote(r); known && !own {
			return nil
		}
		kind, err := scores.Read(ctx, r)
		if err != nil || kind == intake.Nothing {
			return err
		}
		if kind == intake.Tombstone {
			if offset, ok := sourceOffset(r); ok {
				a.latest[string(r.Key)] = max(offset, a.latest[string(r.Key)])
			}
			return nil
		}
		s := scores.Message()
		if int(s.SourcePartition) != a.Partition {
			// The customer has moved here, with the last events.
			for _, e := range s.RecentEvents {
				a.applied[appliedEvent{scoring.Hash(s.CustomerID), e}] = -1
			}
			return nil
		}
		a.scored[s.SourceOffset] = struct{}{}
		a.latest[string(s.CustomerID)] = max(s.SourceOffset, a.latest[string(s.CustomerID)])
		for _, e := range s.RecentEvents {
			key := appliedEvent{scoring.Hash(s.CustomerID), e}
			if at, ok := a.applied[key]; !ok || s.SourceOffset < at {
				a.applied[key] = s.SourceOffset
			}
		}
		return nil
	})
}

func passOver(context.Context, *kafka.Record, *schemas.PoisonError) error { return nil }

// readLetters reads which records of the partition became dead letters.
func (a *auditor) readLetters(ctx context.Context) error {
	a.letters = map[int64]struct{}{}
	n, err := a.cfg.Cluster.Partitions(ctx, schemas.TopicDeadLetters)
	if errors.Is(err, kafka.ErrUnknownTopic) {
		return nil
	}
	if err != nil {
		return err
	}
	letters := intake.NewReader(a.site.intake, intake.Topic[schemas.DeadLetter]{
		Decode: a.cfg.Codec.DecodeDeadLetter, Reserved: true, Poison: passOver,
	})
	for p := range n {
		first, _, err := a.cfg.Cluster.Offsets(ctx, schemas.TopicDeadLetters, p)
		if err != nil {
			return fmt.Errorf("asking for the offsets of %s: %w", schemas.TopicDeadLetters, err)
		}
		a.lettersGone = a.lettersGone || first > 0
		err = a.read(ctx, schemas.TopicDeadLetters, p, 0, -1, func(r *kafka.Record) error {
			kind, err := letters.Read(ctx, r)
			if err != nil || kind != intake.Message {
				return err
			}
			if l := letters.Message(); l.Topic == schemas.TopicEvents && int(l.Partition) == a.Partition {
				a.letters[l.Offset] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readForwards reads which events were forwarded to other partitions.
func (a *auditor) readForwards(ctx context.Context) error {
	a.forwarded = map[int64]struct{}{}
	if n := len(a.markers); n == 0 || a.markers[n-1].Forwarded == 0 {
		return nil
	}
	for p := range int(a.markers[len(a.markers)-1].Partitions) {
		if p == a.Partition {
			continue
		}
		err := a.read(ctx, schemas.TopicEvents, p, 0, -1, func(r *kafka.Record) error {
			from, ok1 := r.HeaderNumber(schemas.HeaderForwardedPartition)
			offset, ok2 := r.HeaderNumber(schemas.HeaderForwardedOffset)
			if ok1 && ok2 && from == int64(a.Partition) && r.Value != nil {
				a.forwarded[offset] = struct{}{}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readEvents gives every offset its fate, as far as it shows.
func (a *auditor) readEvents(ctx context.Context) error {
	a.fates = make([]fate, a.To-a.From)
	poison := false
	topic := intake.Events(a.cfg.Codec)
	topic.Poison = func(context.Context, *kafka.Record, *schemas.PoisonError) error { poison = true; return nil }
	events := intake.NewReader(a.site.intake, topic)
	recent := map[string]*[scoring.RecentEvents]int64{}
	// Events before say which ids come again; those after, who was erased.
	return a.read(ctx, schemas.TopicEvents, a.Partition, a.first, a.next, func(r *kafka.Record) error {
		poison = false
		kind, err := events.Read(ctx, r)
		if err != nil {
			return err
		}
		_, letter := a.letters[r.Offset]
		_, wasScored := a.scored[r.Offset]
		_, moved := a.forwarded[r.Offset]
		switch {
		case wasScored:
			if kind == intake.Message {
				remember(recent, events.Message())
			}
			a.set(r.Offset, scored)
		case moved && kind == intake.Message:
			a.set(r.Offset, forwarded)
		case letter:
			a.set(r.Offset, deadLetter)
		case poison:
			a.set(r.Offset, expired)
		case kind == intake.Tombstone:
			id := string(intake.CustomerID(a.cfg.Codec.Keys, r))
			delete(recent, id)
			a.latest[id] = max(r.Offset, a.latest[id])
			a.set(r.Offset, erasure)
		default:
			e := events.Message()
			customer := string(e.CustomerID)
			hash := scoring.HashEvent(e.EventID)
			at, applied := a.applied[appliedEvent{scoring.Hash(e.CustomerID), hash}]
			known := recent[customer]
			switch {
			case len(e.EventID) > 0 && (known != nil && slices.Contains(known[:], hash) || applied && at < r.Offset):
				a.set(r.Offset, duplicate)
			default:
				remember(recent, e)
				a.set(r.Offset, open)
				if r.Offset >= a.From && r.Offset < a.To {
					a.suspects = append(a.suspects, suspect{r.Offset, customer, string(e.EventID)})
				}
			}
		}
		return nil
	})
}

// remember notes an event as one of its customer's last.
func remember(recent map[string]*[scoring.RecentEvents]int64, e *schemas.CustomerEvent) {
	if len(e.EventID) == 0 {
		return
	}
	last := recent[string(e.CustomerID)]
	if last == nil {
		last = &[scoring.RecentEvents]int64{}
		recent[string(e.CustomerID)] = last
	}
	copy(last[1:], last[:])
	last[0] = scoring.HashEvent(e.EventID)
}

func (a *auditor) set(offset int64, f fate) {
	if offset >= a.From && offset < a.To {
		a.fates[offset-a.From] = f
	}
}

// judge says of what is open whether it can be right, and counts.
func (a *auditor) judge() {
	for _, s := range a.suspects {
		if at, ok := a.latest[s.customer]; ok && at > s.offset {
			a.fates[s.offset-a.From] = superseded
			continue
		}
		a.fates[s.offset-a.From] = unaccounted
		a.find("offset %d: event %q of customer %q has no score, and is no duplicate", s.offset, s.event, s.customer)
	}
	for i, f := range a.fates {
		if f == expired && !a.lettersGone {
			a.fates[i] = unaccounted
			a.find("offset %d: a record that cannot be read is not among the dead letters", a.From+int64(i))
		}
	}
	count := tally(a.fates)
	a.Found = schemas.Sums{
		Scored: count[scored], Duplicates: count[duplicate], DeadLetters: count[deadLetter], Erasures: count[erasure], NoRecord: count[noRecord], Forwarded: count[forwarded],
	}
	a.Superseded, a.Expired, a.Unaccounted = count[superseded], count[expired], count[unaccounted]
}

func tally(fates []fate) (count [unaccounted + 1]int64) {
	for _, f := range fates {
		count[f]++
	}
	return count
}

// compare holds what was found between two markers of an account against the
// difference of their sums.
func (a *auditor) compare() {
	for i := 1; i < len(a.markers); i++ {
		x, y := &a.markers[i-1], &a.markers[i]
		if x.Since != y.Since || x.Writers[0] != y.Writers[0] || x.Next < a.From || y.Next > a.To || y.Next <= x.Next {
			continue
		}
		a.Markers++
		count := tally(a.fates[x.Next-a.From : y.Next-a.From])
		said := schemas.Sums{
			Scored: y.Scored - x.Scored, Duplicates: y.Duplicates - x.Duplicates, DeadLetters: y.DeadLetters - x.DeadLetters,
			Erasures: y.Erasures - x.Erasures, NoRecord: y.NoRecord - x.NoRecord, Forwarded: y.Forwarded - x.Forwarded,
		}
		// What is superseded was scored, or a duplicate.
		loose := count[superseded]
		var wrong []string
		check := func(what string, said, found, loose int64) {
			if said < found || said > found+loose {
				wrong = append(wrong, fmt.Sprintf("%s %d, found %d", what, said, found))
			}
		}
		check("scored", said.Scored, count[scored], loose)
		check("duplicates", said.Duplicates, count[duplicate], loose)
		check("dead letters", said.DeadLetters, count[deadLetter], count[expired])
		check("erasures", said.Erasures, count[erasure], 0)
		check("no record", said.NoRecord, count[noRecord], 0)
		check("forwarded", said.Forwarded, count[forwarded], 0)
		if said.Total() != y.Next-x.Next {
			wrong = append(wrong, fmt.Sprintf("%d in all of %d offsets", said.Total(), y.Next-x.Next))
		}
		if len(wrong) > 0 {
			a.Contradictions++
			a.find("offsets %d to %d: the markers say otherwise: %s", x.Next, y.Next-1, strings.Join(wrong, "; "))
		}
	}
}
