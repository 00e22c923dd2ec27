package schemas

import (
	"errors"
	"fmt"
)

// PoisonError is an error that lies in a record's bytes: reading them again
// cannot help, so the record becomes a dead letter.
type PoisonError struct {
	// Reason is the kind of failure.
	Reason Reason
	// Detail says what exactly was wrong, without the customer's values.
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
	return &PoisonError{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
