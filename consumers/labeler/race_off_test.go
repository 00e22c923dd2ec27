//go:build !race

package labeler

// worlds is how many random worlds a test looks at.
const worlds = 3
