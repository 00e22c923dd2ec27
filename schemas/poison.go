package schemas

import (
	"errors"
	"fmt"
	"strings"
)

// maxDetail bounds the detail of a PoisonError in bytes. It can name what a
// stranger's schema names, at any length, and has to fit into a dead letter.
const maxDetail = 1024

// PoisonError is an error that lies in a record's bytes: reading them again
// cannot help, so the record becomes a dead letter.
type PoisonError struct {
	// Reason is the kind of failure.
	Reason Reason
	// Detail says what exactly was wrong, without the customer's values, in at
	// most 1 KiB.
	Detail string
}

// Error returns the reason and the detail.
func (e *PoisonError) Error() string { return string(e.Reason) + ": " + e.Detail }

// AsPoison returns the PoisonError in err's chain, if there is one. Any other
// decode error is passing: the caller waits and tries again.
func AsPoison(err error) (*PoisonError, bool) {
	var p *PoisonError
	ok := errors.As(err, &p)
	return p, ok
}

func poison(reason Reason, format string, args ...any) *PoisonError {
	return &PoisonError{Reason: reason, Detail: Clip(fmt.Sprintf(format, args...), maxDetail)}
}

// Clip cuts text that is longer than n bytes, with an ellipsis for the rest. It
// leaves no half of a rune.
func Clip(text string, n int) string {
	if len(text) <= n {
		return text
	}
	const ellipsis = "…"
	return strings.ToValidUTF8(text[:n-len(ellipsis)], "") + ellipsis
}
