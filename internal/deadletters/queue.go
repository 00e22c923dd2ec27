// Package deadletters sets records aside in churn.dead-letters, reads them there
// and redrives them: writes them back to the topics they came from.
//
// A record that was redriven must not be redriven again. So redriving keeps
// notes in churn.dead-letters itself, as records without a value, in the
// letter's own partition: one before the record is written ("begun", with the
// end of the partition it goes to) and one after ("done"). A note lies behind
// its letter, hence retention cannot take the note and leave the letter. When
// a run was cut short between the two notes, the next run looks for the
// record in its topic, from the noted end on, by the header redriven-from.
// Looking into the topic alone would be simpler and wrong: events are kept for
// days, letters for weeks, and a compacted topic forgets sooner still.
//
// The notes know a record by where it came from, because one record can have
// several letters: of a worker that was killed before it could commit, or of
// several roles.
package deadletters

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"churnstream/internal/kafka"
	"churnstream/schemas"
)

// ErrNoLetter is matched when there is no letter at a position: none was ever
// written there, it was deleted, or it is one of the notes of redriving.
var ErrNoLetter = errors.New("no dead letter there")

// Position is where a letter lies in churn.dead-letters. Its text is
// PARTITION:OFFSET.
type Position struct {
	Partition int
	Offset    int64
}

// String returns PARTITION:OFFSET.
func (p Position) String() string { return fmt.Sprintf("%d:%d", p.Partition, p.Offset) }

// ParsePosition is the inverse of String.
func ParsePosition(text string) (Position, error) {
	partition, offset, found := strings.Cut(text, ":")
	n, err := strconv.ParseUint(partition, 10, 31)
	m, err2 := strconv.ParseUint(offset, 10, 63)
	if !found || err != nil || err2 != nil {
		return Position{}, fmt.Errorf("position %q is not PARTITION:OFFSET, such as 0:17", text)
	}
	return Position{int(n), int64(m)}, nil
}

// Letter is a dead letter and where it lies.
type Letter struct {
	Position
	schemas.DeadLetter
	// Redriven tells that the record was redriven, by this letter or by
	// another of the same record.
	Redriven bool
}

func (l *Letter) source() source { return source{l.Topic, l.DeadLetter.Partition, l.DeadLetter.Offset} }

// size returns about how many bytes of memory the letter takes.
func (l *Letter) size() int {
	n := 300 + len(l.Detail) + len(l.Key) + len(l.Value)
	for _, h := range l.Headers {
		n += 50 + len(h.Key) + len(h.Value)
	}
	return n
}

// compareAge orders letters by the time of failure, those of one millisecond
// by position.
func compareAge(a, b Letter) int {
	return cmp.Or(cmp.Compare(a.FailedAt, b.FailedAt),
		cmp.Compare(a.Position.Partition, b.Position.Partition),
		cmp.Compare(a.Position.Offset, b.Position.Offset))
}

// source is where a record that became a letter came from.
type source struct {
	topic     string
	partition int32
	offset    int64
}

func (s source) String() string { return fmt.Sprintf("%s/%d:%d", s.topic, s.partition, s.offset) }

// Filter says which letters are wanted. Its zero value wants all.
type Filter struct {
	// Reason, Topic and FailedBy must be equal to the letter's; "" is any.
	// A role is also that of each of its parts: "sink" of "sink clickhouse".
	Reason, Topic, FailedBy string
	// Key must be equal to the record's key; nil is any.
	Key []byte
	// Since and Until bound the time of failure: Since ≤ time < Until. Zero
	// is no bound.
	Since, Until time.Time
}

func (f *Filter) match(l *Letter) bool {
	return (f.Reason == "" || f.Reason == string(l.Reason)) &&
		(f.Topic == "" || f.Topic == l.Topic) &&
		(f.FailedBy == "" || f.FailedBy == l.FailedBy || strings.HasPrefix(l.FailedBy, f.FailedBy+" ")) &&
		(f.Key == nil || l.Key != nil && string(f.Key) == string(l.Key)) &&
		(f.Since.IsZero() || l.FailedAt >= f.Since.UnixMilli()) &&
		(f.Until.IsZero() || l.FailedAt < f.Until.UnixMilli())
}

