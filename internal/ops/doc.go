// Package ops is the side of a process that those who run it look at: its
// metrics, whether it lives, and whether it can work and why not. It is also
// where a process decides whom it takes orders from.
package ops
