package schemas

import (
	"testing"
	"time"
)

// againstGoavro runs ours as the benchmark and goavro for comparison in the
// same run, and reports how many times as long goavro takes.
func againstGoavro(b *testing.B, ours, theirs func()) {
	const rounds = 2000
	b.ReportAllocs()
	start := time.Now()
	for range rounds {
		theirs()
	}
	reference := float64(time.Since(start).Nanoseconds()) / rounds
	for b.Loop() {
		ours()
	}
	own := float64(b.Elapsed().Nanoseconds()) / float64(b.N)
	b.ReportMetric(reference, "goavro-ns/op")
	b.ReportMetric(reference/own, "x-goavro")
}

func BenchmarkDecodeEvent(b *testing.B) {
	s := ownSet(b)
	c, _ := newCodec(b, s)
	for _, bench := range []struct {
		name  string
		event *CustomerEvent
	}{
		{"few", sampleEvent(b, s)},
		{"all", func() *CustomerEvent { e := sampleEvent(b, s); e.Changes = attributes(b, s, customer); return e }()},
	} {
		b.Run(bench.name, func(b *testing.B) {
			value, e := c.AppendEvent(nil, bench.event), c.NewEvent()
			reference := goavroCodec(b, withoutLogicalTypes(b, s.Schema(TopicEvents)))
			againstGoavro(b, func() {
				if err := c.DecodeEvent(b.Context(), value, e); err != nil {
					b.Fatal(err)
				}
			}, func() {
				if _, _, err := reference.NativeFromBinary(value[frameLength:]); err != nil {
					b.Fatal(err)
				}
			})
		})
	}
}

func BenchmarkDecodeScore(b *testing.B) {
	s := ownSet(b)
	c, _ := newCodec(b, s)
	value, score := c.AppendScore(nil, sampleScore(b, s)), c.NewScore()
	reference := goavroCodec(b, withoutLogicalTypes(b, s.Schema(TopicScores)))
	againstGoavro(b, func() {
		if err := c.DecodeScore(b.Context(), value, score); err != nil {
			b.Fatal(err)
		}
	}, func() {
		if _, _, err := reference.NativeFromBinary(value[frameLength:]); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkAppendScore(b *testing.B) {
	s := ownSet(b)
	c, _ := newCodec(b, s)
	score := sampleScore(b, s)
	dst := c.AppendScore(nil, score)
	reference := goavroCodec(b, withoutLogicalTypes(b, s.Schema(TopicScores)))
	native, _, err := reference.NativeFromBinary(dst[frameLength:])
	if err != nil {
		b.Fatal(err)
	}
	scratch := make([]byte, 0, len(dst))
	againstGoavro(b, func() { dst = c.AppendScore(dst[:0], score) }, func() {
		if _, err := reference.BinaryFromNative(scratch[:0], native); err != nil {
			b.Fatal(err)
		}
	})
}

func BenchmarkAppendEvent(b *testing.B) {
	s := ownSet(b)
	c, _ := newCodec(b, s)
	event := sampleEvent(b, s)
	dst := c.AppendEvent(nil, event)
	reference := goavroCodec(b, withoutLogicalTypes(b, s.Schema(TopicEvents)))
	native, _, err := reference.NativeFromBinary(dst[frameLength:])
	if err != nil {
		b.Fatal(err)
	}
	scratch := make([]byte, 0, len(dst))
	againstGoavro(b, func() { dst = c.AppendEvent(dst[:0], event) }, func() {
		if _, err := reference.BinaryFromNative(scratch[:0], native); err != nil {
			b.Fatal(err)
		}
	})
}
