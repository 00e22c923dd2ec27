package schemas

import "fmt"

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
	// symbols[i] is the position among our symbols of the writer's symbol i,
	// −1 for one that we do not have.
	symbols []int
	problem string // unreadable: why
}

// fieldNode is a field of a writer's record, in the writer's order.
type fieldNode struct {
	// position is that of the field in our record; −1 if we have none.
	position int
	node     *node
}

// resolve resolves a writer's type w against ours, r. Where the two cannot
// meet it returns an error; inside unions of the writer, unless strict, a
// branch that cannot be read is an error only when it is met.
func resolve(w, r *avroType, strict bool) (*node, error) {
	if w.kind == kindUnion {
		return resolveWriterUnion(w, r, strict)
	}
	if r.kind == kindUnion {
		var first error
		for _, b := range r.branches {
			n, err := resolve(w, b, strict)
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
		unknown := -1
		if r.fallback != "" {
			unknown = r.index(r.fallback)
		}
		for _, s := range w.symbols {
			i := r.index(s)
			if i < 0 {
				i = unknown
			}
			if i < 0 && strict {
				return nil, fmt.Errorf("symbol %s is not known", s)
			}
			n.symbols = append(n.symbols, i)
		}
	case kindArray:
		if n.items, err = resolve(w.items, r.items, strict); err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
	case kindRecord:
		err = n.resolveFields(w, r, strict)
	case kindFixed, kindMap:
		return nil, fmt.Errorf("%s is not used by any message", w.kind)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

func resolveWriterUnion(w, r *avroType, strict bool) (*node, error) {
	n := &node{kind: kindUnion, writer: w}
	var first error
	readable := 0
	for _, b := range w.branches {
		bn, err := resolve(b, r, strict)
		if err != nil {
			if strict {
				return nil, err
			}
			if first == nil || b.kind != kindNull {
				first = err
			}
			bn = &node{kind: kindUnreadable, writer: b, problem: err.Error()}
		} else {
			readable++
		}
		n.branches = append(n.branches, bn)
	}
	if readable == 0 {
		return nil, first
	}
	return n, nil
}

func (n *node) resolveFields(w, r *avroType, strict bool) error {
	position := make([]int, len(w.fields))
	for i := range position {
		position[i] = -1
	}
	for i := range r.fields {
		rf := &r.fields[i]
		j := w.position(rf)
		if j < 0 {
			// A field that may be null needs no default to be absent: it is
			// missing, as for a customer of whom it is not known.
			if !rf.hasDefault && (strict || !rf.typ.nullable()) {
				return fmt.Errorf("field %s is missing and has no default", rf.name)
			}
			continue
		}
		if position[j] < 0 {
			position[j] = i
		}
	}
	for j := range w.fields {
		wf := &w.fields[j]
		f := fieldNode{position: position[j], node: &node{kind: wf.typ.kind, writer: wf.typ}}
		if f.position >= 0 {
			var err error
			if f.node, err = resolve(wf.typ, r.fields[f.position].typ, strict); err != nil {
				return fmt.Errorf("field %s: %w", wf.name, err)
			}
		}
		n.fields = append(n.fields, f)
	}
	return nil
}

// position returns where a writer's record holds the reader's field f, by its
// name or else one of its aliases, or −1.
func (t *avroType) position(f *avroField) int {
	for i := range t.fields {
		if t.fields[i].name == f.name {
			return i
		}
	}
	for _, alias := range f.aliases {
		for i := range t.fields {
			if t.fields[i].name == alias {
				return i
			}
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
