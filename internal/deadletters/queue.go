// Package deadletters sets records aside in churn.dead-letters, reads them there
// and redrives them: writes them back to the topics they came from.
//
// A record that was redriven must not be redriven again. So redriving keeps
// notes in churn.dead-letters itself, as records without a value, in the
// letter's own partition: one before the record is written ("begun", with the
// end of the partition it goes to) and one after ("done", or "undone" when its
// topic did not take it). A note lies after its letter, hence retention cannot
// take the note and leave the letter. When a run was cut short between the two
// notes, the next run looks for the record in its topic, from the noted end on,
// by the header redriven-from. Looking into the topic alone would be simpler and
// wrong: events are kept for days, letters for weeks, and a compacted topic
// forgets sooner still.
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

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
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
	// Redriven is set if the record was redriven, by this letter or by
	// another of the same record.
	Redriven bool
}

func (l *Letter) source() source {
	return source{l.Topic, l.DeadLetter.Partition, l.DeadLetter.Offset, l.Timestamp}
}

// size returns about how many bytes of memory the letter takes.
func (l *Letter) size() int { return Size(&l.DeadLetter) }

// Size returns about how many bytes of memory a letter takes.
func Size(l *schemas.DeadLetter) int {
	n := 300 + len(l.Topic) + len(l.Detail) + len(l.Key) + len(l.Value)
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

// source is where a record that became a letter came from. Its time, in
// milliseconds, distinguishes it from the one that had its place before the topic was
// made anew.
type source struct {
	topic     string
	partition int32
	offset    int64
	time      int64
}

// String returns TOPIC/PARTITION:OFFSET@TIME.
func (s source) String() string {
	return fmt.Sprintf("%s/%d:%d@%d", s.topic, s.partition, s.offset, s.time)
}

// parseSource is the inverse of String.
func parseSource(text string) (s source, ok bool) {
	i, j, k := strings.LastIndexByte(text, '/'), strings.LastIndexByte(text, ':'), strings.LastIndexByte(text, '@')
	if i < 0 || j < i || k < j {
		return s, false
	}
	partition, err := strconv.ParseInt(text[i+1:j], 10, 32)
	offset, err2 := strconv.ParseInt(text[j+1:k], 10, 64)
	time, err3 := strconv.ParseInt(text[k+1:], 10, 64)
	return source{text[:i], int32(partition), offset, time}, err == nil && err2 == nil && err3 == nil
}

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
	// Progress is called now and then with how many of how many offsets a scan has
	// passed. Default: it is not reported.
	Progress func(what string, done, total int64)
	// MaxBytes bounds in bytes what one call holds in memory: letters, the keys
	// of their customers, and what is noted of letters. Default 256 MiB.
	MaxBytes int
}

// producer is what redriving needs of a *kafka.Producer.
type producer interface {
	ProduceTo(ctx context.Context, topic string, partition int, records []kafka.Record) error
}

// Queue is the topic of dead letters. It is safe for concurrent use.
type Queue struct {
	cfg      Config
	producer producer
	intake   *intake.Intake
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
	return &Queue{
		cfg: cfg, producer: cfg.Cluster.NewProducer(kafka.ProducerConfig{}),
		intake: intake.New(intake.Config{Logger: cfg.Logger}),
	}
}

