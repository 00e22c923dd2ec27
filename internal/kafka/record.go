package kafka

import "time"

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
	Value   []byte
	Headers []Header
}

// Header is one of a record's headers.
type Header struct {
	Key   string
	Value []byte
}
