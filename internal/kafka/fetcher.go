package kafka

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"

	"github.com/churnstream/churnstream/internal/retry"
)

const (
	readCommitted = 1
	// minFetchVersion is the first with transactions and record batches.
	minFetchVersion = 4
	// maxResponse bounds an answer to a fetch. An answer holds one batch at
	// least, however large, so this bounds batches too.
	maxResponse = 512 << 20
)

// FetcherConfig configures NewFetcher. Topic is required.
type FetcherConfig struct {
	Topic     string
	Partition int
	// Offset is the first offset wanted; below zero, the first there is.
	Offset int64
	// MaxBytes bounds the bytes of one request, and about what one Fetch
	// returns. A single record batch that is larger is read nevertheless.
	// Default Config.FetchBytes.
	MaxBytes int
	// MaxWait is how long a Fetch waits for records. Default 500 ms.
	MaxWait time.Duration
	// Together is for a reader that waits for this fetcher while it still has
	// records of another; they then have the same. Default: it never does.
	Together *Together
	// Position, if set, learns of what is fetched, and of what cannot be any
	// more. To say what has been dealt with is the reader's part.
	Position *Position
}

// Fetcher reads the committed records of one partition in order. It is not
// safe for concurrent use. It holds no connection between calls, but memory that
// large batches of all fetchers share: close it when the records that it has
// returned are done with.
type Fetcher struct {
	c     *Cluster
	cfg   FetcherConfig
	what  string
	count struct{ fetched, corrupt, unreadable, resets, ahead prometheus.Counter }

	offset        int64 // next wanted; negative until the first is known
	highWatermark int64
	leader        string // address; "" when it must be looked up
	maxBytes      int

	// The batches of the last answer that are still to be decoded, views of
	// buf, and the state of filtering them.
	pending []byte
	taken   bool // some batch of the answer was taken
	buf     []byte
	aborted []abortedTransaction // by first offset
	open    map[int64]struct{}   // producers inside an aborted transaction

	decoder decoder
	records []Record
	held    int64 // of the cluster's memory; −1 if it is held together
}

type abortedTransaction struct{ producerID, firstOffset int64 }

// NewFetcher returns a Fetcher. It does no I/O.
func (c *Cluster) NewFetcher(cfg FetcherConfig) *Fetcher {
	cfg.MaxBytes = cmp.Or(max(cfg.MaxBytes, 0), c.cfg.FetchBytes)
	if cfg.MaxWait <= 0 {
		cfg.MaxWait = 500 * time.Millisecond
	}
	f := &Fetcher{
		c:             c,
		cfg:           cfg,
		what:          fmt.Sprintf("fetching from %s/%d", cfg.Topic, cfg.Partition),
		offset:        max(cfg.Offset, -1),
		highWatermark: -1,
		maxBytes:      cfg.MaxBytes,
		open:          map[int64]struct{}{},
		decoder:       decoder{limit: c.cfg.LargestBatch, room: ordinaryBatch, slots: c.memory.slots},
	}
	f.count.fetched = c.metrics.fetched.WithLabelValues(cfg.Topic)
	f.count.corrupt = c.metrics.corrupt.WithLabelValues(cfg.Topic)
	f.count.unreadable = c.metrics.unreadable.WithLabelValues(cfg.Topic)
	f.count.ahead = c.metrics.ahead.WithLabelValues(cfg.Topic)
	f.count.resets = c.metrics.resets.WithLabelValues(cfg.Topic)
	return f
}

// Offset returns the offset from which the next Fetch reads: after the last
// record returned and after everything skipped since (control records,
// aborted records, records compacted away). It is −1 when the Fetcher was to
// start from the first record and has not fetched yet.
func (f *Fetcher) Offset() int64 { return f.offset }

// HighWatermark returns the end of the partition at the last request: the
// offset that the next record written would have had. It is −1 before the
// first request. While a transaction is open, records before it may not be
// readable yet.
func (f *Fetcher) HighWatermark() int64 { return f.highWatermark }

