package avro

import (
	"errors"
	"fmt"
)

// Node is a writer's type resolved against ours, by the rules of schema
// resolution in the Avro specification: what the bytes hold is the writer's,
// where values go is ours. Names of records, enums and fixed types are not
// compared; fields and symbols decide.
type Node struct {
	Kind     Kind    // the writer's
	Writer   *Type   // for Reader.Skip
	Branches []*Node // union
	Items    *Node   // array
	Fields   []NodeField
	Names    []string // of Fields
	// Symbols[i] is the position among our symbols of the writer's symbol i,
	// −1 for one that we do not have.
	Symbols []int
	time    timeUnit // long and int
	problem string   // unreadable: why
}

// Problem returns why an Unreadable node is that.
func (n *Node) Problem() string { return n.problem }

// timeUnit is what makes milliseconds of a writer's number: times over per,
// rounded down. The zero value leaves numbers as they are.
type timeUnit struct{ times, per int64 }

// of returns the milliseconds of a writer's number.
func (u timeUnit) of(x int64) int64 {
	if u.per <= 0 {
		return x
	}
	x *= u.times // of 32 bits, unless times is 1
	q := x / u.per
	if x%u.per < 0 {
		q--
	}
	return q
}

// timeUnits are those of the logical types of times. Local times are taken for
// those of UTC.
var timeUnits = map[string]timeUnit{
	"timestamp-micros":       {1, 1000},
	"timestamp-nanos":        {1, 1000_000},
	"local-timestamp-micros": {1, 1000},
	"local-timestamp-nanos":  {1, 1000_000},
	"date":                   {24 * 60 * 60 * 1000, 1},
}

// timeUnitOf returns how a writer's number is read as the time that the
// reader's is. A time of day is none.
func timeUnitOf(w, r *Type) (timeUnit, error) {
	switch {
	case r.Logical != "timestamp-millis":
	case w.Logical == "time-millis", w.Logical == "time-micros":
		return timeUnit{}, fmt.Errorf("%s cannot be read as %s", w.Logical, r.Logical)
	case w.Logical == "date" && w.Kind != Int: // which is none then
	default:
		return timeUnits[w.Logical], nil
	}
	return timeUnit{}, nil
}

// NodeField is a field of a writer's record, in the writer's order. Fields that
// we do not have and that take no bytes are left out: there may be many of them
// to every item of an array.
type NodeField struct {
	// Position is that of the field in our record; −1 if we have none.
	Position int
	Node     *Node
}

// maxResolveSteps bounds the fields, branches and symbols that are looked at
// to resolve one schema. The largest schema of our own, which has its features
// twice, stays below it, as do others of that size.
const maxResolveSteps = 1 << 22

// Resolve resolves a writer's type against the reader's, which is ours. Where
// the two cannot meet it returns an error; inside unions of the writer a branch
// that cannot be read is an error only when it is met.
func Resolve(writer, reader *Type) (*Node, error) { return resolve(writer, reader, false) }

// Compatible returns why a reader cannot read every datum that there can be of
// the writer's type, by the rules of schema resolution, but for the names of
// types.
func Compatible(writer, reader *Type) error {
	_, err := resolve(writer, reader, true)
	return err
}

func resolve(w, r *Type, strict bool) (*Node, error) {
	rs := resolver{
		strict: strict, left: maxResolveSteps,
		resolved: map[typePair]resolution{}, positions: map[*Type]map[string]int{},
	}
	n, err := rs.resolve(w, r)
	if rs.left < 0 {
		return nil, errors.New("it has too many fields, branches and symbols to be matched with ours")
	}
	return n, err
}

// resolver resolves the types of one writer. A type that is met again under
// the same of ours, as a named one can be in every field, is the same node.
type resolver struct {
	strict    bool
	left      int // steps
	resolved  map[typePair]resolution
	positions map[*Type]map[string]int
}

type typePair struct{ writer, reader *Type }

// resolution is a node or why there is none. The node of an error stands for
// a branch of a union that cannot be read.
type resolution struct {
	node *Node
	err  error
}

func (rs *resolver) resolve(w, r *Type) (*Node, error) {
	pair := typePair{w, r}
	done, ok := rs.resolved[pair]
	if !ok {
		if done.node, done.err = rs.match(w, r); done.err != nil {
			done.node = &Node{Kind: Unreadable, Writer: w, problem: done.err.Error()}
		}
		rs.resolved[pair] = done
	}
	return done.node, done.err
}

