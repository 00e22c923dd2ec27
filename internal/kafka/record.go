package kafka

import (
	"bytes"
	"slices"
	"strconv"
	"time"
)

// Record is one message of a topic.
type Record struct {
	Topic     string
	Partition int
	Offset    int64
	// Time is the record's timestamp, to the millisecond. Zero on writing
	// means now.
	Time time.Time
	// Key decides the partition on writing. Nil and empty keys differ.
	Key []byte
	// Value is the content; nil is a tombstone.
	Value []byte
	// Headers are at most maxHeaders of those that a record was read with.
	Headers []Header
	// ProducerID and ProducerEpoch are those of the batch that a record was read
	// in, −1 if its producer had none; ignored on writing. They stay when the
	// log is compacted.
	ProducerID    int64
	ProducerEpoch int16
	// LeaderEpoch is how many leaders the partition had when the record was
	// appended, −1 if that is not known; ignored on writing.
	LeaderEpoch int32
	// Unreadable is set on a record that stands for a batch that cannot be
	// read. It has the offset of the batch's last record, no key and an empty
	// value.
	Unreadable *Unreadable
}

// Header returns the value of the record's last header of that name, as Kafka's
// own clients do: whoever passes a record on appends what it has to say. It is
// nil when there is no such header.
func (r *Record) Header(name string) []byte {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == name {
			return r.Headers[i].Value
		}
	}
	return nil
}

// Clone returns a copy that shares no memory with the record.
func (r *Record) Clone() Record {
	c := *r
	c.Key, c.Value, c.Headers = bytes.Clone(r.Key), bytes.Clone(r.Value), slices.Clone(r.Headers)
	for i := range c.Headers {
		c.Headers[i].Value = bytes.Clone(c.Headers[i].Value)
	}
	return c
}

// HeaderNumber returns the header of that name as a decimal number of zero or more;
// ok is false when there is none.
func (r *Record) HeaderNumber(name string) (n int64, ok bool) {
	n, err := strconv.ParseInt(string(r.Header(name)), 10, 64)
	return n, err == nil && n >= 0
}

// Unreadable is a batch of records that cannot be read, and why.
type Unreadable struct {
	// First is the offset of the batch's first record.
	First int64
	// Batch is the batch as the broker gave it.
	Batch []byte
	Err   error
}

// maxHeaders is how many headers of a record are read. Each takes two bytes in
// a batch and many times that in memory.
const maxHeaders = 1000

// Header is one of a record's headers.
type Header struct {
	Key   string
	Value []byte
}
