package simulator

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

const (
	// jitter is the relative standard deviation by which a new customer's
	// numbers differ from those of the one it is drawn from.
	jitter = 0.02
	// step bounds a follow-up's change of a number, as a share of the
	// difference between two customers drawn at random.
	step = 0.1
	// donors is how many customers a new level is chosen from.
	donors = 16
)

// population is what the simulator knows of customers.
type population struct {
	spec    *scoring.Spec
	rows    []schemas.ChurnOutcome
	numbers []number // by feature; unused for categorical ones

	categorical []int // all of that kind
	// What follow-up events are about:
	levels   []int // actionable levels
	settable []int // actionable numbers: may be set higher or lower
	growing  []int // other numbers: they grow by increments
}

// number is how a numeric feature lies in the population.
type number struct {
	least, greatest float64
	scale           float64 // 10 to the power of the decimals
}

func newPopulation(spec *scoring.Spec, rows []schemas.ChurnOutcome) (*population, error) {
	if len(rows) == 0 {
		return nil, errors.New("the population is empty")
	}
	for i := range rows {
		if len(rows[i].Attributes) != spec.Len() {
			return nil, fmt.Errorf("customer %d of the population has %d attributes, not the %d of the schema",
				i, len(rows[i].Attributes), spec.Len())
		}
	}
	p := &population{spec: spec, rows: rows, numbers: make([]number, spec.Len())}
	for f := range spec.Len() {
		feature := spec.Feature(f)
		n := number{least: math.Inf(1), greatest: math.Inf(-1), scale: 1}
		for i := range rows {
			x := rows[i].Attributes[f]
			if scoring.IsMissing(x) {
				continue
			}
			n.least, n.greatest = min(n.least, x), max(n.greatest, x)
			for n.scale < 1e6 && !whole(x*n.scale) {
				n.scale *= 10
			}
		}
		p.numbers[f] = n
		varies := n.least < n.greatest // for codes of levels as well
		if feature.Kind == scoring.Categorical {
			p.categorical = append(p.categorical, f)
		}
		switch {
		case !varies:
		case feature.Kind == scoring.Numeric && feature.Actionable:
			p.settable = append(p.settable, f)
		case feature.Kind == scoring.Numeric:
			p.growing = append(p.growing, f)
		case feature.Actionable:
			p.levels = append(p.levels, f)
		}
	}
	return p, nil
}

// whole reports whether x is an integer but for rounding.
func whole(x float64) bool {
	return math.Abs(x-math.Round(x)) <= 1e-9*max(1, math.Abs(x))
}

// within rounds x to the population's decimals and keeps it in its range.
func (n *number) within(x float64) float64 {
	return min(max(math.Round(x*n.scale)/n.scale, n.least), n.greatest)
}

// draw fills x with a customer like one of the population, whose label it
// returns. Numbers are moved a little; zero stays zero.
func (p *population) draw(r *rand.Rand, x scoring.Vector) (churned bool) {
	row := &p.rows[r.IntN(len(p.rows))]
	for f, value := range row.Attributes {
		if p.spec.Feature(f).Kind == scoring.Numeric && !scoring.IsMissing(value) {
			value = p.numbers[f].within(value * (1 + jitter*r.NormFloat64()))
		}
		x[f] = value
	}
	return row.Churned
}

// followUp makes what happens to a customer next and brings x up to date. It
// fills changes or increments, or returns false and leaves them missing.
func (p *population) followUp(r *rand.Rand, x, changes, increments scoring.Vector) bool {
	switch r.IntN(3) {
	case 0:
		return p.changeLevel(r, x, changes)
	case 1:
		return p.setNumber(r, x, changes)
	}
	return p.grow(r, x, increments)
}

// changeLevel changes one actionable level to that of a customer who is otherwise
// much alike, so that unlikely combinations stay rare.
func (p *population) changeLevel(r *rand.Rand, x, changes scoring.Vector) bool {
	if len(p.levels) == 0 {
		return false
	}
	f := p.levels[r.IntN(len(p.levels))]
	level, most := scoring.Missing, -1
	for range donors {
		donor := p.rows[r.IntN(len(p.rows))].Attributes
		if scoring.IsMissing(donor[f]) || donor[f] == x[f] {
			continue
		}
		alike := 0
		for _, c := range p.categorical {
			if donor[c] == x[c] {
				alike++
			}
		}
		if alike > most {
			level, most = donor[f], alike
		}
	}
	if most < 0 {
		return false
	}
	changes[f], x[f] = level, level
	return true
}

// setNumber sets one actionable number a little higher or lower.
func (p *population) setNumber(r *rand.Rand, x, changes scoring.Vector) bool {
	if len(p.settable) == 0 {
		return false
	}
	f := p.settable[r.IntN(len(p.settable))]
	d := p.difference(r, f)
	if r.IntN(2) == 0 {
		d = -d
	}
	value := p.numbers[f].within(x[f] + d)
	if scoring.IsMissing(value) || value == x[f] {
		return false
	}
	changes[f], x[f] = value, value
	return true
}

// grow adds to the numbers that a company does not set, as each purchase adds to
// a total.
func (p *population) grow(r *rand.Rand, x, increments scoring.Vector) bool {
	any := false
	for _, f := range p.growing {
		value := p.numbers[f].within(x[f] + p.difference(r, f))
		if !(value > x[f]) { // missing, or at the top already
			continue
		}
		scale := p.numbers[f].scale
		increments[f], x[f] = math.Round((value-x[f])*scale)/scale, value
		any = true
	}
	return any
}

// difference draws a small amount, in proportion to how far two customers are
// apart: at least the feature's last decimal, missing if a customer's value is.
func (p *population) difference(r *rand.Rand, f int) float64 {
	a, b := p.rows[r.IntN(len(p.rows))].Attributes[f], p.rows[r.IntN(len(p.rows))].Attributes[f]
	return max(math.Abs(a-b)*step*r.Float64(), 1/p.numbers[f].scale)
}
