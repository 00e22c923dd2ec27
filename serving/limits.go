package serving

import (
	"cmp"
	"time"
)

// Limits bounds what requests may hold and how long they may take. The zero
// value of each is its default.
type Limits struct {
	// BodyBytes is the largest body of /v1/explain and /v1/what-if. Default 64
	// KiB.
	BodyBytes int64
	// BatchBytes is the largest body of /v1/score, Batch the number of customers
	// in it. Default 1 MiB and 1000.
	BatchBytes int64
	Batch      int
	// Page is the number of customers on one page of /v1/customers. Default
	// 500.
	Page int
	// Bodies is how many requests may have their bodies in memory at a time,
	// and BodyWait how long more than these wait. Default 64 and 5 s.
	Bodies   int
	BodyWait time.Duration
	// PublishTimeout is how long a request that changes something waits for
	// Kafka and the registry. Default 10 s.
	PublishTimeout time.Duration
	// Streams is the number of event streams open at a time, StreamWrite how
	// long a browser may take to receive a notice. Default 1000 and 10 s.
	Streams     int
	StreamWrite time.Duration
}

// orDefaults returns the limits with what is not given, or makes no sense,
// filled in.
func (l Limits) orDefaults() Limits {
	return Limits{
		BodyBytes:      cmp.Or(max(l.BodyBytes, 0), 64<<10),
		BatchBytes:     cmp.Or(max(l.BatchBytes, 0), 1<<20),
		Batch:          cmp.Or(max(l.Batch, 0), 1000),
		Page:           min(cmp.Or(max(l.Page, 0), 500), maxDepth),
		Bodies:         cmp.Or(max(l.Bodies, 0), 64),
		BodyWait:       cmp.Or(max(l.BodyWait, 0), 5*time.Second),
		PublishTimeout: cmp.Or(max(l.PublishTimeout, 0), 10*time.Second),
		Streams:        cmp.Or(max(l.Streams, 0), 1000),
		StreamWrite:    cmp.Or(max(l.StreamWrite, 0), 10*time.Second),
	}
}
