// Package avro reads Avro that nobody vouches for. Producers register what
// schemas they like and write what bytes they like, so both are bounded: a
// schema takes time and memory in proportion to its text, a datum in proportion
// to its length, and neither nests deeper than a fixed depth.
//
// [Parse] reads a schema, [Resolve] matches a writer's with a reader's, and a
// [Reader] reads a datum along the outcome without an allocation. The Append
// functions write.
package avro
