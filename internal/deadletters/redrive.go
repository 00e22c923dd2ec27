package deadletters

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"churnstream/internal/kafka"
	"churnstream/schemas"
)

// HeaderRedrivenFrom is the header of redriven records: the Position of the
// letter, as text. A record that was redriven, failed and was redriven again
// names its latest letter, in whose headers the earlier one stands.
const HeaderRedrivenFrom = "redriven-from"

// noteKey begins with a zero byte, as keys of markers do in other topics of
// ours, so that no customer's key is equal to it.
var noteKey = []byte("\x00redrive")

// The headers of a note.
const (
	noteState  = "redrive" // begun or done
	noteLetter = "letter"
	noteSource = "source"
	noteEnd    = "target-end"

	begun = "begun"
	done  = "done"
)

// A batch is bounded in letters and bytes: that much is looked for again after
// a run that was cut short. A letter above loneBytes is written by itself, so
// that one too large for its topic fails alone.
const (
	batchLetters = 500
	batchBytes   = 512 << 10
	loneBytes    = 128 << 10
)

// notes is what is noted of earlier runs.
type notes struct {
	done  map[source]bool
	begun map[source][]attempt
}

// attempt is a write that may have happened.
type attempt struct {
	letter string // value of the header redriven-from
	end    int64  // the target's partition ended here before it
}

func newNotes() *notes {
	return &notes{done: map[source]bool{}, begun: map[source][]attempt{}}
}

func (n *notes) add(r *kafka.Record) {
	if !bytes.Equal(r.Key, noteKey) {
		return
	}
	of := header(r, noteSource)
	i, j := bytes.LastIndexByte(of, '/'), bytes.LastIndexByte(of, ':')
	if i < 0 || j < i {
		return
	}
	partition, err := strconv.ParseInt(string(of[i+1:j]), 10, 32)
	offset, err2 := strconv.ParseInt(string(of[j+1:]), 10, 64)
	if err != nil || err2 != nil {
		return
	}
	s := source{string(of[:i]), int32(partition), offset}
	switch string(header(r, noteState)) {
	case done:
		n.done[s] = true
		delete(n.begun, s)
	case begun:
		end, err := strconv.ParseInt(string(header(r, noteEnd)), 10, 64)
		if err == nil && !n.done[s] {
			n.begun[s] = append(n.begun[s], attempt{string(header(r, noteLetter)), end})
		}
	}
}

func header(r *kafka.Record, key string) []byte {
	for _, h := range r.Headers {
		if h.Key == key {
			return h.Value
		}
	}
	return nil
}

// Plan is what a redrive would do.
type Plan struct {
	// Letters will be redriven, in this order: by topic, partition and offset
	// of where they came from, so that what a customer did stays in order.
	Letters []Letter
	// Done counts letters whose record was redriven before, Twice those whose
	// record another letter of Letters stands for.
	Done, Twice int
	// Refused counts letters that cannot be redriven, by the reason why.
	Refused map[string]int

	// settle holds letters that a run wrote and did not note.
	settle []Letter
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
	// RefusedPartition tells that the topic was deleted or made anew.
	RefusedPartition = "its topic or partition is no longer there"
	// RefusedUnsure tells of a run that was cut short so long ago that its
	// records, if it wrote any, are gone from the topic.
	RefusedUnsure = "a run was cut short, and the topic no longer shows whether it was redriven; name its position to redrive it nevertheless"
)

func refusal(l *Letter) string {
	switch {
	case l.Topic == schemas.TopicScores:
		return RefusedScores
	case l.Topic == schemas.TopicModels:
		return RefusedModels
	case l.Topic != schemas.TopicEvents && l.Topic != schemas.TopicOutcomes:
		return RefusedForeign
	case l.Value == nil:
		return RefusedEmpty
	}
	return ""
}

// Plan plans to redrive the oldest limit letters that match and were not
// redriven, or all if limit is 0. It writes nothing.
func (q *Queue) Plan(ctx context.Context, f Filter, limit int) (*Plan, error) {
	// The notes first: a letter that was redriven must not count to limit,
	// and its note lies behind it.
	notes, err := q.readNotes(ctx)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Refused: map[string]int{}}
	kept := shelf{limit: limit, maxBytes: q.cfg.MaxBytes}
	err = q.scan(ctx, func(r *kafka.Record) error {
		if r.Value == nil {
			return nil
		}
		l, err := q.decode(ctx, r)
		if err != nil || l == nil || !f.match(l) {
			return err
		}
		if notes.done[l.source()] {
			plan.Done++
			return nil
		}
		if why := refusal(l); why != "" {
			plan.Refused[why]++
			return nil
		}
		return kept.add(*l)
	})
	if err != nil {
		return nil, err
	}
	return plan, q.complete(ctx, plan, kept.sorted(), notes, false)
}

