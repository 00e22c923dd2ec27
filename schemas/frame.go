package schemas

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
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
	if _, rest, ok := CutFrame(header); !ok || len(rest) > 0 {
		return dst, poison(ReasonBadFrame, "header %s holds neither the id nor the GUID of a schema, but %d bytes", ValueSchemaHeader, len(header))
	}
	return append(append(dst, header...), value...), nil
}

// SchemaName is what a frame names a schema by: its id or, if that is not zero,
// its GUID, which is the same in all registries.
type SchemaName struct {
	ID   uint32
	GUID [16]byte
}

// String returns the id, or the GUID as registries write it.
func (n SchemaName) String() string {
	if !n.HasGUID() {
		return strconv.FormatUint(uint64(n.ID), 10)
	}
	text := hex.EncodeToString(n.GUID[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// HasGUID reports whether it is a GUID.
func (n SchemaName) HasGUID() bool { return n.GUID != [16]byte{} }

// CutFrame takes the frame off a value; ok is false if it has none. A GUID of
// zeros is none.
func CutFrame(value []byte) (name SchemaName, datum []byte, ok bool) {
	switch {
	case len(value) >= frameLength && value[0] == magicByte:
		return SchemaName{ID: binary.BigEndian.Uint32(value[1:])}, value[frameLength:], true
	case len(value) >= guidFrameLength && value[0] == magicGUID:
		name.GUID = [16]byte(value[1:guidFrameLength])
		return name, value[guidFrameLength:], name.HasGUID()
	}
	return name, nil, false
}
