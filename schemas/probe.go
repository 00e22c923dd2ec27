package schemas

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/churnstream/churnstream/schemas/avro"
)

// Probe asks the registry for a schema that this codec writes under, though it
// is known, so that a registry that is gone is noticed before a schema is needed
// that is not. It makes one attempt, after Register.
func (c *Codec) Probe(ctx context.Context) error {
	frame := c.frames[eventMessage].Load()
	if frame == nil {
		return errors.New("no schema has been registered yet")
	}
	id := binary.BigEndian.Uint32(frame[1:])
	_, err := c.registry.Schema(ctx, int(id))
	switch {
	case errors.Is(err, avro.ErrSchemaNotFound):
		return fmt.Errorf("it does not know schema %d any more, under which this process writes; has it lost its schemas, or is it another one? %w", id, err)
	case err != nil:
		return fmt.Errorf("asking for schema %d: %w", id, err)
	}
	return nil
}