// PlanFor plans to redrive the letters at the positions, those that were not
// redriven. Its errors are those of Get. It writes nothing.
func (q *Queue) PlanFor(ctx context.Context, at []Position) (*Plan, error) {
	letters, notes, err := q.get(ctx, at)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Refused: map[string]int{}}
	var chosen []Letter
	for _, l := range letters {
		if l.Redriven {
			plan.Done++
		} else if why := refusal(&l); why != "" {
			plan.Refused[why]++
		} else {
			chosen = append(chosen, l)
		}
	}
	return plan, q.complete(ctx, plan, chosen, notes, true)
}

// complete puts the chosen letters in order, takes one a record, and leaves
// out those that a run which was cut short has written.
func (q *Queue) complete(ctx context.Context, plan *Plan, chosen []Letter, notes *notes, nevertheless bool) error {
	slices.SortFunc(chosen, func(a, b Letter) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic),
			cmp.Compare(a.DeadLetter.Partition, b.DeadLetter.Partition),
			cmp.Compare(a.DeadLetter.Offset, b.DeadLetter.Offset), compareAge(a, b))
	})
	for len(chosen) > 0 {
		to := chosen[0].target()
		n := slices.IndexFunc(chosen, func(l Letter) bool { return l.target() != to })
		if n < 0 {
			n = len(chosen)
		}
		all := n
		letters := slices.CompactFunc(slices.Clone(chosen[:n]), func(a, b Letter) bool { return a.source() == b.source() })
		chosen = chosen[n:]
		there, err := q.exists(ctx, to)
		if err != nil {
			return err
		}
		if !there {
			plan.Refused[RefusedPartition] += all
			continue
		}
		plan.Twice += all - len(letters)
		written, unsure, err := q.lookFor(ctx, to, letters, notes)
		if err != nil {
			return err
		}
		for _, l := range letters {
			switch {
			case written[l.source()]:
				plan.Done++
				plan.settle = append(plan.settle, l)
			case unsure[l.source()] && !nevertheless:
				plan.Refused[RefusedUnsure]++
			default:
				plan.Letters = append(plan.Letters, l)
			}
		}
	}
	return nil
}

// target is a partition that letters go back to: the one they came from, even
// if the key belongs to another. What a producer that places keys in its own
// way wrote of a customer stays together.
type target struct {
	topic     string
	partition int
}

func (l *Letter) target() target { return target{l.Topic, int(l.DeadLetter.Partition)} }

func (q *Queue) exists(ctx context.Context, to target) (bool, error) {
	n, err := q.cfg.Cluster.Partitions(ctx, to.topic)
	if err != nil && !errors.Is(err, kafka.ErrUnknownTopic) {
		return false, fmt.Errorf("looking for %s: %w", to.topic, err)
	}
	return err == nil && to.partition >= 0 && to.partition < n, nil
}

// lookFor looks for those of the letters that runs which were cut short have
// written to their target. unsure are those that may have been written and
// deleted since.
func (q *Queue) lookFor(ctx context.Context, to target, letters []Letter, notes *notes) (written, unsure map[source]bool, err error) {
	sought := map[string]source{} // by the value of the header
	written, unsure = map[source]bool{}, map[source]bool{}
	var first, end, start int64
	for i := range letters {
		s := letters[i].source()
		for _, a := range notes.begun[s] {
			if len(sought) == 0 {
				if first, end, err = q.cfg.Cluster.Offsets(ctx, to.topic, to.partition); err != nil {
					return nil, nil, err
				}
				start = end
			}
			sought[a.letter] = s
			if a.end < first || a.end > end { // above the end: the topic was made anew
				unsure[s] = true
				start = first
			}
			start = min(start, max(first, a.end))
		}
	}
	if len(sought) == 0 {
		return nil, nil, nil
	}
	err = q.read(ctx, "an earlier run", []span{{to.topic, to.partition, start, end}}, func(r *kafka.Record) error {
		if s, ok := sought[string(header(r, HeaderRedrivenFrom))]; ok {
			written[s] = true
		}
		return nil
	})
	return written, unsure, err
}

