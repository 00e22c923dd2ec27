//go:build !race

package invariants

// Raced says that the race detector is on.
const Raced = false
