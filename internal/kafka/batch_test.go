package kafka

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go/protocol"
)

var codecs = map[string]Compression{"none": NoCompression, "gzip": Gzip, "snappy": Snappy, "lz4": LZ4, "zstd": Zstd}

// testRecords returns records with every shape of key, value and headers.
func testRecords(n int) []Record {
	at := time.UnixMilli(1_700_000_000_000)
	records := make([]Record, n)
	for i := range records {
		r := Record{Time: at.Add(time.Duration(i%7-3) * time.Second), Offset: int64(i)}
		if i%5 != 0 {
			r.Key = fmt.Appendf(nil, "customer-%d", i)
		}
		if i%7 != 0 {
			r.Value = bytes.Repeat([]byte{byte(i)}, i*3)
		}
		if i%3 == 0 {
			r.Headers = []Header{{Key: "source-partition", Value: []byte{byte(i)}}, {Key: "empty", Value: []byte{}}, {Key: "nil"}}
		}
		records[i] = r
	}
	return records
}

func encodeBatch(t testing.TB, records []Record, compression Compression, producer producerState) []byte {
	t.Helper()
	var e encoder
	frame, err := e.encode(records, compression, producer, time.UnixMilli(1))
	if err != nil {
		t.Fatal(err)
	}
	if got := int(binary.BigEndian.Uint32(frame)); got != len(frame)-4 {
		t.Fatalf("size prefix %d, want %d", got, len(frame)-4)
	}
	return frame[4:]
}

// seal sets fields of a batch and corrects its checksum.
func seal(data []byte, edit func(data []byte)) []byte {
	data = bytes.Clone(data)
	edit(data)
	binary.BigEndian.PutUint32(data[atCRC:], crc32.Checksum(data[atAttributes:], castagnoli))
	return data
}

func decodeAll(data []byte, from int64) ([]Record, error) {
	b, rest, err := splitBatch(data)
	if err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%d bytes left", len(rest))
	}
	var d decoder
	return d.decode(nil, b, from, Record{})
}

func TestBatchRoundTrip(t *testing.T) {
	for name, compression := range codecs {
		t.Run(name, func(t *testing.T) {
			want := testRecords(200)
			producer := producerState{id: 4711, epoch: 12, sequence: 99}
			data := encodeBatch(t, want, compression, producer)
			got, err := decodeAll(data, 0)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decoded records differ from those encoded")
			}
			b, _, _ := splitBatch(data)
			if b.producerID() != 4711 || b.lastOffset() != 199 || b.transactional() || b.control() {
				t.Errorf("header: producer %d, last offset %d", b.producerID(), b.lastOffset())
			}
		})
	}
}