// Result is what a redrive did.
type Result struct {
	// Redriven counts the records written.
	Redriven int
	// TooLarge lists letters whose records, with the header that they get,
	// are larger than their topic takes.
	TooLarge []Position
}

// Redrive writes the plan's records to the partitions they came from: key,
// value, headers and timestamp as they were, and the header redriven-from
// added. Every consumer of the topic reads them again.
//
// When it fails or ctx ends in between, plan and redrive again: what was
// written is found. A write whose acknowledgement was lost may be repeated by
// the producer; consumers know such events by their event_id. Of two runs at
// the same time either may repeat what the other does.
func (q *Queue) Redrive(ctx context.Context, plan *Plan) (Result, error) {
	var result Result
	if err := q.note(ctx, done, plan.settle, 0); err != nil {
		return result, err
	}
	total := len(plan.Letters)
	for letters := plan.Letters; len(letters) > 0; {
		n := fitBatch(letters)
		batch := letters[:n]
		letters = letters[n:]
		written, err := q.write(ctx, batch)
		switch {
		case err == nil && written:
			result.Redriven += n
		case err == nil:
			result.TooLarge = append(result.TooLarge, batch[0].Position)
		default:
			return result, fmt.Errorf("redriving letters from %s on: %w", batch[0].Position, err)
		}
		q.cfg.Progress("redriven", int64(total-len(letters)), int64(total))
	}
	return result, nil
}

// fitBatch returns how many of the letters make the next batch: of one
// target, and bounded.
func fitBatch(letters []Letter) int {
	bytes := 0
	for i := range letters {
		size := letters[i].size()
		bytes += size
		if i > 0 && (i == batchLetters || bytes > batchBytes || size > loneBytes || letters[i].target() != letters[0].target()) {
			return i
		}
		if size > loneBytes {
			return 1
		}
	}
	return len(letters)
}

// write writes one batch between its notes. written is false for a letter
// that is too large.
func (q *Queue) write(ctx context.Context, batch []Letter) (written bool, err error) {
	to := batch[0].target()
	_, end, err := q.cfg.Cluster.Offsets(ctx, to.topic, to.partition)
	if err != nil {
		return false, err
	}
	if err := q.note(ctx, begun, batch, end); err != nil {
		return false, err
	}
	records := make([]kafka.Record, len(batch))
	for i := range batch {
		records[i] = batch[i].record()
	}
	err = q.producer.ProduceTo(ctx, to.topic, to.partition, records)
	if errors.Is(err, kafka.ErrTooLarge) && len(batch) == 1 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, q.note(ctx, done, batch, 0)
}

// record returns what is written to redrive the letter.
func (l *Letter) record() kafka.Record {
	r := kafka.Record{Key: l.Key, Value: l.Value}
	if l.Timestamp >= 0 { // else it had none, and gets that of now
		r.Time = time.UnixMilli(l.Timestamp)
	}
	for _, h := range l.Headers {
		if h.Key != HeaderRedrivenFrom {
			r.Headers = append(r.Headers, kafka.Header(h))
		}
	}
	r.Headers = append(r.Headers, kafka.Header{Key: HeaderRedrivenFrom, Value: []byte(l.Position.String())})
	return r
}

// note writes a note for each of the letters, behind it.
func (q *Queue) note(ctx context.Context, state string, letters []Letter, end int64) error {
	byPartition := map[int][]kafka.Record{}
	for i := range letters {
		l := &letters[i]
		headers := []kafka.Header{
			{Key: noteState, Value: []byte(state)},
			{Key: noteLetter, Value: []byte(l.Position.String())},
			{Key: noteSource, Value: []byte(l.source().String())},
		}
		if state == begun {
			headers = append(headers, kafka.Header{Key: noteEnd, Value: strconv.AppendInt(nil, end, 10)})
		}
		p := l.Position.Partition
		byPartition[p] = append(byPartition[p], kafka.Record{Key: noteKey, Headers: headers})
	}
	for partition, records := range byPartition {
		if err := q.producer.ProduceTo(ctx, schemas.TopicDeadLetters, partition, records); err != nil {
			return fmt.Errorf("noting what is redriven: %w", err)
		}
	}
	return nil
}
