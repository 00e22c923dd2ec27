package schemas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// ErrIncompatible is matched by the error for a schema that the registry
// refuses because it is not compatible with the subject's earlier ones.
var ErrIncompatible = errors.New("schema is not compatible with earlier versions")

// Registry knows schemas by id. Its implementations are safe for concurrent
// use.
type Registry interface {
	// Schema returns the schema with the given id. The error matches
	// avro.ErrSchemaNotFound if the registry says that it has none.
	Schema(ctx context.Context, id int) (string, error)
	// Register makes schema the latest of subject, unless it is already one of
	// subject's, and returns its id.
	Register(ctx context.Context, subject, schema string) (int, error)
}

const (
	// MaxIDBytes bounds customer_id, event_id and source, in bytes.
	MaxIDBytes = 256

	magicByte   = 0
	frameLength = 5 // magic byte and schema id

	// A producer may write with a schema that a replica of the registry has
	// yet to learn of, so an unknown id is asked for again, for a moment.
	unknownTries = 3
	unknownPause = 200 * time.Millisecond
	// unknownTTL is for how long an unknown id is taken as unknown without
	// asking, and for how long after one the others are asked for once only:
	// a flood of poison must neither wait for nor hammer the registry.
	unknownTTL = 5 * time.Second
	// maxUnknown bounds how many unknown ids are remembered.
	maxUnknown = 1024

	defaultSchemaBytes = 256 << 10
	// maxPlans bounds how many schemas of others are remembered for a message,
	// and maxPlansText the text of those together, in multiples of the longest
	// allowed: what is kept of one takes up to 15 times its text.
	maxPlans     = 1024
	maxPlansText = 16
)

// Codec encodes and decodes the messages of one Set in the Confluent wire
// format. It is safe for concurrent use.
type Codec struct {
	// MaxSchemaBytes bounds the text of a writer's schema, in bytes; a record
	// with a longer one is poison. 0 means 256 KiB. It is never less than twice
	// our own schema of the message. It must not be set once the codec is used.
	MaxSchemaBytes int

	set      *Set
	registry Registry

	featureIndex map[string]int

	// plans[k] holds what decoders need, by schema id. The map is replaced
	// when a schema is added. Schemas never change; when there are too many of
	// others, all of those are forgotten, to be asked for again.
	plans [messageKinds]atomic.Pointer[map[uint32]*plan]
	// frames[k] is the frame of message k: magic byte and id.
	frames [messageKinds]atomic.Pointer[[frameLength]byte]

	lookup  chan struct{} // holds a token while someone adds to the below
	unknown map[uint32]time.Time
	flooded time.Time // until then unknown ids are asked for once

	pause time.Duration // unknownPause, but in tests
	now   func() time.Time
}

// plan is a writer's schema resolved against one of ours, or why it cannot be.
type plan struct {
	root    *avro.Node
	reason  Reason // without root
	problem string // without root
	own     bool   // it is the schema that we write ourselves
	bytes   int    // the schema's text, as far as it is kept
}

// NewCodec returns a Codec that looks schemas up in reg.
func NewCodec(set *Set, reg Registry) *Codec {
	c := &Codec{
		set:          set,
		registry:     reg,
		featureIndex: make(map[string]int, set.spec.Len()),
		lookup:       make(chan struct{}, 1),
		unknown:      map[uint32]time.Time{},
		pause:        unknownPause,
		now:          time.Now,
	}
	for i := range set.spec.Len() {
		c.featureIndex[set.spec.Feature(i).Name] = i
	}
	for k := range c.plans {
		c.plans[k].Store(&map[uint32]*plan{})
	}
	return c
}

// Set returns the schemas that the codec deals in.
func (c *Codec) Set() *Set { return c.set }

// Register registers the schemas of all topics and learns their ids, which
// encoding needs. The caller retries while it fails; errors matching
// ErrIncompatible do not pass by waiting.
func (c *Codec) Register(ctx context.Context) error {
	for k, topic := range messageTopics {
		subject := Subject(topic)
		id, err := c.registry.Register(ctx, subject, c.set.messages[k].text)
		if err != nil {
			return fmt.Errorf("registering the schema of %s: %w", subject, err)
		}
		if id < 0 || id > math.MaxInt32 {
			return fmt.Errorf("registering the schema of %s: the registry answered id %d", subject, id)
		}
		var frame [frameLength]byte
		frame[0] = magicByte
		binary.BigEndian.PutUint32(frame[1:], uint32(id))
		// What we wrote ourselves can then be read without the registry.
		if err := c.lock(ctx); err != nil {
			return err
		}
		own := c.planFor(messageKind(k), c.set.messages[k].text)
		own.own = true
		c.add(messageKind(k), uint32(id), own)
		c.unlock()
		c.frames[k].Store(&frame)
	}
	return nil
}

