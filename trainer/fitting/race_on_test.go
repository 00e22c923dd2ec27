//go:build race

package fitting

// raced says that the race detector is on, with which simulations take ten times as
// long.
const raced = true
