package deadletters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// Plan is what a redrive would do.
type Plan struct {
	// Letters will be redriven, in this order: by topic, partition and offset
	// of where they came from, so that what a customer did stays in order.
	Letters []Letter
	// Done counts letters whose record was redriven before, Twice those whose
	// record another letter of Letters stands for.
	Done, Twice int
	// Refused are the letters that cannot be redriven.
	Refused Refusals

	// settle holds letters that a run wrote and did not note, without their
	// values.
	settle []Letter
}

// Refusals are letters that are not redriven, by the reason why.
type Refusals map[string]*Refused

// Refused are letters that are not redriven for one reason.
type Refused struct {
	Count int
	First []Position // the first ten of them
}

func (r Refusals) add(why string, at Position) {
	of := r[why]
	if of == nil {
		of = &Refused{}
		r[why] = of
	}
	if of.Count++; of.Count <= 10 {
		of.First = append(of.First, at)
	}
}

// Reasons why a letter is refused.
const (
	RefusedForeign = "its topic is not churn.customer-events or churn.outcomes"
	// RefusedScores protects the scorer's state: a record of a stranger there
	// is taken for the write of a former owner.
	RefusedScores = "churn.scores is written by the scorer alone; an event of the customer makes a new score"
	// RefusedModels protects the order of decisions: the latest champion
	// record wins.
	RefusedModels = "the order of churn.models decides which model is used; churnstream models activate publishes one again"
	// RefusedEmpty protects customers: a record without a value erases one.
	RefusedEmpty = "it has no value: it was a deletion, or too large to be kept"
	// RefusedCut means that the record is not in the letter.
	RefusedCut = "the record was too large to be kept whole, and only its beginning is here; have its producer send it again, in smaller parts"
	// RefusedPartition means that the topic was deleted or made anew.
	RefusedPartition = "its topic or partition is no longer there"
	// RefusedErased protects customers who asked to be forgotten.
	RefusedErased = "the customer was erased since; name its position to redrive it nevertheless"
	// RefusedUnsure is for a run that was cut short so long ago that its
	// records, if it wrote any, are gone from the topic.
	RefusedUnsure = "a run was cut short, and the topic no longer shows whether it was redriven; name its position to redrive it nevertheless"
)

// refusal returns why a letter cannot be redriven, "" if it can. partitions
// holds how many there are of the topics that letters go back to.
func refusal(l *Letter, partitions map[string]int) string {
	n, ours := partitions[l.Topic]
	switch {
	case l.Topic == schemas.TopicScores:
		return RefusedScores
	case l.Topic == schemas.TopicModels:
		return RefusedModels
	case !ours:
		return RefusedForeign
	case l.OriginalBytes > 0:
		return RefusedCut
	case l.Value == nil:
		return RefusedEmpty
	case l.DeadLetter.Partition < 0 || int(l.DeadLetter.Partition) >= n:
		return RefusedPartition
	}
	return ""
}

// partitions counts those of the topics that letters go back to, 0 for a topic
// that is not there.
func (q *Queue) partitions(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	for _, topic := range []string{schemas.TopicEvents, schemas.TopicOutcomes} {
		n, err := q.cfg.Cluster.Partitions(ctx, topic)
		if err != nil && !errors.Is(err, kafka.ErrUnknownTopic) {
			return nil, fmt.Errorf("looking for %s: %w", topic, err)
		}
		counts[topic] = n
	}
	return counts, nil
}

