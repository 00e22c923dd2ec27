//go:build race

package invariants

// Raced says that the race detector is on, with which simulations take ten times as
// long, and those where nothing is concurrent show nothing more.
const Raced = true