// NewEvent returns an event whose vectors are allocated and missing.
func (c *Codec) NewEvent() *CustomerEvent {
	n := c.set.spec.Len()
	return &CustomerEvent{Changes: scoring.NewVector(n), Increments: scoring.NewVector(n)}
}

// NewScore returns a score whose vector is allocated and missing.
func (c *Codec) NewScore() *ChurnScore {
	return &ChurnScore{Previous: scoring.Missing, Attributes: scoring.NewVector(c.set.spec.Len())}
}

// open takes the frame off value and returns the rest, with the plan for the
// schema that it was written with.
func (c *Codec) open(ctx context.Context, k messageKind, value []byte) ([]byte, *avro.Node, error) {
	if len(value) < frameLength {
		return nil, nil, poison(ReasonBadFrame, "%d bytes, too few for a schema id", len(value))
	}
	if value[0] != magicByte {
		return nil, nil, poison(ReasonBadFrame, "it starts with byte %#02x, not 0", value[0])
	}
	id := binary.BigEndian.Uint32(value[1:])
	p, ok := (*c.plans[k].Load())[id]
	if !ok {
		var err error
		if p, err = c.learn(ctx, k, id); err != nil {
			return nil, nil, err
		}
	}
	if p.root == nil {
		return nil, nil, poison(p.reason, "schema %d does not fit %s: %s", id, messageTopics[k], p.problem)
	}
	return value[frameLength:], p.root, nil
}

func (c *Codec) lock(ctx context.Context) error {
	select {
	case c.lookup <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Codec) unlock() { <-c.lookup }

// learn asks the registry for a schema and resolves it. One goroutine at a
// time does so.
func (c *Codec) learn(ctx context.Context, k messageKind, id uint32) (*plan, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	if p, ok := (*c.plans[k].Load())[id]; ok {
		return p, nil // learned while we waited
	}
	text, err := c.fetch(ctx, id)
	if err != nil {
		return nil, err
	}
	var p *plan
	if most := c.maxSchemaBytes(k); len(text) > most {
		p = &plan{reason: ReasonTooLarge, problem: fmt.Sprintf("it is %d bytes long, at most %d are allowed", len(text), most)}
	} else {
		p = c.planFor(k, text)
	}
	c.add(k, id, p)
	return p, nil
}

func (c *Codec) maxSchemaBytes(k messageKind) int {
	most := c.MaxSchemaBytes
	if most <= 0 {
		most = defaultSchemaBytes
	}
	return max(most, 2*len(c.set.messages[k].text))
}

// planFor resolves a writer's schema.
func (c *Codec) planFor(k messageKind, text string) *plan {
	root, err := compile(text, c.set.messages[k].typ)
	if err != nil {
		return &plan{reason: ReasonUndecodable, problem: Clip(err.Error(), maxDetail)}
	}
	return &plan{root: root, bytes: len(text)}
}

func compile(text string, reader *avro.Type) (*avro.Node, error) {
	w, err := avro.Parse([]byte(text))
	if err != nil {
		return nil, err
	}
	if w.Kind != avro.Record {
		return nil, fmt.Errorf("%s cannot be read as %s", w.Kind, reader.Kind)
	}
	return avro.Resolve(w, reader)
}

// add keeps a plan. The caller holds the lock.
func (c *Codec) add(k messageKind, id uint32, p *plan) {
	known := *c.plans[k].Load()
	others, bytes := 0, p.bytes
	for _, q := range known {
		if !q.own {
			others++
			bytes += q.bytes
		}
	}
	full := !p.own && (others >= maxPlans || bytes > maxPlansText*c.maxSchemaBytes(k))
	grown := make(map[uint32]*plan, len(known)+1)
	for id, q := range known {
		if q.own || !full {
			grown[id] = q
		}
	}
	grown[id] = p
	c.plans[k].Store(&grown)
}

func (c *Codec) fetch(ctx context.Context, id uint32) (string, error) {
	notFound := poison(ReasonUnknownSchema, "the registry has no schema %d", id)
	if id > math.MaxInt32 || c.now().Before(c.unknown[id]) {
		return "", notFound
	}
	tries := unknownTries
	if c.now().Before(c.flooded) {
		tries = 1
	}
	for {
		text, err := c.registry.Schema(ctx, int(id))
		if err == nil {
			return text, nil
		}
		if !errors.Is(err, avro.ErrSchemaNotFound) {
			return "", fmt.Errorf("looking up schema %d: %w", id, err)
		}
		if tries--; tries == 0 {
			break
		}
		select {
		case <-time.After(c.pause):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	if len(c.unknown) >= maxUnknown {
		clear(c.unknown)
	}
	c.flooded = c.now().Add(unknownTTL)
	c.unknown[id] = c.flooded
	return "", notFound
}
