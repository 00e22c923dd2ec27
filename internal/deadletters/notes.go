package deadletters

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// noteKey begins with a zero byte, as keys of markers do in other topics of
// ours, so that no customer's key is equal to it.
var noteKey = []byte("\x00redrive")

// The headers of a note.
const (
	noteState  = "redrive" // begun, done or undone
	noteLetter = "letter"
	noteSource = "source"
	noteEnd    = "target-end"

	begun  = "begun"
	done   = "done"
	undone = "undone" // nothing was written: the topic did not take it
)

// noteBytes is about what a note takes in memory, beside its texts.
const noteBytes = 200

// notes is what is noted of earlier runs. Retention removes them as it removes
// letters; what they take counts to Config.MaxBytes.
type notes struct {
	done map[source]bool
	// begun holds what may have been written since the record was redriven
	// last, if it was.
	begun  map[source][]attempt
	memory *memory
}

// attempt is a write that may have happened.
type attempt struct {
	letter Position // value of the header redriven-from
	end    int64    // the target's partition ended here before it
}

func newNotes(m *memory) *notes {
	return &notes{done: map[source]bool{}, begun: map[source][]attempt{}, memory: m}
}

// add takes a record without a value. One that is no note is passed over.
func (n *notes) add(r *kafka.Record) error {
	if !bytes.Equal(r.Key, noteKey) {
		return nil
	}
	s, ok := parseSource(string(r.Header(noteSource)))
	if !ok {
		return nil
	}
	cost := noteBytes + len(s.topic)
	letter, err := ParsePosition(string(r.Header(noteLetter)))
	if err != nil {
		return nil
	}
	switch string(r.Header(noteState)) {
	case done:
		n.memory.used -= len(n.begun[s]) * cost
		delete(n.begun, s)
		if n.done[s] {
			return nil
		}
		n.done[s] = true
		return n.memory.take(cost)
	case begun:
		end, err := strconv.ParseInt(string(r.Header(noteEnd)), 10, 64)
		if err != nil {
			return nil
		}
		n.begun[s] = append(n.begun[s], attempt{letter, end})
		return n.memory.take(cost)
	case undone:
		// Those of other letters are in other partitions, perhaps, and younger.
		left := slices.DeleteFunc(n.begun[s], func(a attempt) bool { return a.letter == letter })
		n.memory.used -= (len(n.begun[s]) - len(left)) * cost
		if n.begun[s] = left; len(left) == 0 {
			delete(n.begun, s)
		}
	}
	return nil
}

// readNotes reads what was redriven.
func (q *Queue) readNotes(ctx context.Context, spans []kafka.Span, m *memory) (*notes, error) {
	n := newNotes(m)
	err := q.read(ctx, scanning, spans, func(r *kafka.Record) error {
		if r.Value != nil {
			return nil
		}
		return n.add(r)
	})
	return n, err
}

// note writes a note for each of the letters, after it.
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
