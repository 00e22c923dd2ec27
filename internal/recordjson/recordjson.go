// Package recordjson shows parts of Kafka records as JSON.
package recordjson

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/kafka"
)

// AppendHeaders appends a record's headers as an array.
func AppendHeaders(b []byte, headers []kafka.Header) []byte {
	b = append(b, '[')
	for i, h := range headers {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"key":`...)
		b = append(avrojson.AppendText(b, h.Key), ',')
		b = append(avrojson.AppendBytes(b, "value", h.Value), '}')
	}
	return append(b, ']')
}

// AppendValue appends the members that show a record's value to an object
// that has members: schema_id or schema_guid, and value, or error and
// value_base64. The header is the record's schemas.ValueSchemaHeader, nil for none.
func AppendValue(ctx context.Context, b []byte, d *avrojson.Decoder, header, value []byte) ([]byte, error) {
	if value == nil {
		return append(b, `,"value":null`...), nil
	}
	text, name, err := d.Decode(ctx, header, value)
	switch {
	case name.HasGUID():
		b = append(append(append(b, `,"schema_guid":"`...), name.String()...), '"')
	case name.ID != 0:
		b = append(b, `,"schema_id":`...)
		b = strconv.AppendUint(b, uint64(name.ID), 10)
	}
	var reason *avrojson.UndecodableError
	switch {
	case errors.As(err, &reason):
		b = append(b, `,"error":`...)
		b = avrojson.AppendText(b, reason.Error())
		b = append(b, `,"value_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, value)
		return append(b, '"'), nil
	case err != nil:
		return nil, err
	}
	b = append(b, `,"value":`...)
	return append(b, text...), nil
}
