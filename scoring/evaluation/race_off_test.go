//go:build !race

package evaluation

const raced = false
