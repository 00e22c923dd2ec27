package schemas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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
	// Schema returns the schema with the given id, whole: with the types in it
	// that are defined elsewhere. The error matches avro.ErrSchemaNotFound if
	// the registry says that it has none, and is an *PoisonError if it has
	// one that cannot be used.
	Schema(ctx context.Context, id int) (string, error)
	// SchemaByGUID is Schema for a GUID, as text.
	SchemaByGUID(ctx context.Context, guid string) (string, error)
	// Register makes schema the latest of subject, unless it is already one of
	// subject's, and returns its id.
	Register(ctx context.Context, subject, schema string) (int, error)
}

const (
	// MaxIDBytes bounds customer_id, event_id and source, in bytes.
	MaxIDBytes = 256

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
	// Keys is how upstream writes the customer's id as the key of events and
	// outcomes. Whatever we write has it as it is. Default: upstream, too. It
	// must not be set once the codec is used.
	Keys KeyFormat
	// MaxClockSkew is how far the time in a message may be ahead of its
	// record's, see CheckClock. Default DefaultClockSkew.
	MaxClockSkew time.Duration

	set      *Set
	registry Registry

	featureIndex map[string]int

	// plans[k] holds what decoders need. It is replaced when a schema is added.
	// Schemas never change; when there are too many of others, all of those are
	// forgotten, to be asked for again.
	plans [messageKinds]atomic.Pointer[plans]
	// frames[k] is the frame of message k: magic byte and id.
	frames [messageKinds]atomic.Pointer[[frameLength]byte]

	lookup  chan struct{} // holds a token while someone adds to the below
	unknown map[SchemaName]time.Time
	flooded time.Time // until then unknown schemas are asked for once

	pause time.Duration // unknownPause, but in tests
	now   func() time.Time
}

// plans are those of one message, by schema id, or by GUID where records name
// their schema so.
type plans struct {
	byID   map[uint32]*plan
	byGUID map[[16]byte]*plan
}