// kafka-go's own encoder and decoder are the reference.
func TestBatchAgreesWithReference(t *testing.T) {
	for name, compression := range codecs {
		t.Run(name, func(t *testing.T) {
			records := testRecords(50)
			var in []protocol.Record
			for _, r := range records {
				p := protocol.Record{Time: r.Time, Key: protocol.NewBytes(r.Key), Value: protocol.NewBytes(r.Value)}
				for _, h := range r.Headers {
					p.Headers = append(p.Headers, protocol.Header(h))
				}
				in = append(in, p)
			}
			set := protocol.RecordSet{Version: 2, Attributes: protocol.Attributes(compression), Records: protocol.NewRecordReader(in...)}
			var encoded bytes.Buffer
			if _, err := set.WriteTo(&encoded); err != nil {
				t.Fatal(err)
			}
			got, err := decodeAll(encoded.Bytes()[4:], 0)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, records) {
				t.Error("we read the reference's batch differently")
			}

			var e encoder
			frame, err := e.encode(records, compression, noProducer, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if compression == NoCompression && !bytes.Equal(frame, encoded.Bytes()) {
				t.Error("our batch has other bytes than the reference's")
			}
			var out protocol.RecordSet
			if _, err := out.ReadFrom(bufio.NewReader(bytes.NewReader(frame))); err != nil {
				t.Fatal(err)
			}
			for i := 0; ; i++ {
				r, err := out.Records.ReadRecord()
				if errors.Is(err, io.EOF) {
					if i != len(records) {
						t.Errorf("the reference reads %d records of ours, want %d", i, len(records))
					}
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				key, _ := protocol.ReadAll(r.Key)
				value, _ := protocol.ReadAll(r.Value)
				want := records[i]
				if !bytes.Equal(key, want.Key) || (key == nil) != (want.Key == nil) || !bytes.Equal(value, want.Value) ||
					(value == nil) != (want.Value == nil) || !r.Time.Equal(want.Time) || len(r.Headers) != len(want.Headers) {
					t.Errorf("record %d: the reference reads %q=%q at %v", i, key, value, r.Time)
				}
			}
		})
	}
}

func TestEveryDamagedByteIsRefused(t *testing.T) {
	for name, compression := range codecs {
		t.Run(name, func(t *testing.T) {
			data := encodeBatch(t, testRecords(20), compression, noProducer)
			for i := atCRC; i < len(data); i++ {
				damaged := bytes.Clone(data)
				damaged[i] ^= 0x10
				if _, _, err := splitBatch(damaged); !errors.Is(err, errCorrupt) {
					t.Fatalf("byte %d damaged: error %v", i, err)
				}
			}
		})
	}
}

func TestSplitBatch(t *testing.T) {
	data := encodeBatch(t, testRecords(3), NoCompression, noProducer)
	for n := range len(data) {
		if _, _, err := splitBatch(data[:n]); !errors.Is(err, errPartial) {
			t.Fatalf("first %d bytes of %d: error %v, want %v", n, len(data), err, errPartial)
		}
	}
	two := append(bytes.Clone(data), data...)
	b, rest, err := splitBatch(two)
	if err != nil || len(b.data) != len(data) || !bytes.Equal(rest, data) {
		t.Errorf("two batches: first of %d bytes, %d left, %v", len(b.data), len(rest), err)
	}
	old := bytes.Clone(data)
	old[atMagic] = 1
	if _, _, err := splitBatch(old); !errors.Is(err, errOldFormat) {
		t.Errorf("format 1: %v", err)
	}
}

func TestDecodeBatch(t *testing.T) {
	data := encodeBatch(t, testRecords(10), NoCompression, noProducer)
	t.Run("records before the wanted offset are left out", func(t *testing.T) {
		shifted := seal(data, func(b []byte) { binary.BigEndian.PutUint64(b, 1000) })
		got, err := decodeAll(shifted, 1007)
		if err != nil || len(got) != 3 || got[0].Offset != 1007 {
			t.Errorf("%d records, %v", len(got), err)
		}
	})
	t.Run("log append time replaces the records' times", func(t *testing.T) {
		stamped := seal(data, func(b []byte) {
			b[atAttributes+1] |= attrLogAppendTime
			binary.BigEndian.PutUint64(b[atMaxTimestamp:], 1234)
		})
		got, err := decodeAll(stamped, 0)
		if err != nil || got[5].Time.UnixMilli() != 1234 {
			t.Errorf("time %v, %v", got[5].Time, err)
		}
	})
	t.Run("zero time is now", func(t *testing.T) {
		now := encodeBatch(t, []Record{{Value: []byte("x")}}, NoCompression, noProducer)
		got, err := decodeAll(now, 0)
		if err != nil || got[0].Time.UnixMilli() != 1 {
			t.Errorf("time %v, %v", got[0].Time, err)
		}
	})
	for name, edit := range map[string]func([]byte){
		"more records than bytes":   func(b []byte) { binary.BigEndian.PutUint32(b[atCount:], 1<<30) },
		"fewer records than bytes":  func(b []byte) { binary.BigEndian.PutUint32(b[atCount:], 9) },
		"negative count":            func(b []byte) { binary.BigEndian.PutUint32(b[atCount:], 1<<31) },
		"offsets beyond the last":   func(b []byte) { binary.BigEndian.PutUint32(b[atLastOffsetDelta:], 3) },
		"unknown codec":             func(b []byte) { b[atAttributes+1] = 7 },
		"not compressed as claimed": func(b []byte) { b[atAttributes+1] = byte(Gzip) },
		"first record too long":     func(b []byte) { b[atRecords] = 0x7e },
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decodeAll(seal(data, edit), 0); !errors.Is(err, errCorrupt) {
				t.Errorf("error %v", err)
			}
		})
	}
	t.Run("snappy that claims gigabytes", func(t *testing.T) {
		for _, payload := range []string{"\xff\xff\xff\xff\x0f1234", "\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01\xff\xff\xff\xff"} {
			head := seal(data[:atRecords], func(b []byte) { b[atAttributes+1] = byte(Snappy) })
			bomb := append(head, payload...)
			bomb = seal(bomb, func(b []byte) { binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-atLeaderEpoch)) })
			if _, err := decodeAll(bomb, 0); err == nil || !strings.Contains(err.Error(), "snappy") {
				t.Errorf("error %v", err)
			}
		}
	})
}