// Fetch returns the next committed records in order, or none after MaxWait.
// The records, their keys, values and headers are valid until the next Fetch.
//
// Records of aborted transactions and control records are left out. A batch
// with a wrong checksum is refused, counted and asked for again, never
// decoded. One whose checksum is right and that cannot be read all the same, or
// is larger than Config.LargestBatch, comes as one record that is Unreadable.
// Passing errors, a new leader among them, are retried until ctx
// ends; then the error matches ctx.Err(). When the offset lies outside the
// log (records were deleted, or the log was lost), Fetch goes to the log's
// nearer end, with a warning and a count.
func (f *Fetcher) Fetch(ctx context.Context) ([]Record, error) {
	deadline := time.Now().Add(f.cfg.MaxWait)
	f.Close()
	if cap(f.records)*recordBytes > ordinaryBatch {
		f.records = nil
	}
	for {
		if err := f.c.retry(ctx, "fetch", f.what, f.attempt); err != nil {
			return nil, err
		}
		f.cfg.Position.fetch(f.offset)
		if len(f.records) > 0 {
			f.count.fetched.Add(float64(len(f.records)))
			return f.records, nil
		}
		if !time.Now().Before(deadline) {
			return nil, nil
		}
	}
}

// attempt decodes what is pending, after asking for more if there is nothing.
func (f *Fetcher) attempt(ctx context.Context) error {
	if f.offset < 0 {
		first, _, err := f.c.listOffsets(ctx, f.cfg.Topic, f.cfg.Partition, kafkago.ReadUncommitted)
		if err != nil {
			return err
		}
		f.cfg.Position.starts(first)
		f.offset = first
	}
	if len(f.pending) > 0 {
		return f.decode(ctx)
	}
	if f.leader == "" {
		leader, err := f.c.leader(ctx, f.cfg.Topic, f.cfg.Partition)
		if err != nil {
			return err
		}
		f.leader = leader
	}
	err := f.request(ctx)
	switch {
	case errors.Is(err, kafkago.OffsetOutOfRange):
		return f.reset(ctx)
	case err != nil:
		f.leader = ""
		f.pending = nil
		return err
	}
	if len(f.pending) == 0 {
		return nil
	}
	before := f.offset
	if err := f.decode(ctx); err != nil {
		return err
	}
	if f.offset == before {
		// Nothing may be asked for twice at full speed.
		f.pending = nil
		return fmt.Errorf("%w: the answer to a fetch from offset %d lies before it", errCorrupt, before)
	}
	return nil
}

// reset moves an offset outside the log to the log's nearer end.
func (f *Fetcher) reset(ctx context.Context) error {
	first, end, err := f.c.listOffsets(ctx, f.cfg.Topic, f.cfg.Partition, kafkago.ReadUncommitted)
	if err != nil {
		return err
	}
	to := min(max(f.offset, first), end)
	if to == f.offset {
		// It is inside by now: the leader was behind, or has changed.
		f.leader = ""
		return kafkago.OffsetNotAvailable
	}
	f.c.log.Warn("offset is outside the log, moving", "topic", f.cfg.Topic, "partition", f.cfg.Partition,
		"offset", f.offset, "to", to, "first", first, "end", end)
	f.count.resets.Inc()
	f.cfg.Position.starts(first)
	f.offset = to
	return nil
}

// decode decodes batches of f.pending until MaxBytes of records are there.
func (f *Fetcher) decode(ctx context.Context) error {
	decoded := 0
	for len(f.pending) > 0 && decoded < f.cfg.MaxBytes {
		b, rest, err := splitBatch(f.pending)
		if err == nil {
			var n int
			n, err = f.take(ctx, b)
			decoded += n
		}
		if errors.Is(err, errLarge) {
			return nil // it comes by itself, by the next Fetch
		}
		if ctx.Err() != nil && err != nil {
			return err
		}
		if err != nil {
			f.pending = nil
			if len(f.records) > 0 || f.taken && errors.Is(err, errPartial) {
				return nil // the next request asks for this batch again
			}
			return f.refuse(err)
		}
		f.taken = true
		f.pending = rest
	}
	return nil
}

func (f *Fetcher) refuse(err error) error {
	switch {
	case errors.Is(err, errOldFormat):
		return retry.Permanent(err)
	case errors.Is(err, errPartial):
		// Brokers may cut the last batch of an answer off, but not the first
		// since they give out one batch at least; ask for more all the same.
		f.maxBytes = min(2*f.maxBytes, maxResponse/2)
		return err
	}
	f.count.corrupt.Inc()
	return err
}

