package explain

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestBar(t *testing.T) {
	for _, tc := range []struct {
		x, largest  float64
		left, right string
	}{
		{0, 0, "", ""},
		{0, 1, "", ""},
		{1, 1, "", strings.Repeat("█", barWidth)},
		{-1, 1, strings.Repeat("█", barWidth), ""},
		{0.5, 1, "", strings.Repeat("█", barWidth/2)},
		{-0.5, 1, strings.Repeat("█", barWidth/2), ""},
		{1.5 / barWidth, 1, "", "█▌"},
		{0.01, 1, "", "▏"},
		{-0.01, 1, "", ""},
	} {
		left, right := bar(tc.x, tc.largest)
		if utf8.RuneCountInString(left) != barWidth || utf8.RuneCountInString(right) != barWidth ||
			strings.TrimLeft(left, " ") != tc.left || strings.TrimRight(right, " ") != tc.right {
			t.Errorf("%g of %g is %q and %q", tc.x, tc.largest, left, right)
		}
	}
}

func TestSigned(t *testing.T) {
	for x, want := range map[float64]string{0: "  0.0000", 0.00004: "  0.0000", -0.00004: "  0.0000", -0.00006: " -0.0001", 0.5: " +0.5000", -12.25: "-12.2500"} {
		if got := signed(x, 8); got != want {
			t.Errorf("%g is %q, want %q", x, got, want)
		}
	}
}