func TestHeadersAreBounded(t *testing.T) {
	record := Record{Value: []byte("x"), Headers: make([]Header, 3*maxHeaders)}
	got, err := decodeAll(encodeBatch(t, []Record{record, {Value: []byte("y"), Headers: []Header{{Key: "a"}}}}, NoCompression, noProducer), 0)
	if err != nil || len(got) != 2 || len(got[0].Headers) != maxHeaders || len(got[1].Headers) != 1 || string(got[1].Value) != "y" {
		t.Errorf("%d records, %v", len(got), err)
	}
}

func TestDecoderReusesMemory(t *testing.T) {
	for name, compression := range codecs {
		if raceEnabled && compression != NoCompression {
			continue // pools drop at random under the race detector
		}
		b, _, err := splitBatch(encodeBatch(t, testRecords(100), compression, noProducer))
		if err != nil {
			t.Fatal(err)
		}
		var d decoder
		var records []Record
		allocs := testing.AllocsPerRun(50, func() {
			d.reset()
			if records, err = d.decode(records[:0], b, 0, Record{}); err != nil {
				t.Fatal(err)
			}
		})
		// A codec may allocate for a batch, never for a record.
		if limit := 30.0; allocs > limit || compression == NoCompression && allocs > 0 {
			t.Errorf("%s: %v allocations for 100 records", name, allocs)
		}
	}
}

func TestFitBatch(t *testing.T) {
	records := testRecords(300)
	for _, limit := range []int{100, 1000, 5000, 1 << 20} {
		for rest := records; len(rest) > 0; {
			n := fitBatch(rest, limit)
			if size := len(encodeBatch(t, rest[:n], NoCompression, noProducer)); n > 1 && size > limit {
				t.Fatalf("limit %d: %d records make %d bytes", limit, n, size)
			}
			rest = rest[n:]
		}
	}
	if n := fitBatch(records, 1<<20); n != len(records) {
		t.Errorf("%d of %d records fit 1 MiB", n, len(records))
	}
}

func TestVarintSize(t *testing.T) {
	for _, v := range []int64{0, 1, -1, 63, 64, -64, -65, 8191, 8192, 1 << 40, -1 << 63, 1<<63 - 1} {
		if got, want := varintSize(v), len(binary.AppendVarint(nil, v)); got != want {
			t.Errorf("varintSize(%d) = %d, want %d", v, got, want)
		}
	}
}

// Bytes from the network must never crash the reader, whatever they are.
func FuzzDecodeBatch(f *testing.F) {
	for _, compression := range codecs {
		f.Add(encodeBatch(f, testRecords(10), compression, noProducer))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= atRecords { // let the fuzzer past the checksum
			data = seal(data, func([]byte) {})
		}
		b, _, err := splitBatch(data)
		if err != nil {
			return
		}
		b.abort()
		var d decoder
		records, err := d.decode(nil, b, 0, Record{})
		if err != nil {
			if !errors.Is(err, errCorrupt) || len(records) > 0 {
				t.Errorf("%d records with error %v", len(records), err)
			}
			return
		}
		for _, r := range records {
			if r.Offset < b.baseOffset() || r.Offset > b.lastOffset() {
				t.Errorf("offset %d outside %d to %d", r.Offset, b.baseOffset(), b.lastOffset())
			}
		}
	})
}