// take adds the records of a batch that are wanted and committed, moves the
// offset past it, and returns how many bytes it held.
func (f *Fetcher) take(ctx context.Context, b batch) (int, error) {
	// Transactions are aborted from their first offset to the control batch
	// of their producer; a producer has one transaction at a time.
	for len(f.aborted) > 0 && f.aborted[0].firstOffset <= b.lastOffset() {
		f.open[f.aborted[0].producerID] = struct{}{}
		f.aborted = f.aborted[1:]
	}
	_, inAborted := f.open[b.producerID()]
	size := len(b.data)
	switch {
	case b.control():
		if inAborted && b.abort() {
			delete(f.open, b.producerID())
		}
	case b.transactional() && inAborted:
	case b.lastOffset() < f.offset:
	default:
		arena, before := len(f.decoder.arena), len(f.records)
		records, err := f.decodeOne(ctx, b)
		if err != nil && !errors.Is(err, errCorrupt) {
			return 0, err
		}
		if time.Until(time.UnixMilli(b.maxTime())) > 24*time.Hour {
			f.count.ahead.Inc()
		}
		if err != nil {
			// The checksum was right: asking again brings the same.
			f.count.unreadable.Inc()
			f.c.log.Warn("a batch of records cannot be read", "topic", f.cfg.Topic, "partition", f.cfg.Partition,
				"first_offset", b.baseOffset(), "last_offset", b.lastOffset(), "error", err)
			records = append(records, f.unreadable(b, err))
		}
		f.records = records
		size = max(size, len(f.decoder.arena)-arena, (len(records)-before)*recordBytes)
	}
	f.offset = max(f.offset, b.lastOffset()+1)
	return size, nil
}

// decodeOne decodes a batch after the records there are. A large one is decoded
// only if there are none, and once there is memory for it; else the error is
// errLarge.
func (f *Fetcher) decodeOne(ctx context.Context, b batch) ([]Record, error) {
	d := &f.decoder
	size, window, err := d.large(b)
	if err != nil {
		return f.records, err
	}
	if size == 0 && window == 0 {
		d.room, d.headerRoom = ordinaryBatch, ordinaryBatch
		records, err := d.decode(f.records, b, f.offset, f.prototype(b))
		if !errors.Is(err, errLarge) {
			return records, err
		}
	}
	if len(f.records) > 0 {
		return f.records, errLarge
	}
	records, err := f.decodeLarge(ctx, b, window)
	if err != nil {
		f.letGo()
		return f.records, err
	}
	return records, nil
}

// decodeLarge decodes a batch by itself. It is decompressed twice: to know how
// much memory it takes, before that is taken, and into it.
func (f *Fetcher) decodeLarge(ctx context.Context, b batch, window int) ([]Record, error) {
	d := &f.decoder
	d.reset()
	d.arena, d.headers = nil, nil
	if window > 0 {
		if err := f.hold(ctx, window); err != nil {
			return nil, err
		}
	}
	n, err := d.measure(b)
	if err != nil {
		return nil, err
	}
	// A little more, so that the end is seen without more memory.
	n += 512
	d.room, d.headerRoom = 0, ordinaryBatch
	need := n + b.count()*recordBytes + d.headerRoom + window
	for {
		if err := f.hold(ctx, need); err != nil {
			return nil, err
		}
		d.arena = f.c.memory.arena(n)
		records, err := d.decode(make([]Record, 0, b.count()), b, f.offset, f.prototype(b))
		if !errors.Is(err, errLarge) {
			return records, err
		}
		// The headers do not fit. How many there are is not known.
		d.headerRoom = f.c.cfg.LargestBatch
		need += d.headerRoom
		d.arena, d.headers = nil, nil
	}
}

// unreadable returns a record that stands for a batch as a whole.
func (f *Fetcher) unreadable(b batch, err error) Record {
	r := f.prototype(b)
	r.Offset, r.Time, r.Value = b.lastOffset(), time.UnixMilli(b.maxTime()), []byte{}
	r.Unreadable = &Unreadable{First: b.baseOffset(), Batch: b.data, Err: err}
	return r
}

// prototype returns what the records of a batch have in common.
func (f *Fetcher) prototype(b batch) Record {
	return Record{Topic: f.cfg.Topic, Partition: f.cfg.Partition, ProducerID: b.producerID(), ProducerEpoch: b.epoch(), LeaderEpoch: b.leaderEpoch()}
}

