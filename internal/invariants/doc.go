// Package invariants says whether to check what must always hold: in builds
// with the race detector or the tag invariants. In all others Enabled is a
// false constant, so that the checks are not even compiled.
package invariants
