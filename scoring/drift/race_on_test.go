//go:build race

package drift

// raced says that the race detector is on, with which simulations take twenty times as
// long and see nothing more.
const raced = true
