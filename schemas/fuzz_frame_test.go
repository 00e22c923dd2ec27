package schemas

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/linkedin/goavro/v2"
)

// FuzzFrame gives whole records, frame included, to every decoder. Whatever
// the bytes, the answer is a message or a reason for a dead letter.
func FuzzFrame(f *testing.F) {
	codec, _ := newCodec(f, ownSet(f))
	golden, err := filepath.Glob("testdata/*.bin")
	if err != nil || len(golden) == 0 {
		f.Fatalf("no golden messages: %v", err)
	}
	for _, path := range golden {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for message := range uint8(messageKinds) {
			f.Add(message, data)
			f.Add(message, data[:len(data)/2])
		}
	}
	f.Add(uint8(0), []byte{})
	f.Add(uint8(0), []byte{0, 0, 0, 0})
	f.Add(uint8(0), []byte{0, 0xff, 0xff, 0xff, 0xff})
	f.Add(uint8(0), []byte{1, 0, 0, 0, 1, 0})
	ctx := context.Background()
	f.Fuzz(func(t *testing.T, message uint8, value []byte) {
		if len(value) > maxFuzzInput {
			t.Skip("too long")
		}
		var err error
		switch message % uint8(messageKinds) {
		case 0:
			err = codec.DecodeEvent(ctx, value, codec.NewEvent())
		case 1:
			err = codec.DecodeScore(ctx, value, codec.NewScore())
		case 2:
			err = codec.DecodeOutcome(ctx, value, new(ChurnOutcome))
		case 3:
			err = codec.DecodeModel(ctx, value, new(ModelVersion))
		case 4:
			err = codec.DecodeDeadLetter(ctx, value, new(DeadLetter))
		case 5:
			err = codec.DecodeProgress(ctx, value, new(Progress))
		case 6:
			err = codec.DecodeExamples(ctx, value, new(CustomerExamples))
		case 7:
			err = codec.DecodeLabelerProgress(ctx, value, new(LabelerProgress))
		}
		noFrame := len(value) < frameLength || value[0] != magicByte
		if err == nil {
			if noFrame {
				t.Fatalf("%x was decoded", value)
			}
			return
		}
		poison, ok := AsPoison(err)
		if !ok {
			t.Fatalf("%x: an error that is not about the bytes: %v", value, err)
		}
		if noFrame != (poison.Reason == ReasonBadFrame) || poison.Detail == "" {
			t.Errorf("%x: %s, %q", value, poison.Reason, poison.Detail)
		}
	})
}

// FuzzParse gives any bytes as another company's schema. What is taken has
// features, and makes schemas that goavro takes, too.
func FuzzParse(f *testing.F) {
	f.Add(customerEventSchema)
	f.Add([]byte(shopSchema))
	f.Add([]byte(`{"type":"record","name":"CustomerAttributes","fields":[{"name":"a","type":["null","double"],"default":null}]}`))
	f.Add([]byte(`{"type":"record","name":"CustomerAttributes","fields":[{"name":"a","type":["null","CustomerAttributes"]}]}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, avsc []byte) {
		if len(avsc) > maxFuzzInput {
			t.Skip("too long")
		}
		set, err := Parse(avsc)
		if err != nil {
			return
		}
		if set.Spec().Len() == 0 {
			t.Fatal("no features")
		}
		for _, topic := range []string{TopicEvents, TopicScores, TopicOutcomes} {
			if _, err := goavro.NewCodec(set.Schema(topic)); err != nil {
				t.Errorf("the schema of %s made from %s: %v", topic, avsc, err)
			}
		}
	})
}
