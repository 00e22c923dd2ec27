// Package registrytest provides a schema registry in memory for tests.
package registrytest

import (
	"context"
	"fmt"
	"sync"

	"github.com/churnstream/churnstream/schemas/avro"
)

// Registry is a schema registry in memory. It implements schemas.Registry and
// is safe for concurrent use.
type Registry struct {
	mu      sync.Mutex
	schemas map[int]string
	guids   map[string]string
	ids     map[version]int
	last    int // id
	err     error
	lookups int
}

// version is a schema of a subject.
type version struct{ subject, schema string }

// New returns a registry without schemas. The first that is registered gets id
// 1, the next 2, and so on.
func New() *Registry {
	return &Registry{schemas: map[int]string{}, guids: map[string]string{}, ids: map[version]int{}}
}

// Schema returns the schema with an id. The error for one that is not known
// matches avro.ErrSchemaNotFound.
func (r *Registry) Schema(_ context.Context, id int) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups++
	if r.err != nil {
		return "", r.err
	}
	schema, ok := r.schemas[id]
	if !ok {
		return "", fmt.Errorf("%w: id %d", avro.ErrSchemaNotFound, id)
	}
	return schema, nil
}

// SchemaByGUID is Schema for a GUID that PutGUID has made known.
func (r *Registry) SchemaByGUID(_ context.Context, guid string) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lookups++
	if r.err != nil {
		return "", r.err
	}
	schema, ok := r.guids[guid]
	if !ok {
		return "", fmt.Errorf("%w: GUID %s", avro.ErrSchemaNotFound, guid)
	}
	return schema, nil
}

// Register gives a schema of a subject an id, unless it has one. It checks
// neither the schema nor its compatibility.
func (r *Registry) Register(_ context.Context, subject, schema string) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return 0, r.err
	}
	id, ok := r.ids[version{subject, schema}]
	if !ok {
		id = r.add(schema)
		r.ids[version{subject, schema}] = id
	}
	return id, nil
}

// Add makes a schema known under an id of its own, which it returns, even if
// the same is known under another.
func (r *Registry) Add(schema string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.add(schema)
}

func (r *Registry) add(schema string) int {
	for r.last++; ; r.last++ {
		if _, taken := r.schemas[r.last]; !taken {
			r.schemas[r.last] = schema
			return r.last
		}
	}
}

// Put makes a schema known under a given id.
func (r *Registry) Put(id int, schema string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.schemas[id] = schema
}

// PutGUID makes a schema known under a GUID.
func (r *Registry) PutGUID(guid, schema string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guids[guid] = schema
}

// Fail lets Schema, SchemaByGUID and Register answer err, until it is nil.
func (r *Registry) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// Lookups returns how often Schema and SchemaByGUID were called.
func (r *Registry) Lookups() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lookups
}
