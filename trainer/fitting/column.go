package fitting

import "github.com/churnstream/churnstream/scoring"

// column holds one feature: numbers, or codes plus 1 with 0 for missing. Of
// the three slices one is in use.
type column struct {
	categorical bool
	numbers     []float64
	narrow      []uint8
	wide        []uint16
}

func (c *column) value(i int) float64 {
	if !c.categorical {
		return c.numbers[i]
	}
	if code := c.code(i); code > 0 {
		return float64(code - 1)
	}
	return scoring.Missing
}

// code returns the vocabulary code plus 1 of a categorical value, 0 if it is
// missing.
func (c *column) code(i int) uint16 {
	if c.wide != nil {
		return c.wide[i]
	}
	return uint16(c.narrow[i])
}

func (c *column) grow() {
	switch {
	case !c.categorical:
		c.numbers = append(c.numbers, 0)
	case c.wide != nil:
		c.wide = append(c.wide, 0)
	default:
		c.narrow = append(c.narrow, 0)
	}
}

func (c *column) set(i int, x float64) {
	if !c.categorical {
		c.numbers[i] = x
		return
	}
	code := uint16(0)
	if x >= 0 { // neither missing nor unknown
		code = uint16(x) + 1
	}
	if code > 255 && c.wide == nil {
		c.wide = make([]uint16, len(c.narrow), cap(c.narrow))
		for k, v := range c.narrow {
			c.wide[k] = uint16(v)
		}
		c.narrow = nil
	}
	if c.wide != nil {
		c.wide[i] = code
	} else {
		c.narrow[i] = uint8(code)
	}
}

func (c *column) move(to, from int) {
	switch {
	case !c.categorical:
		c.numbers[to] = c.numbers[from]
	case c.wide != nil:
		c.wide[to] = c.wide[from]
	default:
		c.narrow[to] = c.narrow[from]
	}
}

func (c *column) truncate(n int) {
	switch {
	case !c.categorical:
		c.numbers = c.numbers[:n]
	case c.wide != nil:
		c.wide = c.wide[:n]
	default:
		c.narrow = c.narrow[:n]
	}
}
