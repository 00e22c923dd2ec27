//go:build race

package labeler

// worlds is how many random worlds a test looks at: with the race detector, which makes
// each take ten times as long, one.
const worlds = 1
