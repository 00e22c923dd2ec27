package terminal

import "testing"

func TestPlain(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"customer-1", "customer-1"}, {"Zoë 日本", "Zoë 日本"}, {"", `""`}, {"a\nb", `"a\nb"`},
		{"\x1b[31m", `"\x1b[31m"`}, {"\xff", `"\xff"`}, {"0123456789a", "012345678…"},
	} {
		if got := Plain(c.text, 10); got != c.want {
			t.Errorf("%q is shown as %s, want %s", c.text, got, c.want)
		}
	}
}