func FuzzParseFetchResponse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, int16(11))
	f.Fuzz(func(t *testing.T, data []byte, version int16) {
		fetcher := testFetcher()
		fetcher.buf = data
		if err := fetcher.parse(version); err != nil && fetcher.pending != nil {
			t.Errorf("records left after error %v", err)
		}
	})
}

func testFetcher() *Fetcher {
	c, err := Connect(Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		panic(err)
	}
	return c.NewFetcher(FetcherConfig{Topic: "t"})
}

func BenchmarkDecode(b *testing.B) {
	for name, compression := range codecs {
		b.Run(name, func(b *testing.B) {
			records := make([]Record, 1000)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range records {
				records[i] = Record{Key: fmt.Appendf(nil, "customer-%06d", i), Value: bytes.Repeat(fmt.Append(nil, rng.Uint64()), 12)}
			}
			data := encodeBatch(b, records, compression, noProducer)
			var d decoder
			var out []Record
			b.ReportAllocs()
			b.ResetTimer()
			for b.Loop() {
				d.reset()
				batch, _, err := splitBatch(data)
				if err != nil {
					b.Fatal(err)
				}
				if out, err = d.decode(out[:0], batch, 0, Record{}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	records := make([]Record, 1000)
	for i := range records {
		records[i] = Record{Key: fmt.Appendf(nil, "customer-%06d", i), Value: make([]byte, 230)}
	}
	var e encoder
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.encode(records, NoCompression, noProducer, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(records)), "ns/record")
}

// zstdFrame is a frame of one block without content.
func zstdFrame(header ...byte) []byte {
	return append(append([]byte{0x28, 0xb5, 0x2f, 0xfd}, header...), 1, 0, 0)
}

func TestZstdWindow(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want int // −1: refused
	}{
		"nothing":                {nil, 0},
		"least":                  {zstdFrame(0, 0), 1 << 10},
		"with a mantissa":        {zstdFrame(0, 13<<3|2), 8<<20 + 2<<20},
		"two terabytes":          {zstdFrame(0, 31<<3), 1 << 41},
		"one segment":            {zstdFrame(0x20, 7), 7},
		"one segment, two bytes": {zstdFrame(0x60, 1, 1), 257 + 256},
		"one segment, four":      {zstdFrame(0xa0, 0, 0, 0, 0x40), 1 << 30},
		"one segment, all":       {zstdFrame(0xe0, 255, 255, 255, 255, 255, 255, 255, 255), math.MaxInt},
		"dictionary, checksum":   {append(zstdFrame(3|4, 1<<3, 1, 2, 3, 4), 9, 9, 9, 9), 2 << 10},
		"the greater of two":     {append(zstdFrame(0, 3<<3), zstdFrame(0, 1<<3)...), 8 << 10},
		"after one to pass over": {append([]byte{0x53, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 1, 2}, zstdFrame(0, 1<<3)...), 2 << 10},
		"no frame":               {[]byte("gzip"), -1},
		"cut magic":              {[]byte{0x28, 0xb5}, -1},
		"cut block":              {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0xff, 0xff, 0xff}, -1},
		"cut checksum":           {zstdFrame(4, 0), -1},
		"no last block":          {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0}, -1},
	} {
		got, err := zstdWindow(c.data)
		if (err != nil) != (c.want < 0) || err == nil && got != c.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, c.want)
		}
	}
	// A few bytes must not make a decompressor allocate gigabytes.
	records := []Record{{Value: []byte("v")}}
	encoded, err := new(encoder).encode(records, Zstd, noProducer, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := batch{bytes.Clone(encoded[4:])}
	if window, err := zstdWindow(b.data[atRecords:]); err != nil || window == 0 {
		t.Errorf("of our own: %d, %v", window, err)
	}
	b.data = append(b.data[:atRecords], zstdFrame(0, 19<<3)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err = new(decoder).decode(nil, b, 0, Record{})
	runtime.ReadMemStats(&after)
	if !errors.Is(err, errCorrupt) || after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("a window of 512 MiB: %v, %d bytes allocated", err, after.TotalAlloc-before.TotalAlloc)
	}
}