// request asks the leader for what follows f.offset, into f.pending.
func (f *Fetcher) request(ctx context.Context) error {
	limit := f.cfg.MaxWait + f.c.cfg.RequestTimeout
	var version int16
	err := f.c.conns.do(ctx, f.leader, limit, func(conn *conn) error {
		if version = conn.versions[protocol.Fetch]; version < minFetchVersion {
			return retry.Permanent(fmt.Errorf("broker %s is older than Kafka 0.11", conn.addr))
		}
		conn.lastID++
		err := protocol.WriteRequest(conn, version, conn.lastID, f.c.cfg.ClientID, &fetch.Request{
			ReplicaID:   -1,
			MaxWaitTime: int32(f.cfg.MaxWait.Milliseconds()),
			MinBytes:    1,
			// The limit of the one partition is the one that counts. kfake
			// leaves the aborted transactions out of an answer that this one cuts
			// short.
			MaxBytes:       math.MaxInt32,
			IsolationLevel: readCommitted,
			SessionEpoch:   -1,
			Topics: []fetch.RequestTopic{{
				Topic: f.cfg.Topic,
				Partitions: []fetch.RequestPartition{{
					Partition:          int32(f.cfg.Partition),
					CurrentLeaderEpoch: -1,
					FetchOffset:        f.offset,
					LogStartOffset:     -1,
					PartitionMaxBytes:  int32(f.maxBytes),
				}},
			}},
		})
		if err != nil {
			return err
		}
		return f.read(conn, conn.lastID)
	})
	if err != nil {
		return err
	}
	return f.parse(version)
}

// read reads the body of an answer into f.buf.
func (f *Fetcher) read(conn *conn, id int32) error {
	var head [8]byte
	if _, err := io.ReadFull(conn, head[:]); err != nil {
		return err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[:]))) - 4
	if size < 0 || size > maxResponse {
		return fmt.Errorf("answer of %d bytes", size)
	}
	if got := int32(binary.BigEndian.Uint32(head[4:])); got != id {
		return fmt.Errorf("answer to request %d, not %d", got, id)
	}
	if cap(f.buf) > 2*max(f.maxBytes, int(size)) {
		f.buf = nil // it was for a large batch
	}
	f.buf = slices.Grow(f.buf[:0], int(size))[:size]
	_, err := io.ReadFull(conn, f.buf)
	return err
}

// parse takes a fetch response of one partition, versions 4 to 11, apart.
// https://kafka.apache.org/protocol.html#The_Messages_Fetch
func (f *Fetcher) parse(version int16) error {
	in := response{data: f.buf}
	in.int32() // throttle time
	if version >= 7 {
		if code := in.int16(); code != 0 {
			return kafkago.Error(code)
		}
		in.int32() // session
	}
	if in.int32() != 1 {
		return errAnswer
	}
	topic := in.bytes(int(in.int16()))
	if string(topic) != f.cfg.Topic || in.int32() != 1 || int(in.int32()) != f.cfg.Partition {
		return errAnswer
	}
	code := in.int16()
	highWatermark := in.int64()
	in.int64() // last stable offset
	if version >= 5 {
		in.int64() // log start offset
	}
	f.aborted = f.aborted[:0]
	clear(f.open)
	for range in.int32() {
		f.aborted = append(f.aborted, abortedTransaction{producerID: in.int64(), firstOffset: in.int64()})
		if in.bad {
			return errAnswer
		}
	}
	if version >= 11 {
		in.int32() // preferred read replica
	}
	f.taken = false
	f.pending = nil
	size := in.int32()
	if size > 0 {
		f.pending = in.bytes(int(size))
	}
	if code != 0 {
		f.pending = nil
		return kafkago.Error(code)
	}
	if in.bad {
		f.pending = nil
		return errAnswer
	}
	f.highWatermark = highWatermark
	slices.SortFunc(f.aborted, func(a, b abortedTransaction) int { return cmp.Compare(a.firstOffset, b.firstOffset) })
	return nil
}

var errAnswer = errors.New("the broker's answer does not fit the request")

// response reads the fields of a response. After a field that does not fit,
// bad is set and everything read is zero.
type response struct {
	data []byte
	bad  bool
}

func (r *response) bytes(n int) []byte {
	if n < 0 || n > len(r.data) {
		r.bad = true
		r.data = nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *response) int16() int16 {
	if b := r.bytes(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *response) int32() int32 {
	if b := r.bytes(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *response) int64() int64 {
	if b := r.bytes(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}
