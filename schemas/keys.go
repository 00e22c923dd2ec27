package schemas

import (
	"encoding/json"
	"fmt"

	"github.com/churnstream/churnstream/schemas/avro"
)

// MarkerKey is the key of markers: tombstones by which a producer makes a
// partition its own.
const MarkerKey = "\x00fence"

// ProgressKey is the key of the scorer's markers of progress. What they say is in
// the header HeaderProgress. Their value, for which compaction leaves the last, is
// a score of nobody: many clients decode a value before they look at its key, and
// some by a schema of their own.
const ProgressKey = "\x00progress"

// IsReservedKey reports whether a record's key begins with a zero byte. Such
// keys are for records between processes of ours, markers and notes; no
// customer and no model version has one.
func IsReservedKey[K ~string | ~[]byte](key K) bool { return len(key) > 0 && key[0] == 0 }

// KeyFormat is how upstream writes the customer's id as the key of events and
// outcomes.
type KeyFormat uint8

const (
	// KeyPlain is the id itself.
	KeyPlain KeyFormat = iota
	// KeyAvro is the id as an Avro string, as Confluent's serializers write it:
	// after a frame, or after nothing if the header KeySchemaHeader has that.
	KeyAvro
	// KeyJSON is the id as a JSON string, after a frame or not.
	KeyJSON
)

// ParseKeyFormat returns the format that a setting names: plain, avro or json.
func ParseKeyFormat(text string) (KeyFormat, error) {
	switch text {
	case "", "plain":
		return KeyPlain, nil
	case "avro":
		return KeyAvro, nil
	case "json":
		return KeyJSON, nil
	}
	return 0, fmt.Errorf("%.64q is not plain, avro or json", text)
}

// ID returns the customer's id in a record's key, with its KeySchemaHeader, nil
// for none. A key of another format is taken for the id itself, so that records
// of ours, whose keys are plain, stand among those of upstream. Only a JSON string
// with escapes allocates.
func (f KeyFormat) ID(header, key []byte) []byte {
	if f == KeyPlain {
		return key
	}
	rest := key
	if header == nil {
		if _, datum, framed := CutFrame(key); framed {
			rest = datum
		} else if f == KeyAvro {
			return key
		}
	}
	if f == KeyAvro {
		in := avro.NewReader(rest)
		if id := in.Bytes(); in.Err() == nil && in.Len() == 0 {
			return id
		}
		return key
	}
	return jsonString(rest, key)
}

// jsonString returns the text of a JSON string, or otherwise.
func jsonString(text, otherwise []byte) []byte {
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return otherwise
	}
	inside := text[1 : len(text)-1]
	for _, b := range inside {
		if b == '\\' || b == '"' || b < ' ' {
			var id string
			if json.Unmarshal(text, &id) != nil {
				return otherwise
			}
			return []byte(id)
		}
	}
	return inside
}

// Headers of events and erasures that a scorer has forwarded to the partition
// where their customer is at home now.
const (
	// HeaderForwardedPartition and HeaderForwardedOffset say where it lay.
	HeaderForwardedPartition = "forwarded-partition"
	HeaderForwardedOffset    = "forwarded-offset"
	// HeaderErasureCopy marks the erasure of a customer, written to a partition
	// where the customer was at home before.
	HeaderErasureCopy = "erasure-copy"
)
