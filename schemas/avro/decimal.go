package avro

import (
	"errors"
	"math/big"
	"strconv"
)

// maxDecimalBytes bounds the unscaled number of a decimal, in bytes. The largest
// double has as many.
const maxDecimalBytes = 128

// ErrDecimal is matched by the error for a decimal whose bytes are no number,
// or too large a one.
var ErrDecimal = errors.New("a decimal")

// decimal reads a decimal as the nearest double: the unscaled number in two's
// complement, the highest byte first, over ten to the power of the scale.
func (r *Reader) decimal(t *Type) float64 {
	var b []byte
	if t.Kind == Fixed {
		b = r.take(int64(t.Size))
	} else {
		b = r.Bytes()
	}
	switch {
	case r.err != nil:
		return 0
	case len(b) == 0:
		r.fail("%w of no bytes", ErrDecimal)
		return 0
	case len(b) > maxDecimalBytes:
		r.fail("%w of %d bytes, at most %d are allowed", ErrDecimal, len(b), maxDecimalBytes)
		return 0
	}
	return decimal(b, t.Scale)
}

// powers are those of ten that a double holds exactly.
var powers = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// exact is the largest number up to which every whole one is a double.
const exact = 1 << 53

// decimal returns the double nearest to an unscaled number of at least a byte
// over ten to the power of scale. It is infinite for one beyond all doubles.
func decimal(unscaled []byte, scale int) float64 {
	if len(unscaled) <= 8 && scale < len(powers) {
		n := int64(int8(unscaled[0]))
		for _, b := range unscaled[1:] {
			n = n<<8 | int64(b)
		}
		if -exact <= n && n <= exact {
			return float64(n) / powers[scale] // both are exact, so the quotient is the nearest
		}
	}
	n := new(big.Int).SetBytes(unscaled)
	if unscaled[0] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(unscaled))))
	}
	text := strconv.AppendInt(append(n.Append(nil, 10), 'e'), int64(-scale), 10)
	x, _ := strconv.ParseFloat(string(text), 64) // infinite with the error for what is out of range
	return x
}