// Config configures New. Cluster and Codec are required.
type Config struct {
	Cluster *kafka.Cluster
	Codec   *schemas.Codec
	// Logger receives letters that cannot be read. Default none.
	Logger *slog.Logger
	// Progress is told now and then how many of how many offsets a scan has
	// passed. Default: nobody is.
	Progress func(what string, done, total int64)
	// MaxBytes bounds the letters held in memory. Default 256 MiB.
	MaxBytes int
}

// Queue is the topic of dead letters. It is safe for concurrent use.
type Queue struct {
	cfg      Config
	producer *kafka.Producer
}

// New returns a Queue. It does no I/O.
func New(cfg Config) *Queue {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, int64, int64) {}
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 256 << 20
	}
	return &Queue{cfg: cfg, producer: cfg.Cluster.NewProducer(kafka.ProducerConfig{})}
}

// Newest returns the newest limit letters that match, or all if limit is 0,
// the newest last.
func (q *Queue) Newest(ctx context.Context, f Filter, limit int) ([]Letter, error) {
	kept := shelf{limit: limit, newest: true, maxBytes: q.cfg.MaxBytes}
	notes := newNotes()
	err := q.scan(ctx, func(r *kafka.Record) error {
		if r.Value == nil {
			notes.add(r)
			return nil
		}
		l, err := q.decode(ctx, r)
		if err != nil || l == nil || !f.match(l) {
			return err
		}
		return kept.add(*l)
	})
	if err != nil {
		return nil, err
	}
	letters := kept.sorted()
	for i := range letters {
		letters[i].Redriven = notes.done[letters[i].source()]
	}
	return letters, nil
}

// Get returns the letter at a position. The error matches ErrNoLetter, or is
// a *schemas.PoisonError when what is there cannot be read as a letter.
func (q *Queue) Get(ctx context.Context, at Position) (*Letter, error) {
	letters, _, err := q.get(ctx, []Position{at})
	if err != nil {
		return nil, err
	}
	return &letters[0], nil
}

// get returns the letters at the positions, and the notes of all of them.
func (q *Queue) get(ctx context.Context, at []Position) ([]Letter, *notes, error) {
	var letters []Letter
	for _, position := range at {
		r, err := q.record(ctx, position)
		if err != nil {
			return nil, nil, err
		}
		l := &Letter{Position: position}
		if err := q.decodeInto(ctx, r, l); err != nil {
			return nil, nil, fmt.Errorf("reading the dead letter at %s: %w", position, err)
		}
		letters = append(letters, *l)
	}
	notes, err := q.readNotes(ctx)
	if err != nil {
		return nil, nil, err
	}
	for i := range letters {
		letters[i].Redriven = notes.done[letters[i].source()]
	}
	return letters, notes, nil
}

// record fetches the record at a position.
func (q *Queue) record(ctx context.Context, at Position) (*kafka.Record, error) {
	missing := fmt.Errorf("%s %s: %w", schemas.TopicDeadLetters, at, ErrNoLetter)
	n, err := q.cfg.Cluster.Partitions(ctx, schemas.TopicDeadLetters)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", schemas.TopicDeadLetters, err)
	}
	if at.Partition >= n {
		return nil, missing
	}
	first, end, err := q.cfg.Cluster.Offsets(ctx, schemas.TopicDeadLetters, at.Partition)
	if err != nil {
		return nil, err
	}
	if at.Offset < first || at.Offset >= end {
		return nil, missing
	}
	f := q.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: schemas.TopicDeadLetters, Partition: at.Partition, Offset: at.Offset, MaxBytes: 64 << 10,
	})
	for f.Offset() <= at.Offset {
		records, err := f.Fetch(ctx)
		if err != nil {
			return nil, err
		}
		for i := range records {
			if records[i].Offset == at.Offset && records[i].Value != nil {
				return &records[i], nil
			}
			if records[i].Offset >= at.Offset {
				return nil, missing
			}
		}
	}
	return nil, missing
}

