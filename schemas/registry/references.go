package registry

import (
	"context"
	"fmt"
	"sync"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/avro"
)

const (
	// maxReferences bounds how many other schemas one uses, maxReferenceDepth
	// how deep they use each other, and maxReferenceBytes all their text.
	maxReferences     = 64
	maxReferenceDepth = 16
	maxReferenceBytes = 1 << 20
	// maxCached bounds the text of the references that are remembered.
	maxCached = 8 << 20
)

// whole returns the text of a schema with the types of those that it refers to
// in it. The error is a *schemas.PoisonError if it can never be used.
func (r *Client) whole(ctx context.Context, s sr.Schema) (string, error) {
	if len(s.References) == 0 || s.Type != sr.TypeAvro {
		return s.Schema, nil
	}
	c := collector{client: r, open: map[version]bool{}, done: map[version]bool{}}
	if err := c.collect(ctx, s.References, 1); err != nil {
		return "", err
	}
	text, err := avro.Inline([]byte(s.Schema), c.texts...)
	if err != nil {
		return "", refuse(schemas.ReasonUndecodable, "with its references: %v", err)
	}
	return string(text), nil
}

// refuse is the error for a schema that can never be used.
func refuse(reason schemas.Reason, format string, args ...any) error {
	return &schemas.PoisonError{Reason: reason, Detail: schemas.Clip(fmt.Sprintf(format, args...), maxError)}
}

// version is a version of a subject, which never changes.
type version struct {
	subject string
	number  int
}

func (v version) String() string { return fmt.Sprintf("version %d of %.128q", v.number, v.subject) }

// collector collects what one schema refers to.
type collector struct {
	client     *Client
	open, done map[version]bool
	texts      [][]byte
	bytes      int
}

func (c *collector) collect(ctx context.Context, references []sr.SchemaReference, depth int) error {
	if depth > maxReferenceDepth {
		return refuse(schemas.ReasonTooLarge, "its references are more than %d deep", maxReferenceDepth)
	}
	for _, ref := range references {
		v := version{ref.Subject, ref.Version}
		switch {
		case c.done[v]:
			continue
		case c.open[v]:
			return refuse(schemas.ReasonUndecodable, "%s refers to itself", v)
		case len(c.open)+len(c.done) >= maxReferences:
			return refuse(schemas.ReasonTooLarge, "it has more than %d references", maxReferences)
		}
		s, err := c.client.reference(ctx, v)
		if err != nil {
			return err
		}
		if c.bytes += len(s.Schema); c.bytes > maxReferenceBytes {
			return refuse(schemas.ReasonTooLarge, "its references have more than %d bytes", maxReferenceBytes)
		}
		c.open[v] = true
		if err := c.collect(ctx, s.References, depth+1); err != nil {
			return err
		}
		delete(c.open, v)
		c.done[v] = true
		c.texts = append(c.texts, []byte(s.Schema))
	}
	return nil
}

// references are those that were asked for.
type references struct {
	mu    sync.Mutex
	known map[version]sr.Schema
	bytes int
}

// reference returns a schema that another refers to. Its subject may have been
// deleted since.
func (r *Client) reference(ctx context.Context, v version) (sr.Schema, error) {
	if v.number <= 0 {
		return sr.Schema{}, refuse(schemas.ReasonUndecodable, "it refers to %s, which is none", v)
	}
	r.references.mu.Lock()
	s, ok := r.references.known[v]
	r.references.mu.Unlock()
	if ok {
		return s, nil
	}
	answer, err := r.client.SchemaByVersion(sr.WithParams(ctx, sr.ShowDeleted), v.subject, v.number)
	if err != nil {
		switch errorCode(err) {
		case sr.ErrSubjectNotFound.Code, sr.ErrVersionNotFound.Code, sr.ErrSchemaNotFound.Code:
			return s, fmt.Errorf("schema registry: %w: %s, which another refers to", avro.ErrSchemaNotFound, v)
		}
		return s, fmt.Errorf("schema registry: asking for %s: %w", v, shortened(err))
	}
	r.references.mu.Lock()
	defer r.references.mu.Unlock()
	if r.references.bytes += len(answer.Schema.Schema); r.references.known == nil || r.references.bytes > maxCached {
		r.references.known, r.references.bytes = map[version]sr.Schema{}, len(answer.Schema.Schema)
	}
	r.references.known[v] = answer.Schema
	return answer.Schema, nil
}
