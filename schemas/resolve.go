package schemas

import (
	"errors"
	"fmt"
)

// node is a writer's type resolved against ours, by the rules of schema
// resolution in the Avro specification: what the bytes hold is the writer's,
// where values go is ours. Names of records, enums and fixed types are not
// compared; fields and symbols decide.
type node struct {
	kind     kind      // the writer's
	writer   *avroType // for skipping
	branches []*node   // union
	items    *node     // array
	fields   []fieldNode
	names    []string // of fields
	// symbols[i] is the position among our symbols of the writer's symbol i,
	// −1 for one that we do not have.
	symbols []int
	problem string // unreadable: why
}

// fieldNode is a field of a writer's record, in the writer's order. Fields that
// we do not have and that take no bytes are left out: there may be many of them
// to every item of an array.
type fieldNode struct {
	// position is that of the field in our record; −1 if we have none.
	position int
	node     *node
}

// maxResolveSteps bounds the fields, branches and symbols that are looked at
// to resolve one schema. The largest schema of our own, which has its features
// twice, stays below it, as do others of that size.
const maxResolveSteps = 1 << 22

// resolve resolves a writer's type w against ours, r. Where the two cannot
// meet it returns an error; inside unions of the writer, unless strict, a
// branch that cannot be read is an error only when it is met.
func resolve(w, r *avroType, strict bool) (*node, error) {
	rs := resolver{
		strict: strict, left: maxResolveSteps,
		resolved: map[typePair]resolution{}, positions: map[*avroType]map[string]int{},
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
	positions map[*avroType]map[string]int
}

type typePair struct{ writer, reader *avroType }

// resolution is a node or why there is none. The node of an error stands for
// a branch of a union that cannot be read.
type resolution struct {
	node *node
	err  error
}

func (rs *resolver) resolve(w, r *avroType) (*node, error) {
	pair := typePair{w, r}
	done, ok := rs.resolved[pair]
	if !ok {
		if done.node, done.err = rs.match(w, r); done.err != nil {
			done.node = &node{kind: kindUnreadable, writer: w, problem: done.err.Error()}
		}
		rs.resolved[pair] = done
	}
	return done.node, done.err
}

func (rs *resolver) match(w, r *avroType) (*node, error) {
	if rs.left--; rs.left < 0 {
		return nil, errors.New("too many steps")
	}
	if w.kind == kindUnion {
		return rs.matchWriterUnion(w, r)
	}
	if r.kind == kindUnion {
		var first error
		for _, b := range r.branches {
			n, err := rs.resolve(w, b)
			if err == nil {
				return n, nil
			}
			if first == nil || w.kind != kindNull && b.kind != kindNull {
				first = err
			}
		}
		return nil, first
	}
	n := &node{kind: w.kind, writer: w}
	switch {
	case w.kind == r.kind:
	case w.kind == kindInt && (r.kind == kindLong || r.kind == kindFloat || r.kind == kindDouble),
		w.kind == kindLong && (r.kind == kindFloat || r.kind == kindDouble),
		w.kind == kindFloat && r.kind == kindDouble,
		w.kind == kindString && r.kind == kindBytes,
		w.kind == kindBytes && r.kind == kindString:
		return n, nil
	default:
		return nil, fmt.Errorf("%s cannot be read as %s", w.kind, r.kind)
	}
	var err error
	switch w.kind {
	case kindEnum:
		err = rs.matchSymbols(n, w, r)
	case kindArray:
		if n.items, err = rs.resolve(w.items, r.items); err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
	case kindRecord:
		err = rs.matchFields(n, w, r)
	case kindFixed, kindMap:
		return nil, fmt.Errorf("%s is not used by any message", w.kind)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func (rs *resolver) matchWriterUnion(w, r *avroType) (*node, error) {
	n := &node{kind: kindUnion, writer: w}
	rs.left -= len(w.branches)
	var first error
	readable := 0
	for _, b := range w.branches {
		bn, err := rs.resolve(b, r)
		if err == nil {
			readable++
		} else if rs.strict {
			return nil, err
		} else if first == nil || b.kind != kindNull {
			first = err
		}
		n.branches = append(n.branches, bn)
	}
	if readable == 0 {
		return nil, first
	}
	return n, nil
}

func (rs *resolver) matchSymbols(n *node, w, r *avroType) error {
	known := rs.positionsIn(r)
	unknown := -1
	if r.fallback != "" {
		unknown = known[r.fallback]
	}
	rs.left -= len(w.symbols)
	for _, s := range w.symbols {
		i, ok := known[s]
		if !ok {
			i = unknown
		}
		if i < 0 && rs.strict {
			return fmt.Errorf("symbol %.128s is not known", s)
		}
		n.symbols = append(n.symbols, i)
	}
	return nil
}

func (rs *resolver) matchFields(n *node, w, r *avroType) error {
	position := make([]int, len(w.fields))
	for i := range position {
		position[i] = -1
	}
	names := rs.positionsIn(w)
	rs.left -= len(w.fields) + len(r.fields)
	for i := range r.fields {
		rf := &r.fields[i]
		j := rf.in(names)
		if j < 0 {
			// A field that may be null needs no default to be absent: it is
			// missing, as for a customer of whom it is not known.
			if rf.def == nil && (rs.strict || !rf.typ.nullable()) {
				return fmt.Errorf("field %.128s is missing and has no default", rf.name)
			}
			continue
		}
		if position[j] < 0 {
			position[j] = i
		}
	}
	for j := range w.fields {
		wf := &w.fields[j]
		f := fieldNode{position: position[j]}
		var err error
		switch {
		case f.position >= 0:
			if f.node, err = rs.resolve(wf.typ, r.fields[f.position].typ); err != nil {
				return fmt.Errorf("field %.128s: %w", wf.name, err)
			}
		case wf.typ.empty:
			continue
		default:
			f.node = rs.skipped(wf.typ)
		}
		n.fields, n.names = append(n.fields, f), append(n.names, wf.name)
	}
	return nil
}

// skipped returns the node of a type that is only read over.
func (rs *resolver) skipped(w *avroType) *node {
	pair := typePair{writer: w}
	done, ok := rs.resolved[pair]
	if !ok {
		done.node = &node{kind: w.kind, writer: w}
		rs.resolved[pair] = done
	}
	return done.node
}

// positionsIn returns where a record has its fields, or an enum its symbols.
func (rs *resolver) positionsIn(t *avroType) map[string]int {
	positions, ok := rs.positions[t]
	if !ok {
		positions = t.positions()
		rs.positions[t] = positions
		rs.left -= len(positions)
	}
	return positions
}

func (t *avroType) positions() map[string]int {
	positions := make(map[string]int, len(t.fields)+len(t.symbols))
	for i := range t.fields {
		positions[t.fields[i].name] = i
	}
	for i, s := range t.symbols {
		positions[s] = i
	}
	return positions
}

// in returns where a writer's record, given by the positions of its fields,
// has our field f, by its name or else one of its aliases, or −1.
func (f *avroField) in(writer map[string]int) int {
	if i, ok := writer[f.name]; ok {
		return i
	}
	for _, alias := range f.aliases {
		if i, ok := writer[alias]; ok {
			return i
		}
	}
	return -1
}

func (t *avroType) nullable() bool {
	if t.kind == kindUnion {
		for _, b := range t.branches {
			if b.kind == kindNull {
				return true
			}
		}
	}
	return t.kind == kindNull
}
