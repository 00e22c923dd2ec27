//go:build !race

package fitting

const raced = false
