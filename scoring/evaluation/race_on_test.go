//go:build race

package evaluation

// raced says that the race detector is on, with which simulations take ten times as long
// and see nothing more: nothing here is concurrent.
const raced = true
