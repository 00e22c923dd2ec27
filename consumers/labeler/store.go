package labeler

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/schemas"
)

// storeFormat is that of what lies on disk; a store of another one is built anew.
const storeFormat = 1

// errDamaged means that a store cannot be read: it is to be built anew.
var errDamaged = errors.New("the state on disk is damaged")

// The first byte of a key says what it is of. The keys of a customer are together.
const (
	metaKey    = 'm'
	latestKey  = 'l' // customer: the latest interval with a score
	scoreKey   = 's' // customer, as_of, source offset, model version, source partition
	exampleKey = 'e' // customer: the customer's examples, as in the topic
	erasedKey  = 'x' // half of a customer's hash: when the customer was erased
)

// store is what a shard has on disk: scores that outcomes may ask for, examples,
// and how far the topics have been read for it. Changes gather in a batch, which
// commit writes as one: after a crash it is as of some commit, for which nothing
// need be synced. It is not safe for concurrent use.
type store struct {
	db    *pebble.DB
	batch *pebble.Batch
	lock  *pebble.Lock
	codec *schemas.Codec
	log   *slog.Logger
	meta  meta
	found atomic.Pointer[error] // damage that was found in the background
	// erased holds when customers were erased, by the hash of their id.
	erased map[uint64]int64

	rubbish int    // erasures since the last tidying up
	swept   []byte // key up to which the sweep has come; nil at its start

	key, value, low, high []byte // memory that is used again
}

// meta is what a store knows of itself.
type meta struct {
	Format int
	// Topics are the ids of the topics that it is of.
	Topics topicIDs
	// Features is the fingerprint of the feature specification.
	Features              string
	Partition, Partitions int
	// Interval and Retained are what is kept and for how long, in milliseconds.
	Interval, Retained int64
	// Examples is the offset after the last record of the examples that it reflects.
	Examples int64
	// Scores are the offsets of the scores to be read next, by partition.
	Scores map[int]int64
	// Progress is the marker as of which it is.
	Progress []byte
	// Kept is the number of scores.
	Kept int64
	// At is when it was written last, in milliseconds.
	At int64
}

// same reports whether a store is for what another one is.
func (m *meta) same(o *meta) bool {
	return m.Format == o.Format && m.Topics == o.Topics && m.Features == o.Features &&
		m.Partition == o.Partition && m.Partitions == o.Partitions && m.Interval == o.Interval && m.Retained == o.Retained
}

// storeConfig says where a store is.
type storeConfig struct {
	fs    vfs.FS
	dir   string
	codec *schemas.Codec
	log   *slog.Logger
	cache *pebble.Cache
}

// openStore opens a store, or makes one. One that is for something else, damaged, or
// written last before a time, is built anew, which is why it says what was wrong. So
// is one of which damaged says what was found wrong when it was worked with: opening it
// need not show that.
func openStore(cfg storeConfig, want meta, oldest int64, damaged string) (s *store, anew string, err error) {
	lock, err := lockStore(cfg)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if s == nil || err != nil {
			_ = lock.Close()
		}
	}()
	if damaged == "" {
		s, err = tryStore(cfg, lock)
	}
	switch {
	case damaged != "":
		anew = damaged
	case err != nil && !errors.Is(err, errDamaged):
		return nil, "", err
	case err != nil:
		anew = err.Error()
	case s.meta.Format == 0:
		anew = "there was none"
	case !s.meta.same(&want):
		anew = "it is of something else"
	case s.meta.At < oldest:
		anew = "it is too old" // erasures since may have left the topics
	default:
		return s, "", nil
	}
	if s != nil {
		s.end()
	}
	// But for the lock, which keeps others away meanwhile.
	if err := removeStore(cfg); err != nil {
		return nil, "", fmt.Errorf("removing %s: %w", cfg.dir, damage(err))
	}
	if s, err = tryStore(cfg, lock); err != nil {
		return nil, "", err
	}
	s.meta = want
	return s, anew, nil
}

