package schemas

import (
	"context"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/churnstream/churnstream/scoring"
)

// maxFuzzInput keeps goavro, which allocates what a block count asks for, from
// running out of memory; no longer input is tried, so that the limit decides
// nothing.
const maxFuzzInput = 4096

// fuzzDecode holds a decoder against goavro: both must accept the same bytes
// and find the same values in them, but for what we refuse on purpose. writer
// chooses the schema that the bytes are taken to be written with: our own, or
// an evolved one.
func fuzzDecode[T any](
	f *testing.F, k messageKind, sample func(*Set) *T, fresh func(*Codec) *T,
	decode func(*Codec, []byte, *T) error,
	appendTo func(*Codec, []byte, *T) []byte,
	expect func(*oracle, native) *T,
) {
	goavro.MaxBlockCount = maxFuzzInput
	set := ownSet(f)
	codec, registry := newCodec(f, set)
	own := set.messages[k].text
	schemas := []string{own, evolved(f, own)}
	ids := []int{int(k) + 1, registry.Add(schemas[1])}
	strict := goavroCodec(f, own)
	var references []*goavro.Codec
	for _, s := range schemas {
		references = append(references, goavroCodec(f, withoutLogicalTypes(f, s)))
	}

	valid := appendTo(codec, nil, sample(set))[frameLength:]
	f.Add(uint8(0), valid)
	f.Add(uint8(0), valid[:len(valid)/2])
	f.Add(uint8(0), append(append([]byte{}, valid...), 0))
	f.Add(uint8(0), append([]byte{0x80, 0x80, 0x00}, valid...))
	if datum, _, err := references[0].NativeFromBinary(valid); err != nil {
		f.Fatal(err)
	} else {
		m := datum.(native)
		m["extra"] = extraValue()
		other, err := references[1].BinaryFromNative(nil, widen(m))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(1), other)
		f.Add(uint8(1), other[:len(other)-1])
	}

	f.Fuzz(func(t *testing.T, writer uint8, datum []byte) {
		if len(datum) > maxFuzzInput {
			t.Skip("too long")
		}
		writer %= uint8(len(schemas))
		set.vocabulary = scoring.NewVocabulary(set.spec)
		framed := binary.BigEndian.AppendUint32([]byte{magicByte}, uint32(ids[writer]))
		framed = append(framed, datum...)
		got := fresh(codec)
		err := decode(codec, framed, got)
		if err != nil {
			if _, ok := AsPoison(err); !ok {
				t.Fatalf("not poison: %v", err)
			}
		}

		value, rest, oracleErr := references[writer].NativeFromBinary(datum)
		if oracleErr == nil && len(rest) > 0 {
			if err == nil {
				t.Fatalf("accepted with %d bytes left over", len(rest))
			}
			return
		}
		if oracleErr != nil {
			// goavro knows no binary map whose key occurs twice; where one is
			// passed over, it does no harm.
			if err == nil && !strings.Contains(oracleErr.Error(), "duplicate key") {
				t.Fatalf("accepted, but goavro: %v", oracleErr)
			}
			return
		}
		o := newOracle(set)
		want := expect(o, value.(native))
		if err != nil {
			if !o.reasons[reasonOf(err)] && !strings.Contains(err.Error(), "nest more than") {
				t.Fatalf("refused (%v), but goavro takes it and the values allow only %v", err, o.reasons)
			}
			return
		}
		if len(o.reasons) > 0 {
			t.Fatalf("accepted in spite of %v", o.reasons)
		}
		if got, want := dump(numbered(set, got)), dump(want); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}

		// What was decoded can be encoded, by us for goavro and for ourselves.
		encoded := appendTo(codec, nil, got)
		if _, rest, err := strict.NativeFromBinary(encoded[frameLength:]); err != nil || len(rest) > 0 {
			t.Fatalf("goavro cannot read what we wrote: %v, %d bytes left", err, len(rest))
		}
		again := fresh(codec)
		if err := decode(codec, encoded, again); err != nil {
			t.Fatalf("we cannot read what we wrote: %v", err)
		}
		if source, again := dump(numbered(set, got)), dump(numbered(set, again)); again != source && writer == 0 && !o.rewritten {
			t.Fatalf("again %s\nwas   %s", again, source)
		}
	})
}

