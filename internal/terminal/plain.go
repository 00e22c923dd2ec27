package terminal

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Plain returns text fit for a line on a terminal: cut to n characters, and
// quoted if there is anything in it that does not print, or nothing at all.
func Plain(text string, n int) string {
	if utf8.RuneCountInString(text) > n {
		text = string([]rune(text)[:n-1]) + "…"
	}
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == utf8.RuneError }
	if text == "" || strings.ContainsFunc(text, odd) {
		return strconv.Quote(text)
	}
	return text
}