// Newest returns the newest limit letters that match, or all if limit is 0,
// the newest last.
func (q *Queue) Newest(ctx context.Context, f Filter, limit int) ([]Letter, error) {
	spans, err := q.spans(ctx, schemas.TopicDeadLetters)
	if err != nil {
		return nil, err
	}
	memory := q.memory()
	kept := bounded{limit: limit, newest: true, memory: memory}
	notes := newNotes(memory)
	err = q.scan(ctx, spans, &f, notes.add, func(l *Letter) error { return kept.add(*l) })
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

// get returns the letters at the positions, and the notes of all letters.
func (q *Queue) get(ctx context.Context, at []Position) ([]Letter, *notes, error) {
	memory := q.memory()
	var letters []Letter
	for _, position := range at {
		r, err := q.record(ctx, position)
		if err != nil {
			return nil, nil, err
		}
		reader := q.reader(nil)
		if _, err := reader.Read(ctx, r); err != nil {
			return nil, nil, fmt.Errorf("reading the dead letter at %s: %w", position, err)
		}
		l := asLetter(r, reader.Message())
		if err := memory.take(l.size()); err != nil {
			return nil, nil, err
		}
		letters = append(letters, *l)
	}
	spans, err := q.spans(ctx, schemas.TopicDeadLetters)
	if err != nil {
		return nil, nil, err
	}
	notes, err := q.readNotes(ctx, spans, memory)
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
	r, err := q.first(ctx, kafka.Span{Topic: schemas.TopicDeadLetters, Partition: at.Partition, Start: at.Offset, End: at.Offset + 1})
	if err != nil {
		return nil, err
	}
	if r == nil || r.Value == nil {
		return nil, missing
	}
	return r, nil
}

// first returns the first record of a span, nil if there is none.
func (q *Queue) first(ctx context.Context, s kafka.Span) (*kafka.Record, error) {
	f := q.cfg.Cluster.NewFetcher(kafka.FetcherConfig{
		Topic: s.Topic, Partition: s.Partition, Offset: s.Start, MaxBytes: 64 << 10, MaxWait: briefly,
	})
	defer f.Close()
	for f.Offset() < s.End {
		records, err := f.Fetch(ctx)
		if err != nil {
			return nil, err
		}
		if len(records) == 0 {
			continue
		}
		if records[0].Offset >= s.End {
			break
		}
		r := records[0].Clone()
		return &r, nil
	}
	return nil, nil
}

// reader returns what reads letters. Without a policy, a record that is none is
// an error.
func (q *Queue) reader(poison intake.Policy) *intake.Reader[schemas.DeadLetter] {
	return intake.NewReader(q.intake, intake.Topic[schemas.DeadLetter]{
		Decode: q.cfg.Codec.DecodeDeadLetter, Poison: poison,
		Reserved: true, // a letter has the key of its record, whatever that was
	})
}

// asLetter returns the letter that was read from a record. It is the caller's.
func asLetter(r *kafka.Record, read *schemas.DeadLetter) *Letter {
	l := &Letter{Position: Position{r.Partition, r.Offset}, DeadLetter: *read}
	restoreNulls(&l.DeadLetter, r.Header(headerNulls))
	return l
}

// scanning is what a scan of the letters is called in Config.Progress.
const scanning = "dead letters"

// briefly is how long is waited where there may be nothing to read.
const briefly = 50 * time.Millisecond

// scan calls use for the letters in spans that match, which are use's to keep,
// and note, nil for none, for the records without a value.
func (q *Queue) scan(ctx context.Context, spans []kafka.Span, f *Filter, note func(*kafka.Record) error, use func(*Letter) error) error {
	reader := q.reader(q.intake.PassOver(nil))
	return q.read(ctx, scanning, spans, func(r *kafka.Record) error {
		if r.Value == nil {
			if note == nil {
				return nil
			}
			return note(r)
		}
		kind, err := reader.Read(ctx, r)
		if err != nil || kind != intake.Message {
			return err
		}
		if l := asLetter(r, reader.Message()); f.match(l) {
			return use(l)
		}
		return nil
	})
}

// spans returns all that the partitions of a topic hold at this moment.
func (q *Queue) spans(ctx context.Context, topic string) ([]kafka.Span, error) {
	spans, err := q.cfg.Cluster.Spans(ctx, topic)
	if err != nil {
		return nil, fmt.Errorf("looking for %s: %w", topic, err)
	}
	return spans, nil
}

// read calls use for every record in spans. The record is valid until use
// returns.
func (q *Queue) read(ctx context.Context, what string, spans []kafka.Span, use func(*kafka.Record) error) error {
	var done, total int64
	for _, s := range spans {
		total += max(0, s.End-s.Start)
	}
	for _, s := range spans {
		err := q.cfg.Cluster.Read(ctx, s, func(records []kafka.Record, next int64) error {
			for i := range records {
				if err := use(&records[i]); err != nil {
					return err
				}
			}
			q.cfg.Progress(what, done+next-s.Start, total)
			return nil
		})
		if err != nil {
			return err
		}
		done += max(0, s.End-s.Start)
	}
	return nil
}

// memory counts the bytes that one call holds.
type memory struct{ used, max int }

func (q *Queue) memory() *memory { return &memory{max: q.cfg.MaxBytes} }

// take counts n more bytes, and fails when it is too much.
func (m *memory) take(n int) error {
	m.used += n
	if m.used > m.max {
		return fmt.Errorf("the letters and what is noted of them take more than %d bytes of memory: narrow the choice, take fewer with --limit, or allow more with --max-memory", m.max)
	}
	return nil
}

// bounded keeps the oldest or the newest of the letters added.
type bounded struct {
	limit  int // 0 is no limit
	newest bool
	memory *memory

	letters []Letter
}

func (s *bounded) add(l Letter) error {
	s.letters = append(s.letters, l)
	err := s.memory.take(l.size())
	if s.limit > 0 && (len(s.letters) >= 2*s.limit || err != nil) {
		s.trim()
		err = s.memory.take(0)
	}
	return err
}

func (s *bounded) trim() {
	slices.SortFunc(s.letters, compareAge)
	excess := len(s.letters) - s.limit
	if s.limit <= 0 || excess <= 0 {
		return
	}
	from, to := s.limit, len(s.letters)
	if s.newest {
		from, to = 0, excess
	}
	for i := from; i < to; i++ {
		s.memory.used -= s.letters[i].size()
	}
	s.letters = slices.Delete(s.letters, from, to)
}

func (s *bounded) sorted() []Letter {
	s.trim()
	return s.letters
}