func (rs *resolver) match(w, r *Type) (*Node, error) {
	if rs.left--; rs.left < 0 {
		return nil, errors.New("too many steps")
	}
	if w.Kind == Union {
		return rs.matchWriterUnion(w, r)
	}
	if r.Kind == Union {
		var first error
		for _, b := range r.Branches {
			n, err := rs.resolve(w, b)
			if err == nil {
				return n, nil
			}
			if first == nil || w.Kind != Null && b.Kind != Null {
				first = err
			}
		}
		return nil, first
	}
	n := &Node{Kind: w.Kind, Writer: w}
	if w.Logical == "decimal" && r.Kind != w.Kind {
		// Not by the specification, but what everybody means who writes one.
		if whole := r.Kind == Int || r.Kind == Long; rs.strict || r.Kind != Float && r.Kind != Double && !(whole && w.Scale == 0) {
			return nil, fmt.Errorf("a decimal of scale %d cannot be read as %s", w.Scale, r.Kind)
		}
		n.Kind = Decimal
		return n, nil
	}
	var err error
	if w.Kind == Int || w.Kind == Long {
		if n.time, err = timeUnitOf(w, r); err != nil {
			return nil, err
		}
		if rs.strict && n.time != (timeUnit{}) {
			return nil, fmt.Errorf("%s is not read as %s by everyone", w.Logical, r.Logical)
		}
	}
	switch {
	case w.Kind == r.Kind:
	case w.Kind == Int && (r.Kind == Long || r.Kind == Float || r.Kind == Double),
		w.Kind == Long && (r.Kind == Float || r.Kind == Double),
		w.Kind == Float && r.Kind == Double,
		w.Kind == String && r.Kind == Bytes,
		w.Kind == Bytes && r.Kind == String:
		return n, nil
	default:
		return nil, fmt.Errorf("%s cannot be read as %s", w.Kind, r.Kind)
	}
	switch w.Kind {
	case Enum:
		err = rs.matchSymbols(n, w, r)
	case Array:
		if n.Items, err = rs.resolve(w.Items, r.Items); err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
	case Record:
		err = rs.matchFields(n, w, r)
	case Fixed, Map:
		return nil, fmt.Errorf("%s is not used by any message", w.Kind)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (rs *resolver) matchWriterUnion(w, r *Type) (*Node, error) {
	n := &Node{Kind: Union, Writer: w}
	rs.left -= len(w.Branches)
	var first error
	readable := 0
	for _, b := range w.Branches {
		bn, err := rs.resolve(b, r)
		if err == nil {
			readable++
		} else if rs.strict {
			return nil, err
		} else if first == nil || b.Kind != Null {
			first = err
		}
		n.Branches = append(n.Branches, bn)
	}
	if readable == 0 {
		return nil, first
	}
	return n, nil
}

func (rs *resolver) matchSymbols(n *Node, w, r *Type) error {
	known := rs.positionsIn(r)
	unknown := -1
	if r.Fallback != "" {
		unknown = known[r.Fallback]
	}
	rs.left -= len(w.Symbols)
	for _, s := range w.Symbols {
		i, ok := known[s]
		if !ok {
			i = unknown
		}
		if i < 0 && rs.strict {
			return fmt.Errorf("symbol %.128s is not known", s)
		}
		n.Symbols = append(n.Symbols, i)
	}
	return nil
}

func (rs *resolver) matchFields(n *Node, w, r *Type) error {
	position := make([]int, len(w.Fields))
	for i := range position {
		position[i] = -1
	}
	names := rs.positionsIn(w)
	rs.left -= len(w.Fields) + len(r.Fields)
	for i := range r.Fields {
		rf := &r.Fields[i]
		j := rf.In(names)
		if j < 0 {
			// A field that may be null needs no default to be absent: it is
			// missing, as for a customer of whom it is not known.
			if rf.Default == nil && (rs.strict || !rf.Type.Nullable()) {
				return fmt.Errorf("field %.128s is missing and has no default", rf.Name)
			}
			continue
		}
		if position[j] < 0 {
			position[j] = i
		}
	}
	for j := range w.Fields {
		wf := &w.Fields[j]
		f := NodeField{Position: position[j]}
		var err error
		switch {
		case f.Position >= 0:
			if f.Node, err = rs.resolve(wf.Type, r.Fields[f.Position].Type); err != nil {
				return fmt.Errorf("field %.128s: %w", wf.Name, err)
			}
		case wf.Type.empty:
			continue
		default:
			f.Node = rs.skipped(wf.Type)
		}
		n.Fields, n.Names = append(n.Fields, f), append(n.Names, wf.Name)
	}
	return nil
}

// skipped returns the node of a type that is only read over.
func (rs *resolver) skipped(w *Type) *Node {
	pair := typePair{writer: w}
	done, ok := rs.resolved[pair]
	if !ok {
		done.node = &Node{Kind: w.Kind, Writer: w}
		rs.resolved[pair] = done
	}
	return done.node
}

// positionsIn returns where a record has its fields, or an enum its symbols.
func (rs *resolver) positionsIn(t *Type) map[string]int {
	positions, ok := rs.positions[t]
	if !ok {
		positions = t.Positions()
		rs.positions[t] = positions
		rs.left -= len(positions)
	}
	return positions
}

// Positions returns where a record has its fields, or an enum its symbols.
func (t *Type) Positions() map[string]int {
	positions := make(map[string]int, len(t.Fields)+len(t.Symbols))
	for i := range t.Fields {
		positions[t.Fields[i].Name] = i
	}
	for i, s := range t.Symbols {
		positions[s] = i
	}
	return positions
}

// In returns where a writer's record, given by the positions of its fields,
// has our field f, by its name or else one of its aliases, or −1.
func (f *Field) In(writer map[string]int) int {
	if i, ok := writer[f.Name]; ok {
		return i
	}
	for _, alias := range f.Aliases {
		if i, ok := writer[alias]; ok {
			return i
		}
	}
	return -1
}

// Nullable says whether a value of the type may be null.
func (t *Type) Nullable() bool {
	if t.Kind == Union {
		for _, b := range t.Branches {
			if b.Kind == Null {
				return true
			}
		}
	}
	return t.Kind == Null
}
