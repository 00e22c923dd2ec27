package schemas

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// input reads a datum of one of our messages.
type input struct{ avro.Reader }

func newInput(datum []byte) input { return input{avro.NewReader(datum)} }

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
	case errors.Is(err, avro.ErrNotFinite):
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

// id reads a string of at most MaxIDBytes.
func (in *input) id(n *avro.Node) []byte {
	b, _ := in.Text(n)
	if len(b) > MaxIDBytes {
		in.fail(ReasonTooLarge, "%d bytes, at most %d are allowed", len(b), MaxIDBytes)
		return nil
	}
	return b
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
