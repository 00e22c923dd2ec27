package schemas

import (
	"strings"
	"testing"
)

func TestIsReservedKey(t *testing.T) {
	for key, want := range map[string]bool{
		MarkerKey: true, ProgressKey: true, "\x00": true, "\x00redrive": true, "": false, "anna": false, "0": false, "a\x00": false,
	} {
		if IsReservedKey(key) != want || IsReservedKey([]byte(key)) != want {
			t.Errorf("%q: reserved is not %v", key, want)
		}
	}
	if IsReservedKey[[]byte](nil) {
		t.Error("no key is a reserved one")
	}
}

func TestKeyFormat(t *testing.T) {
	const (
		frame = "\x00\x00\x00\x00\x07"
		guid  = "\x01ABCDEFGHIJKLMNOP"
	)
	for _, c := range []struct {
		format      KeyFormat
		header, key string
		want        string
	}{
		{KeyPlain, "", "anna", "anna"},
		{KeyPlain, "", frame + "\x08anna", frame + "\x08anna"},
		{KeyPlain, "", `"anna"`, `"anna"`},
		{KeyAvro, "", frame + "\x08anna", "anna"},
		{KeyAvro, "", guid + "\x08anna", "anna"},
		{KeyAvro, "", frame + "\x00", ""},
		{KeyAvro, guid, "\x08anna", "anna"},
		{KeyAvro, frame, "\x08anna", "anna"},
		{KeyAvro, "", frame + "\x0aanna", frame + "\x0aanna"}, // too short
		{KeyAvro, "", frame + "\x06anna", frame + "\x06anna"}, // too long
		{KeyAvro, "", frame + "\x07anna", frame + "\x07anna"}, // a negative length
		{KeyAvro, "", frame, frame},                           // nothing
		{KeyAvro, "", "anna", "anna"},                         // plain, as ours are
		{KeyAvro, "", "\x08anna", "\x08anna"},                 // without a frame
		{KeyAvro, "", `"anna"`, `"anna"`},                     // JSON
		{KeyAvro, "", "", ""},                                 // none
		{KeyJSON, "", `"anna"`, "anna"},                       // Connect's JsonConverter
		{KeyJSON, "", frame + `"anna"`, "anna"},               // Confluent's serializer
		{KeyJSON, guid, `"anna"`, "anna"},                     // and with the schema in a header
		{KeyJSON, "", `"a\"\u00e4"`, `a"ä`},                   // escapes
		{KeyJSON, "", `""`, ""},                               // an empty one
		{KeyJSON, "", "anna", "anna"},                         // plain
		{KeyJSON, "", `"`, `"`},                               // half of one
		{KeyJSON, "", `"a"b"`, `"a"b"`},                       // not JSON
		{KeyJSON, "", "\"a\nb\"", "\"a\nb\""},                 // nor this
		{KeyJSON, "", `{"id":"anna"}`, `{"id":"anna"}`},       // not a string
		{KeyJSON, "", frame + "\x08anna", frame + "\x08anna"}, // Avro
	} {
		var header []byte
		if c.header != "" {
			header = []byte(c.header)
		}
		if got := string(c.format.ID(header, []byte(c.key))); got != c.want {
			t.Errorf("format %d, header %q, key %q: %q, want %q", c.format, c.header, c.key, got, c.want)
		}
	}
	key := []byte(frame + "\x08anna")
	if n := testing.AllocsPerRun(100, func() { KeyAvro.ID(nil, key) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	for text, want := range map[string]KeyFormat{"": KeyPlain, "plain": KeyPlain, "avro": KeyAvro, "json": KeyJSON} {
		if got, err := ParseKeyFormat(text); got != want || err != nil {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseKeyFormat("Avro"); err == nil || !strings.Contains(err.Error(), "Avro") {
		t.Error(err)
	}
}

func FuzzKeyFormat(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x00\x07\x08anna"), false)
	f.Add([]byte(`"a\"b"`), true)
	f.Fuzz(func(t *testing.T, key []byte, inHeader bool) {
		var header []byte
		if inHeader {
			header = []byte{0, 0, 0, 0, 1}
		}
		for format := range KeyFormat(3) {
			if id := format.ID(header, key); len(id) > 3*len(key) {
				t.Fatalf("format %d: %d bytes of %d", format, len(id), len(key))
			}
		}
	})
}