// Plan plans to redrive the oldest limit letters that match, were not redriven
// and can be, or all if limit is 0. It writes nothing. Customers who are erased
// after it are not known to it: redrive at once.
func (q *Queue) Plan(ctx context.Context, f Filter, limit int) (*Plan, error) {
	partitions, err := q.partitions(ctx)
	if err != nil {
		return nil, err
	}
	spans, err := q.spans(ctx, schemas.TopicDeadLetters)
	if err != nil {
		return nil, err
	}
	memory := q.memory()
	// Nothing that is not redriven must count to limit, else no run would come
	// past it. So what decides is read first: the notes, which lie after their
	// letters; then, for the letters that may be redriven, the other topics.
	notes, err := q.readNotes(ctx, spans, memory)
	if err != nil {
		return nil, err
	}
	erasures := newErasures(memory, q.cfg.Codec.Keys)
	sought := map[source]bool{}
	err = q.scan(ctx, spans, &f, nil, func(l *Letter) error {
		s := l.source()
		if notes.done[s] || refusal(l, partitions) != "" {
			return nil
		}
		if len(notes.begun[s]) > 0 {
			sought[s] = true
		}
		return erasures.watch(l)
	})
	if err != nil {
		return nil, err
	}
	traces, err := q.lookFor(ctx, notes, sought)
	if err != nil {
		return nil, err
	}
	if err := q.findErasures(ctx, erasures); err != nil {
		return nil, err
	}
	plan := &Plan{Refused: Refusals{}}
	kept := bounded{limit: limit, memory: memory}
	err = q.scan(ctx, spans, &f, nil, func(l *Letter) error {
		s := l.source()
		at, written := traces.written[s]
		why := refusal(l, partitions)
		switch {
		case notes.done[s]:
			plan.Done++
		case why != "":
			plan.Refused.add(why, l.Position)
		case written:
			plan.written(l, at)
			notes.done[s] = true
		case traces.unsure[s]:
			plan.Refused.add(RefusedUnsure, l.Position)
		case erasures.after(l):
			plan.Refused.add(RefusedErased, l.Position)
		default:
			return kept.add(*l)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	plan.choose(kept.sorted())
	return plan, nil
}

// PlanFor plans to redrive the letters at the positions, also those that were
// redriven before and those of customers who were erased since; not those that
// a run which was cut short has written. Its errors are those of Get. It writes
// nothing.
func (q *Queue) PlanFor(ctx context.Context, at []Position) (*Plan, error) {
	partitions, err := q.partitions(ctx)
	if err != nil {
		return nil, err
	}
	letters, notes, err := q.get(ctx, at)
	if err != nil {
		return nil, err
	}
	sought := map[source]bool{}
	for i := range letters {
		if refusal(&letters[i], partitions) == "" {
			sought[letters[i].source()] = true
		}
	}
	traces, err := q.lookFor(ctx, notes, sought)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Refused: Refusals{}}
	var chosen []Letter
	for i := range letters {
		l := &letters[i]
		at, written := traces.written[l.source()]
		if why := refusal(l, partitions); why != "" {
			plan.Refused.add(why, l.Position)
		} else if written {
			plan.written(l, at)
		} else {
			chosen = append(chosen, *l)
		}
	}
	plan.choose(chosen)
	return plan, nil
}

// written takes a letter whose record a run that was cut short has written,
// from the letter at a position: the note to come belongs after that one's.
func (p *Plan) written(l *Letter, at Position) {
	p.Done++
	settled := *l
	settled.Position, settled.Value = at, nil
	p.settle = append(p.settle, settled)
}

// choose puts the letters in order and takes one per record.
func (p *Plan) choose(letters []Letter) {
	slices.SortFunc(letters, func(a, b Letter) int {
		x, y := a.source(), b.source()
		return cmp.Or(cmp.Compare(x.topic, y.topic), cmp.Compare(x.partition, y.partition),
			cmp.Compare(x.offset, y.offset), cmp.Compare(x.time, y.time), compareAge(a, b))
	})
	p.Letters = slices.CompactFunc(letters, func(a, b Letter) bool { return a.source() == b.source() })
	p.Twice = len(letters) - len(p.Letters)
}

// target is a partition that letters go back to: the one they came from, even
// if the key belongs to another. What a producer that places keys in its own
// way wrote of a customer stays together.
type target struct {
	topic     string
	partition int
}

func (l *Letter) target() target { return l.source().target() }

func (s source) target() target { return target{s.topic, int(s.partition)} }

// traces are what was found of runs that were cut short.
type traces struct {
	written map[source]Position // and which letter the run had of the record
	unsure  map[source]bool     // may have been written and deleted since
}

// lookFor looks in the targets for records that runs which were cut short have
// written.
func (q *Queue) lookFor(ctx context.Context, notes *notes, sought map[source]bool) (traces, error) {
	type search struct {
		first, end int64
		start      int64
		letters    map[Position]source
	}
	searches := map[target]*search{}
	found := traces{map[source]Position{}, map[source]bool{}}
	for s := range sought {
		for _, a := range notes.begun[s] {
			in := searches[s.target()]
			if in == nil {
				first, end, err := q.cfg.Cluster.Offsets(ctx, s.topic, int(s.partition))
				if err != nil {
					return found, err
				}
				in = &search{first, end, end, map[Position]source{}}
				searches[s.target()] = in
			}
			in.letters[a.letter] = s
			if a.end < in.first || a.end > in.end { // above the end: the topic was made anew
				found.unsure[s] = true
				in.start = in.first
			}
			in.start = min(in.start, max(in.first, a.end))
		}
	}
	for to, in := range searches {
		err := q.readRedriven(ctx, to, in.start, func(p Position) {
			if s, ok := in.letters[p]; ok {
				found.written[s] = p
			}
		})
		if err != nil {
			return found, fmt.Errorf("looking for what an earlier run wrote: %w", err)
		}
	}
	return found, nil
}

// readRedriven calls use with the letters that the records of a partition from
// an offset on were redriven from. It reads to the end of this moment, and if
// need be waits for the transactions open before it: until they end, nothing
// after them can be read.
func (q *Queue) readRedriven(ctx context.Context, to target, start int64, use func(Position)) error {
	f := q.cfg.Cluster.NewFetcher(kafka.FetcherConfig{Topic: to.topic, Partition: to.partition, Offset: start, MaxWait: briefly})
	defer f.Close()
	for end := int64(-1); end < 0 || f.Offset() < end; {
		records, err := f.Fetch(ctx)
		if err != nil {
			return err
		}
		for i := range records {
			if p, err := ParsePosition(string(records[i].Header(HeaderRedrivenFrom))); err == nil {
				use(p)
			}
		}
		if end < 0 {
			end = f.HighWatermark()
		}
		q.cfg.Progress("what was redriven", min(f.Offset(), end)-start, end-start)
	}
	return nil
}
