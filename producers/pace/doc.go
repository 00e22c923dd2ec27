// Package pace publishes customer events at a steady rate and the outcome of
// each customer a while after, for producers that make their events themselves.
package pace