// widen wraps what goavro decoded for narrower types: it encodes a float64 as
// float as it is, but bytes only under the name of their branch.
func widen(v any) any {
	switch v := v.(type) {
	case native:
		if s, ok := v["string"]; ok && len(v) == 1 {
			return native{"bytes": s}
		}
		if x, ok := v["double"]; ok && len(v) == 1 {
			return native{"float": x}
		}
		if n, ok := v["long"]; ok && len(v) == 1 {
			return native{"int": widen(n)}
		}
		out := native{}
		for k, v := range v {
			out[strings.TrimPrefix(k, "churnstream.")] = widen(v)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = widen(v[i])
		}
		return out
	case int64:
		return int64(int32(v)) // it need not be the same, only fit
	}
	return v
}

func FuzzDecodeEvent(f *testing.F) {
	fuzzDecode(f, eventMessage, func(s *Set) *CustomerEvent { return sampleEvent(f, s) }, (*Codec).NewEvent,
		func(c *Codec, b []byte, e *CustomerEvent) error { return c.DecodeEvent(context.Background(), b, e) },
		(*Codec).AppendEvent, (*oracle).event)
}

func FuzzDecodeScore(f *testing.F) {
	fuzzDecode(f, scoreMessage, func(s *Set) *ChurnScore { return sampleScore(f, s) }, (*Codec).NewScore,
		func(c *Codec, b []byte, s *ChurnScore) error { return c.DecodeScore(context.Background(), b, s) },
		(*Codec).AppendScore, (*oracle).score)
}

func FuzzDecodeOutcome(f *testing.F) {
	fuzzDecode(f, outcomeMessage, func(s *Set) *ChurnOutcome { return sampleOutcome(f, s) },
		func(*Codec) *ChurnOutcome { return &ChurnOutcome{} },
		func(c *Codec, b []byte, o *ChurnOutcome) error { return c.DecodeOutcome(context.Background(), b, o) },
		(*Codec).AppendOutcome, (*oracle).outcome)
}

func FuzzDecodeExamples(f *testing.F) {
	fuzzDecode(f, examplesMessage, func(s *Set) *CustomerExamples { return sampleExamples(f, s) },
		func(*Codec) *CustomerExamples { return &CustomerExamples{} },
		func(c *Codec, b []byte, m *CustomerExamples) error {
			return c.DecodeExamples(context.Background(), b, m)
		},
		(*Codec).AppendExamples, (*oracle).examples)
}

func FuzzDecodeModel(f *testing.F) {
	fuzzDecode(f, modelMessage, func(*Set) *ModelVersion { return sampleModel() },
		func(*Codec) *ModelVersion { return &ModelVersion{} },
		func(c *Codec, b []byte, m *ModelVersion) error { return c.DecodeModel(context.Background(), b, m) },
		(*Codec).AppendModel, (*oracle).model)
}

func FuzzDecodeDeadLetter(f *testing.F) {
	fuzzDecode(f, deadLetterMessage, func(*Set) *DeadLetter { return sampleDeadLetter() },
		func(*Codec) *DeadLetter { return &DeadLetter{} },
		func(c *Codec, b []byte, d *DeadLetter) error { return c.DecodeDeadLetter(context.Background(), b, d) },
		(*Codec).AppendDeadLetter, (*oracle).deadLetter)
}

func FuzzDecodeProgress(f *testing.F) {
	fuzzDecode(f, progressMessage, func(*Set) *Progress { return sampleProgress() },
		func(*Codec) *Progress { return &Progress{} },
		func(c *Codec, b []byte, p *Progress) error { return c.DecodeProgress(context.Background(), b, p) },
		(*Codec).AppendProgress, (*oracle).progress)
}

func FuzzDecodeLabelerProgress(f *testing.F) {
	fuzzDecode(f, labelerProgressMessage, func(*Set) *LabelerProgress { return sampleLabelerProgress() },
		func(*Codec) *LabelerProgress { return &LabelerProgress{} },
		func(c *Codec, b []byte, p *LabelerProgress) error {
			return c.DecodeLabelerProgress(context.Background(), b, p)
		},
		(*Codec).AppendLabelerProgress, (*oracle).labelerProgress)
}
