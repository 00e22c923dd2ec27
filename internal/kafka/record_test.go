package kafka

import "testing"

func TestHeader(t *testing.T) {
	r := Record{Headers: []Header{
		{"offset", []byte("17")}, {"trace", nil}, {"offset", []byte("18")}, {"word", []byte("soon")}, {"below", []byte("-1")}, {"beyond", []byte("9223372036854775808")},
	}}
	if got := r.Header("offset"); string(got) != "18" {
		t.Errorf("offset %q, want the last", got)
	}
	for _, name := range []string{"trace", "none", ""} {
		if got := r.Header(name); got != nil {
			t.Errorf("%q: %q", name, got)
		}
	}
	if n, ok := r.HeaderNumber("offset"); n != 18 || !ok {
		t.Errorf("offset %d, %v", n, ok)
	}
	for _, name := range []string{"trace", "none", "word", "below", "beyond"} {
		if n, ok := r.HeaderNumber(name); ok {
			t.Errorf("%q: %d", name, n)
		}
	}
}
