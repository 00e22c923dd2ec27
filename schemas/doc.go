// Package schemas holds the messages of churnstream's topics: the Avro
// schemas, their Go types, and the codecs between the two.
//
// The shipped schemas are those of the public Telco customers; [FromFile]
// makes a [Set] of another company's attributes. A [Codec] encodes and decodes
// the five messages in the Confluent wire format, and resolves what other
// versions of a schema wrote to the Set's own.
package schemas