func (p *plans) get(name SchemaName) *plan {
	if name.HasGUID() {
		return p.byGUID[name.GUID]
	}
	return p.byID[name.ID]
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
		unknown:      map[SchemaName]time.Time{},
		pause:        unknownPause,
		now:          time.Now,
	}
	for i := range set.spec.Len() {
		c.featureIndex[set.spec.Feature(i).Name] = i
	}
	for k := range c.plans {
		c.plans[k].Store(&plans{})
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
		c.add(messageKind(k), SchemaName{ID: uint32(id)}, own)
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

// open takes the frame off value and returns the datum to be read, with the plan
// for the record that it was written as.
func (c *Codec) open(ctx context.Context, k messageKind, value []byte) ([]byte, *avro.Node, error) {
	if len(value) >= frameLength && value[0] == magicByte { // as nearly always
		p := c.plans[k].Load().byID[binary.BigEndian.Uint32(value[1:])]
		if p != nil && p.root != nil && p.root.Kind == avro.Record {
			return value[frameLength:], p.root, nil
		}
	}
	return c.openSlowly(ctx, k, value)
}

// openSlowly is open for all values.
func (c *Codec) openSlowly(ctx context.Context, k messageKind, value []byte) ([]byte, *avro.Node, error) {
	name, datum, ok := CutFrame(value)
	if !ok {
		return nil, nil, badFrame(value)
	}
	p := c.plans[k].Load().get(name)
	if p == nil {
		var err error
		if p, err = c.learn(ctx, k, name); err != nil {
			return nil, nil, err
		}
	}
	root := p.root
	if root == nil {
		return nil, nil, poison(p.reason, "schema %s does not fit %s: %s", name, messageTopics[k], p.problem)
	}
	if root.Kind == avro.Union {
		in := newInput(datum)
		if root = in.Branch(root); in.Err() != nil {
			return nil, nil, in.poison()
		}
		if root.Kind != avro.Record {
			return nil, nil, otherBranch(k, name, root)
		}
		datum = datum[len(datum)-in.Len():]
	}
	return datum, root, nil
}

// badFrame says why a value has no frame.
func badFrame(value []byte) error {
	switch {
	case len(value) < frameLength:
		return poison(ReasonBadFrame, "%d bytes, too few for a schema id", len(value))
	case value[0] == magicGUID:
		return poison(ReasonBadFrame, "it starts with byte 0x01, but has no GUID of a schema after that")
	}
	return poison(ReasonBadFrame, "it starts with byte %#02x, not 0", value[0])
}

// otherBranch says what was written of a union at the top of a schema, where a
// message of another kind was.
func otherBranch(k messageKind, name SchemaName, branch *avro.Node) error {
	written := branch.Writer.Name
	if written == "" {
		written = branch.Writer.Kind.String()
	}
	problem := ""
	if branch.Problem() != "" {
		problem = ": " + branch.Problem()
	}
	return poison(ReasonUndecodable, "%.256s was written, of the union that schema %s is, which does not fit %s%s",
		written, name, messageTopics[k], problem)
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
func (c *Codec) learn(ctx context.Context, k messageKind, name SchemaName) (*plan, error) {
	if err := c.lock(ctx); err != nil {
		return nil, err
	}
	defer c.unlock()
	if p := c.plans[k].Load().get(name); p != nil {
		return p, nil // learned while we waited
	}
	text, err := c.fetch(ctx, name)
	var p *plan
	if refused, ok := AsPoison(err); ok && refused.Reason != ReasonUnknownSchema {
		p = &plan{reason: refused.Reason, problem: refused.Detail}
	} else if err != nil {
		return nil, err
	} else if most := c.maxSchemaBytes(k); len(text) > most {
		p = &plan{reason: ReasonTooLarge, problem: fmt.Sprintf("it is %d bytes long, at most %d are allowed", len(text), most)}
	} else {
		p = c.planFor(k, text)
	}
	c.add(k, name, p)
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
	w, err := avro.ParseWriter([]byte(text))
	if err != nil {
		return nil, err
	}
	return avro.Resolve(w, reader)
}

// add keeps a plan. The caller holds the lock.
func (c *Codec) add(k messageKind, name SchemaName, p *plan) {
	known := c.plans[k].Load()
	others, bytes := 0, p.bytes
	count := func(q *plan) {
		if !q.own {
			others++
			bytes += q.bytes
		}
	}
	for _, q := range known.byID {
		count(q)
	}
	for _, q := range known.byGUID {
		count(q)
	}
	grown := &plans{maps.Clone(known.byID), maps.Clone(known.byGUID)}
	if !p.own && (others >= maxPlans || bytes > maxPlansText*c.maxSchemaBytes(k)) {
		maps.DeleteFunc(grown.byID, func(_ uint32, q *plan) bool { return !q.own })
		grown.byGUID = nil
	}
	if !name.HasGUID() {
		if grown.byID == nil {
			grown.byID = map[uint32]*plan{}
		}
		grown.byID[name.ID] = p
	} else {
		if grown.byGUID == nil {
			grown.byGUID = map[[16]byte]*plan{}
		}
		grown.byGUID[name.GUID] = p
	}
	c.plans[k].Store(grown)
}

// ask asks the registry once.
func (c *Codec) ask(ctx context.Context, name SchemaName) (string, error) {
	if name.HasGUID() {
		return c.registry.SchemaByGUID(ctx, name.String())
	}
	return c.registry.Schema(ctx, int(name.ID))
}

// fetch asks the registry for a schema. The error is a *PoisonError with
// ReasonUnknownSchema if that has none, one with another reason if it has one
// that cannot be used, or passing.
func (c *Codec) fetch(ctx context.Context, name SchemaName) (string, error) {
	notFound := poison(ReasonUnknownSchema, "the registry has no schema %s", name)
	if name.ID > math.MaxInt32 || c.now().Before(c.unknown[name]) {
		return "", notFound
	}
	tries := unknownTries
	if c.now().Before(c.flooded) {
		tries = 1
	}
	for {
		text, err := c.ask(ctx, name)
		if err == nil {
			return text, nil
		}
		if !errors.Is(err, avro.ErrSchemaNotFound) {
			return "", fmt.Errorf("looking up schema %s: %w", name, err)
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
	c.unknown[name] = c.flooded
	return "", notFound
}
