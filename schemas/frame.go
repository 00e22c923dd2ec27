package schemas

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

const (
	// A frame is a magic byte, and the id of a schema in 4 bytes after a zero,
	// or its GUID in 16 after a one.
	magicByte       = 0
	magicGUID       = 1
	frameLength     = 5
	guidFrameLength = 17
)

// ValueSchemaHeader is the header in which Confluent's serializers can name the
// schema of a record's value, by id or GUID as in a frame. The value itself has
// no frame then.
const ValueSchemaHeader = "__value_schema_id"

// KeySchemaHeader is ValueSchemaHeader for the key.
const KeySchemaHeader = "__key_schema_id"

// AppendFramed appends to dst a value after the frame that the record's
// ValueSchemaHeader holds. The error is a *PoisonError.
func AppendFramed(dst, header, value []byte) ([]byte, error) {
	if _, rest, ok := cutFrame(header); !ok || len(rest) > 0 {
		return dst, poison(ReasonBadFrame, "header %s holds neither the id nor the GUID of a schema, but %d bytes", ValueSchemaHeader, len(header))
	}
	return append(append(dst, header...), value...), nil
}

// FrameSchema returns the id or the GUID of the schema that a value's frame names,
// "" without a frame.
func FrameSchema(value []byte) string {
	name, _, ok := cutFrame(value)
	if !ok {
		return ""
	}
	return name.String()
}

// guid is the GUID of a schema, the same in all registries.
type guid [16]byte

// String returns the GUID as registries write it.
func (g guid) String() string {
	text := hex.EncodeToString(g[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// schemaName is what a frame names a schema by: its id or, if that is not zero,
// its GUID.
type schemaName struct {
	id   uint32
	guid guid
}

// String returns the id or the GUID.
func (n schemaName) String() string {
	if n.guid != (guid{}) {
		return n.guid.String()
	}
	return fmt.Sprint(n.id)
}

// cutFrame takes the frame off value. A GUID of zeros is none.
func cutFrame(value []byte) (name schemaName, rest []byte, ok bool) {
	switch {
	case len(value) >= frameLength && value[0] == magicByte:
		return schemaName{id: binary.BigEndian.Uint32(value[1:])}, value[frameLength:], true
	case len(value) >= guidFrameLength && value[0] == magicGUID:
		name.guid = guid(value[1:guidFrameLength])
		return name, value[guidFrameLength:], name.guid != guid{}
	}
	return name, nil, false
}