// readNotes reads what was redriven.
func (q *Queue) readNotes(ctx context.Context) (*notes, error) {
	n := newNotes()
	err := q.scan(ctx, func(r *kafka.Record) error {
		if r.Value == nil {
			n.add(r)
		}
		return nil
	})
	return n, err
}

// decode returns the letter in a record, nil if there is none that can be
// read.
func (q *Queue) decode(ctx context.Context, r *kafka.Record) (*Letter, error) {
	l := &Letter{Position: Position{r.Partition, r.Offset}}
	err := q.decodeInto(ctx, r, l)
	if poison, ok := schemas.AsPoison(err); ok {
		q.cfg.Logger.Warn("a record among the dead letters is none", "position", l.Position.String(), "reason", poison.Reason, "detail", poison.Detail)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the dead letter at %s: %w", l.Position, err)
	}
	return l, nil
}

func (q *Queue) decodeInto(ctx context.Context, r *kafka.Record, l *Letter) error {
	return kafka.Retry(ctx, q.cfg.Logger, "decoding a dead letter", func(ctx context.Context) error {
		err := q.cfg.Codec.DecodeDeadLetter(ctx, r.Value, &l.DeadLetter)
		if _, poison := schemas.AsPoison(err); poison {
			return kafka.Permanent(err)
		}
		return err
	})
}

// scan reads every record of churn.dead-letters up to the ends of this
// moment. The record is valid until use returns.
func (q *Queue) scan(ctx context.Context, use func(*kafka.Record) error) error {
	n, err := q.cfg.Cluster.Partitions(ctx, schemas.TopicDeadLetters)
	if err != nil {
		return fmt.Errorf("looking for %s: %w", schemas.TopicDeadLetters, err)
	}
	spans := make([]span, 0, n)
	for p := range n {
		first, end, err := q.cfg.Cluster.Offsets(ctx, schemas.TopicDeadLetters, p)
		if err != nil {
			return err
		}
		spans = append(spans, span{schemas.TopicDeadLetters, p, first, end})
	}
	return q.read(ctx, "dead letters", spans, use)
}

// span is the records of a partition from an offset up to before another.
type span struct {
	topic      string
	partition  int
	start, end int64
}

func (q *Queue) read(ctx context.Context, what string, spans []span, use func(*kafka.Record) error) error {
	var done, total int64
	for _, s := range spans {
		total += max(0, s.end-s.start)
	}
	for _, s := range spans {
		if s.start >= s.end {
			continue
		}
		f := q.cfg.Cluster.NewFetcher(kafka.FetcherConfig{Topic: s.topic, Partition: s.partition, Offset: s.start})
		for f.Offset() < s.end {
			records, err := f.Fetch(ctx)
			if err != nil {
				return err
			}
			for i := range records {
				if records[i].Offset >= s.end {
					break
				}
				if err := use(&records[i]); err != nil {
					return err
				}
			}
			q.cfg.Progress(what, done+min(f.Offset(), s.end)-s.start, total)
		}
		done += s.end - s.start
	}
	return nil
}

// shelf keeps the oldest or the newest of the letters put on it.
type shelf struct {
	limit    int // 0 is no limit
	newest   bool
	maxBytes int

	letters []Letter
	bytes   int
}

func (s *shelf) add(l Letter) error {
	s.letters = append(s.letters, l)
	s.bytes += l.size()
	if s.limit > 0 && (len(s.letters) >= 2*s.limit || s.bytes > s.maxBytes) {
		s.trim()
	}
	if s.bytes > s.maxBytes {
		return fmt.Errorf("%d letters take more than %d MiB of memory: narrow the choice, or take fewer with --limit", len(s.letters), s.maxBytes>>20)
	}
	return nil
}

func (s *shelf) trim() {
	slices.SortFunc(s.letters, compareAge)
	excess := len(s.letters) - s.limit
	if s.limit <= 0 || excess <= 0 {
		return
	}
	if s.newest {
		s.letters = slices.Delete(s.letters, 0, excess)
	} else {
		s.letters = slices.Delete(s.letters, s.limit, len(s.letters))
	}
	s.bytes = 0
	for i := range s.letters {
		s.bytes += s.letters[i].size()
	}
}

func (s *shelf) sorted() []Letter {
	s.trim()
	return s.letters
}
