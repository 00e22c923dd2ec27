package schemas

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// input reads a datum of one of our messages.
type input struct {
	avro.Reader
	// ours says that we wrote it ourselves, perhaps before what strangers write
	// was held to what other consumers can read. It is made so then, not refused.
	ours bool
}

func newInput(datum []byte) input { return input{Reader: avro.NewReader(datum)} }

// problem is a failure for another reason than that the bytes cannot be read.
type problem struct {
	reason Reason
	text   string
}

func (p *problem) Error() string { return p.text }

func (in *input) fail(reason Reason, format string, args ...any) {
	in.Fail(&problem{reason, fmt.Sprintf(format, args...)})
}

// poison returns the first failure as a PoisonError.
func (in *input) poison() *PoisonError {
	err := in.Err()
	reason := ReasonUndecodable
	var p *problem
	switch {
	case errors.As(err, &p):
		reason = p.reason
	case errors.Is(err, avro.ErrNotFinite), errors.Is(err, avro.ErrDecimal):
		reason = ReasonInvalidValue
	}
	return poison(reason, "%s", err)
}

// at puts the name of field i of a record before what went wrong in it.
func (in *input) at(record *avro.Node, i int) { in.At(Clip(record.Names[i], maxDetail/8)) }

func (in *input) failed(root *avro.Node, i int) error {
	in.at(root, i)
	return in.poison()
}

// finish checks that nothing is left.
func (in *input) finish() error {
	if in.Finish() != nil {
		return in.poison()
	}
	return nil
}

// end is finish for messages about a customer.
func (in *input) end(customerID []byte) error {
	if err := in.finish(); err != nil {
		return err
	}
	if len(customerID) == 0 {
		return poison(ReasonNoCustomerID, "customer_id is empty")
	}
	return nil
}

// The milliseconds that other consumers can read as a time: those from the year
// 1 to 9999.
const (
	minTime = -62_135_596_800_000
	maxTime = 253_402_300_799_999
)

// readable returns the time nearest to ms that other consumers can read.
func readable(ms int64) int64 { return min(max(ms, minTime), maxTime) }

// time reads a time.
func (in *input) time(n *avro.Node) int64 {
	ms := in.Integer(n)
	if ms != readable(ms) && !in.ours {
		in.fail(ReasonInvalidValue, "%d ms is not in the years 1 to 9999", ms)
	}
	return readable(ms)
}

// trim takes white space off both ends.
func trim(text []byte) []byte {
	if n := len(text); n > 0 && inner(text[0]) && inner(text[n-1]) {
		return text
	}
	return bytes.TrimSpace(text)
}

// inner says that a byte is not part of any white space.
func inner(b byte) bool { return b > ' ' && b < utf8.RuneSelf }

// id reads a string of at most MaxIDBytes.
func (in *input) id(n *avro.Node) []byte {
	b, _ := in.Text(n)
	switch {
	case len(b) > MaxIDBytes:
		in.fail(ReasonTooLarge, "%d bytes, at most %d are allowed", len(b), MaxIDBytes)
		return nil
	case !utf8.Valid(b) && !in.ours:
		in.fail(ReasonInvalidValue, "not valid UTF-8")
		return nil
	}
	return b
}

// levelText checks the text of a level, which is of at most scoring.MaxLevelBytes,
// and empty for one that is not known.
func (in *input) levelText(level []byte) []byte {
	if !utf8.Valid(level) {
		if !in.ours {
			in.fail(ReasonInvalidValue, "not valid UTF-8")
			return nil
		}
		level = bytes.ToValidUTF8(level, []byte("\uFFFD"))
	}
	if len(level) > scoring.MaxLevelBytes {
		in.fail(ReasonTooLarge, "a level of %d bytes, at most %d are allowed", len(level), scoring.MaxLevelBytes)
		return nil
	}
	return level
}

// number reads the number of an attribute; ok is false for null. One beyond
// scoring.MaxNumber is refused, but in what we wrote ourselves, before there was
// a bound, it is not known: every state can be restored.
func (in *input) number(n *avro.Node) (x float64, ok bool) {
	x, ok = in.Number(n)
	if math.Abs(x) <= scoring.MaxNumber {
		return x, ok
	}
	if !in.ours {
		in.fail(ReasonInvalidValue, "a number beyond ±%g; leave out what is not known", scoring.MaxNumber)
	}
	return 0, false
}

func (in *input) string(n *avro.Node) string {
	b, _ := in.Text(n)
	return string(b)
}

// copied reads bytes or null into memory of their own.
func (in *input) copied(n *avro.Node) []byte {
	b, _ := in.Text(n)
	return bytes.Clone(b)
}

// optional reads a number, or null as Missing.
func (in *input) optional(n *avro.Node) float64 {
	if x, ok := in.Number(n); ok {
		return x
	}
	return scoring.Missing
}

func (in *input) integers(n *avro.Node, dst []int64) []int64 {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			dst = append(dst, in.Integer(items))
		}
	}
	return dst
}