// lockStore makes the directory of a store and takes it for this process. That it is
// taken is no damage, and must not be taken for it: what is damaged is removed.
func lockStore(cfg storeConfig) (*pebble.Lock, error) {
	if err := cfg.fs.MkdirAll(cfg.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making %s: %w: %w", cfg.dir, errDisk, err)
	}
	lock, err := pebble.LockDirectory(cfg.dir, cfg.fs)
	if err != nil {
		return nil, fmt.Errorf("locking %s, which another labeler may have: %w: %w", cfg.dir, errDisk, err)
	}
	return lock, nil
}

// removeStore removes all that is in the directory of a store but the lock.
func removeStore(cfg storeConfig) error {
	names, err := cfg.fs.List(cfg.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == lockName {
			continue
		}
		if err := cfg.fs.RemoveAll(cfg.fs.PathJoin(cfg.dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// lockName is the file that pebble locks.
const lockName = "LOCK"

func tryStore(cfg storeConfig, lock *pebble.Lock) (_ *store, err error) {
	s := &store{codec: cfg.codec, log: cfg.log, lock: lock, erased: map[uint64]int64{}}
	opts := &pebble.Options{
		FS: cfg.fs, Cache: cfg.cache, Lock: lock,
		// What a crash takes is read again.
		DisableWAL: true, FormatMajorVersion: pebble.FormatNewest,
		MemTableSize: 16 << 20, MaxOpenFiles: 500,
		Logger: pebbleLog{cfg.log},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) {
				cfg.log.Error("writing the state to disk", "dir", cfg.dir, "error", err)
				s.suspect(err)
			},
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				cfg.log.Error("the state on disk is damaged", "dir", cfg.dir, "error", i.Details)
				s.suspect(i.Details)
			},
		},
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	db, err := pebble.Open(cfg.dir, opts)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", cfg.dir, damage(err))
	}
	s.db, s.batch = db, db.NewIndexedBatch()
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	value, ok, err := s.get([]byte{metaKey})
	if err != nil {
		return nil, err
	}
	if ok {
		if err := json.Unmarshal(value, &s.meta); err != nil {
			return nil, fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	err = s.each([]byte{erasedKey}, []byte{erasedKey + 1}, func(key, value []byte) error {
		if len(key) != 9 || len(value) != 8 {
			return errDamaged
		}
		s.erased[binary.BigEndian.Uint64(key[1:])] = int64(binary.BigEndian.Uint64(value))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// damage makes errors match errDamaged or errDisk. What the system says of a disk, but
// that a file is missing, will not be better for building the state anew. All else is
// about what the files hold, whether or not pebble calls it corruption: it does not of
// a file that is too short.
func damage(err error) error {
	var system syscall.Errno
	switch {
	case err == nil || errors.Is(err, errDamaged) || errors.Is(err, errDisk) || errors.Is(err, errStop):
		return err
	case errors.As(err, &system) && system != syscall.ENOENT:
		return fmt.Errorf("%w: %w", errDisk, err)
	}
	return fmt.Errorf("%w: %w", errDamaged, err)
}

// suspect notes damage that was found in the background, where no call returns it.
func (s *store) suspect(err error) {
	if err = damage(err); errors.Is(err, errDamaged) {
		s.found.CompareAndSwap(nil, &err)
	}
}

// pebbleLog passes on what an operator should know.
type pebbleLog struct{ log *slog.Logger }

func (l pebbleLog) Infof(string, ...any) {}
func (l pebbleLog) Errorf(format string, args ...any) {
	l.log.Warn(fmt.Sprintf(format, args...))
}
func (l pebbleLog) Fatalf(format string, args ...any) {
	l.log.Error("the state on disk cannot be gone on with; ending the process", "error", fmt.Sprintf(format, args...))
	os.Exit(1)
}

// close ends the store; what was not committed is forgotten.
func (s *store) close() {
	s.end()
	_ = s.lock.Close()
}

// end is close, but the directory stays taken.
func (s *store) end() {
	_ = s.batch.Close()
	_ = s.db.Close()
}

// flush has what was committed survive the process.
func (s *store) flush() error { return damage(s.db.Flush()) }

// commit writes what has gathered, with how far that is.
func (s *store) commit() error {
	if found := s.found.Load(); found != nil {
		return *found
	}
	value, err := json.Marshal(&s.meta)
	if err != nil {
		return err
	}
	if err := s.batch.Set([]byte{metaKey}, value, nil); err != nil {
		return damage(err)
	}
	if err := s.db.Apply(s.batch, pebble.NoSync); err != nil {
		return damage(err)
	}
	if err := s.batch.Close(); err != nil {
		return damage(err)
	}
	s.batch = s.db.NewIndexedBatch()
	return nil
}

// bytes returns what the store takes on disk.
func (s *store) bytes() int64 { return int64(s.db.Metrics().DiskSpaceUsage()) }

// get returns a value, which is the caller's until the next get.
func (s *store) get(key []byte) (value []byte, ok bool, err error) {
	v, closer, err := s.batch.Get(key)
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return nil, false, nil
	case err != nil:
		return nil, false, damage(err)
	}
	s.value = append(s.value[:0], v...)
	return s.value, true, damage(closer.Close())
}

// each calls use for every key from low up to before high, in order. Keys and
// values are valid until it returns.
func (s *store) each(low, high []byte, use func(key, value []byte) error) error {
	it, err := s.batch.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return damage(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err == nil {
			err = use(it.Key(), value)
		}
		if err != nil {
			_ = it.Close()
			if errors.Is(err, errStop) {
				return nil
			}
			return damage(err)
		}
	}
	err = it.Error()
	return damage(cmp.Or(it.Close(), err))
}

// errStop ends each early.
var errStop = errors.New("enough")

// customer is what stands for a customer in keys, a hash of the id: parts of keys
// stand in the list of the files too, where they stay for longer than in the files.
type customer [16]byte

func customerOf(id []byte) (c customer) {
	hash := sha256.Sum256(id)
	copy(c[:], hash[:])
	return c
}

func appendKey(key []byte, kind byte, c customer) []byte { return append(append(key, kind), c[:]...) }

// ordered makes numbers sort as unsigned ones.
func ordered(n int64) uint64  { return uint64(n) ^ 1<<63 }
func number(key []byte) int64 { return int64(binary.BigEndian.Uint64(key) ^ 1<<63) }

// bounds returns where a customer's scores are of which as_of is from low on, up
// to before high.
func (s *store) bounds(c customer, low, high int64) ([]byte, []byte) {
	s.low = binary.BigEndian.AppendUint64(appendKey(s.low[:0], scoreKey, c), ordered(low))
	s.high = binary.BigEndian.AppendUint64(appendKey(s.high[:0], scoreKey, c), ordered(high))
	return s.low, s.high
}

// kept is a score that is kept, but for what it says.
type kept struct {
	asOf, writtenAt int64
	sourceOffset    int64
	version         int64
	sourcePartition int32
}

const keptBytes = 8 + 8 + 8 + 4

func (k *kept) key(dst []byte, c customer) []byte {
	return appendKept(appendKey(dst, scoreKey, c), k)
}

func readKept(key, value []byte) (k kept, err error) {
	if len(key) < keptBytes || len(value) < 8 {
		return k, errDamaged
	}
	k, _ = cutKept(key[len(key)-keptBytes:])
	k.writtenAt = int64(binary.BigEndian.Uint64(value))
	return k, nil
}

// latest is what is known of a customer's scores without looking at them: of the
// latest interval with one the first and the last, and of the oldest that is kept.
type latest struct {
	first, last kept
	oldest      int64 // as_of
	forgotten   bool  // there were older ones
}

const latestBytes = 2*(keptBytes+8) + 8 + 1

func appendKept(dst []byte, k *kept) []byte {
	dst = binary.BigEndian.AppendUint64(dst, ordered(k.asOf))
	dst = binary.BigEndian.AppendUint64(dst, ordered(k.sourceOffset))
	dst = binary.BigEndian.AppendUint64(dst, ordered(k.version))
	return binary.BigEndian.AppendUint32(dst, uint32(k.sourcePartition))
}

func cutKept(b []byte) (k kept, rest []byte) {
	return kept{
		asOf: number(b), sourceOffset: number(b[8:]), version: number(b[16:]), sourcePartition: int32(binary.BigEndian.Uint32(b[24:])),
	}, b[keptBytes:]
}

func (s *store) latest(c customer) (l latest, ok bool, err error) {
	s.key = appendKey(s.key[:0], latestKey, c)
	value, ok, err := s.get(s.key)
	if err != nil || !ok {
		return l, false, err
	}
	if len(value) != latestBytes {
		return l, false, errDamaged
	}
	for _, k := range []*kept{&l.first, &l.last} {
		*k, value = cutKept(value)
		k.writtenAt, value = int64(binary.BigEndian.Uint64(value)), value[8:]
	}
	l.oldest, l.forgotten = int64(binary.BigEndian.Uint64(value)), value[8] == 1
	return l, true, nil
}

func (s *store) setLatest(c customer, l *latest) error {
	s.key = appendKey(s.key[:0], latestKey, c)
	v := s.value[:0]
	for _, k := range []*kept{&l.first, &l.last} {
		v = binary.BigEndian.AppendUint64(appendKept(v, k), uint64(k.writtenAt))
	}
	v = binary.BigEndian.AppendUint64(v, uint64(l.oldest))
	if l.forgotten {
		v = append(v, 1)
	} else {
		v = append(v, 0)
	}
	s.value = v
	return damage(s.batch.Set(s.key, v, nil))
}

// keep keeps a score of which say appends what it says. Of each interval the first
// and the last stay, by as_of. One in between goes when there is a later one, unless
// that was written more than an interval after it: a model that scores again after
// weeks does not stand for what was known before.
//
// So an outcome that is written an interval or more after its decision finds the same
// score whatever came after it, and one that is written earlier finds one. What the
// cleaner leaves of a customer of old is the last of an interval, too.
//
// It returns the as_of of the customer's oldest score.
func (s *store) keep(c customer, k kept, interval int64, say func([]byte) []byte) (oldest int64, err error) {
	l, known, err := s.latest(c)
	if err != nil {
		return 0, err
	}
	low, _ := intervalOf(k.asOf, interval)
	switch {
	case !known:
		l = latest{first: k, last: k, oldest: k.asOf}
	case l.last.asOf < low: // the first of its interval
		l.first, l.last = k, k
	case low <= l.first.asOf && l.last.before(&k): // the last so far
		if l.last != l.first && k.writtenAt-l.last.writtenAt <= interval {
			if err := s.removeKept(c, &l.last); err != nil {
				return 0, err
			}
		}
		l.last = k
	default:
		if stands, err := s.compare(c, k, interval); err != nil || stands {
			return l.oldest, err
		}
		if low <= l.first.asOf && k.before(&l.first) {
			l.first = k
		}
		l.oldest = min(l.oldest, k.asOf)
	}
	if err := s.setLatest(c, &l); err != nil {
		return 0, err
	}
	s.key = k.key(s.key[:0], c)
	s.value = say(binary.BigEndian.AppendUint64(s.value[:0], uint64(k.writtenAt)))
	s.meta.Kept++
	return l.oldest, damage(s.batch.Set(s.key, s.value, nil))
}

// before reports whether a score is before another one in the order in which those in
// force are chosen.
func (k *kept) before(o *kept) bool {
	return cmp.Or(cmp.Compare(k.asOf, o.asOf), cmp.Compare(k.sourceOffset, o.sourceOffset), cmp.Compare(k.version, o.version),
		cmp.Compare(k.sourcePartition, o.sourcePartition)) < 0
}

// intervalOf returns the interval of a time: from low up to before high.
func intervalOf(at, interval int64) (low, high int64) {
	if interval <= 0 {
		return at, at + 1
	}
	low = at - at%interval
	if low > at {
		low -= interval
	}
	return low, low + interval
}

// compare reports whether a score that is not the last of its interval need not be
// kept: because it is already, or because there is one before it that was written no
// later, and one after it.
func (s *store) compare(c customer, k kept, interval int64) (stands bool, err error) {
	var before, after bool
	var same *kept
	from, to := intervalOf(k.asOf, interval)
	low, high := s.bounds(c, from, to)
	err = s.each(low, high, func(key, value []byte) error {
		o, err := readKept(key, value)
		switch {
		case err != nil:
			return err
		case o.before(&k):
			before = before || o.writtenAt <= k.writtenAt
		case k.before(&o):
			after = after || o.writtenAt-k.writtenAt <= interval
		default:
			same = &o
		}
		return nil
	})
	switch {
	case err != nil:
		return false, err
	case same == nil:
		return before && after, nil
	case same.writtenAt <= k.writtenAt:
		return true, nil
	}
	return false, s.removeKept(c, same) // it was written before that
}

func (s *store) removeKept(c customer, k *kept) error {
	s.key = k.key(s.key[:0], c)
	s.meta.Kept--
	return damage(s.batch.Delete(s.key, nil))
}

func (s *store) remove(scores [][]byte) error {
	for _, key := range scores {
		if err := s.batch.Delete(key, nil); err != nil {
			return damage(err)
		}
	}
	s.meta.Kept -= int64(len(scores))
	return nil
}

// inForce returns the latest of a customer's scores of which as_of is not after at
// and that was written by a time. What it says is valid until the next call.
func (s *store) inForce(c customer, at, writtenBy int64) (k kept, says []byte, ok bool, err error) {
	if at == math.MaxInt64 {
		at--
	}
	low, high := s.bounds(c, math.MinInt64, at+1)
	it, err := s.batch.NewIter(&pebble.IterOptions{LowerBound: low, UpperBound: high})
	if err != nil {
		return k, nil, false, damage(err)
	}
	for more := it.Last(); more && !ok; more = it.Prev() {
		value, err := it.ValueAndErr()
		if err == nil {
			k, err = readKept(it.Key(), value)
		}
		if err != nil {
			_ = it.Close()
			return k, nil, false, damage(err)
		}
		if ok = k.writtenAt <= writtenBy; ok {
			s.value = append(s.value[:0], value[8:]...)
		}
	}
	err = it.Error()
	return k, s.value, ok, damage(cmp.Or(it.Close(), err))
}

// firstWritten is inForce for the score that was written first.
func (s *store) firstWritten(c customer, at, writtenBy int64) (first kept, says []byte, found bool, err error) {
	low, high := s.bounds(c, math.MinInt64, at+1)
	err = s.each(low, high, func(key, value []byte) error {
		k, err := readKept(key, value)
		if err == nil && k.writtenAt <= writtenBy && (!found || k.writtenAt < first.writtenAt) {
			first, found = k, true
			says = append(says[:0], value[8:]...)
		}
		return err
	})
	return first, says, found, err
}

// prune forgets the scores of a customer before the latest one of which as_of is
// not after a time.
func (s *store) prune(c customer, until int64) error {
	var keys [][]byte
	var oldest []int64
	low, high := s.bounds(c, math.MinInt64, math.MaxInt64)
	err := s.each(low, high, func(key, value []byte) error {
		k, err := readKept(key, value)
		if err != nil {
			return err
		}
		keys, oldest = append(keys, bytes.Clone(key)), append(oldest, k.asOf)
		if k.asOf > until {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The last that is not after the time stays, with others of the same as_of.
	last := len(oldest)
	for last > 0 && oldest[last-1] > until {
		last--
	}
	for last > 1 && oldest[last-2] == oldest[last-1] {
		last--
	}
	if last <= 1 {
		return nil
	}
	if err := s.remove(keys[:last-1]); err != nil {
		return err
	}
	l, _, err := s.latest(c)
	if err != nil {
		return err
	}
	l.oldest, l.forgotten = oldest[last-1], true
	return s.setLatest(c, &l)
}

// examples reads the examples of a customer, none if there are none. The id is not
// for the caller to keep.
func (s *store) examples(ctx context.Context, c customer, m *schemas.CustomerExamples) error {
	s.key = appendKey(s.key[:0], exampleKey, c)
	value, ok, err := s.get(s.key)
	if err != nil {
		return err
	}
	if !ok {
		m.CustomerID, m.Examples, m.Levels = nil, m.Examples[:0], m.Levels[:0]
		return nil
	}
	return s.decode(ctx, value, m)
}

// decode decodes what was encoded for a store. It waits for the registry where that
// was by an earlier schema.
func (s *store) decode(ctx context.Context, value []byte, m *schemas.CustomerExamples) error {
	err := s.codec.DecodeExamples(ctx, value, m)
	if err == nil {
		return nil
	}
	return retry.Do(ctx, s.log, "decoding what is on disk", func(ctx context.Context) error {
		err := s.codec.DecodeExamples(ctx, value, m)
		if why, poison := schemas.AsPoison(err); poison {
			return retry.Permanent(fmt.Errorf("%w: %w", errDamaged, why))
		}
		return err
	})
}

// record returns the record of a customer in the topic, nil if there is none. It
// is the caller's until the next call.
func (s *store) record(c customer) ([]byte, error) {
	s.key = appendKey(s.key[:0], exampleKey, c)
	value, ok, err := s.get(s.key)
	if err != nil || !ok {
		return nil, err
	}
	return value, nil
}

// setRecord sets it; nil is none.
func (s *store) setRecord(c customer, value []byte) error {
	s.key = appendKey(s.key[:0], exampleKey, c)
	if value == nil {
		return damage(s.batch.Delete(s.key, nil))
	}
	return damage(s.batch.Set(s.key, value, nil))
}

// forget removes the scores of a customer that were written up to a moment, and
// remembers it for what comes late.
func (s *store) forget(c customer, at int64) error {
	h := binary.BigEndian.Uint64(c[:])
	if at <= s.erased[h] {
		return nil
	}
	s.erased[h] = at
	s.key = binary.BigEndian.AppendUint64(append(s.key[:0], erasedKey), h)
	s.value = binary.BigEndian.AppendUint64(s.value[:0], uint64(at))
	if err := s.batch.Set(s.key, s.value, nil); err != nil {
		return damage(err)
	}
	var gone [][]byte
	var left []kept
	low, high := s.bounds(c, math.MinInt64, math.MaxInt64)
	err := s.each(low, high, func(key, value []byte) error {
		k, err := readKept(key, value)
		if err == nil && k.writtenAt <= at {
			gone = append(gone, bytes.Clone(key))
		} else if err == nil {
			left = append(left, k)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		s.rubbish++
	}
	if err := s.remove(gone); err != nil {
		return err
	}
	if len(left) == 0 {
		s.key = appendKey(s.key[:0], latestKey, c)
		return damage(s.batch.Delete(s.key, nil))
	}
	last := left[len(left)-1]
	return s.setLatest(c, &latest{first: last, last: last, oldest: left[0].asOf})
}

// sweep prunes the scores of some customers, after those of the last call, and
// reports whether those were the last ones: who is silent for long brings no new
// score by which old ones would be forgotten.
func (s *store) sweep(customers int, until int64) (done bool, err error) {
	low := cmp.Or(string(s.swept), string([]byte{latestKey}))
	var all []customer
	n := 0
	s.swept = nil
	err = s.each([]byte(low), []byte{latestKey + 1}, func(key, value []byte) error {
		if n++; n > customers {
			s.swept = bytes.Clone(key)
			return errStop
		}
		if len(key) != 1+len(customer{}) || len(value) != latestBytes {
			return errDamaged
		}
		if oldest := int64(binary.BigEndian.Uint64(value[latestBytes-9:])); oldest < until {
			all = append(all, customer(key[1:]))
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, c := range all {
		if err := s.prune(c, until); err != nil {
			return false, err
		}
	}
	return s.swept == nil, nil
}

// expire forgets erasures from before a time.
func (s *store) expire(before int64) error {
	for h, at := range s.erased {
		if at < before {
			delete(s.erased, h)
			s.key = binary.BigEndian.AppendUint64(append(s.key[:0], erasedKey), h)
			if err := s.batch.Delete(s.key, nil); err != nil {
				return damage(err)
			}
		}
	}
	return nil
}

// erasedAfter reports whether a customer was erased after a moment.
func (s *store) erasedAfter(c customer, at int64) bool {
	return len(s.erased) > 0 && at < s.erased[binary.BigEndian.Uint64(c[:])]
}

// erasedAt returns when a customer was erased.
func (s *store) erasedAt(c customer) (at int64, erased bool) {
	at, erased = s.erased[binary.BigEndian.Uint64(c[:])]
	return at, erased
}

// tidy rewrites the files, so that what was removed leaves the disk.
func (s *store) tidy(ctx context.Context) error {
	s.rubbish = 0
	if err := s.flush(); err != nil {
		return err
	}
	return damage(s.db.Compact(ctx, []byte{0}, []byte{0xff}, false))
}

func storeDir(stateDir string, partition int) string {
	return filepath.Join(stateDir, fmt.Sprintf("examples-%d", partition))
}
