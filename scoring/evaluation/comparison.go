package evaluation

import (
	"cmp"
	"math"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Pair is the scores of two models on one example: a challenger's and the
// champion's.
type Pair struct {
	Customer             uint64
	Challenger, Champion float64
	Churned              bool
}

// Comparison is what tells two models apart on the same examples.
type Comparison struct {
	// Rows is the number of examples.
	Rows int64
	// Challenger and Champion are the log losses of the models.
	Challenger, Champion float64
	// Difference is the challenger's log loss minus the champion's: below 0, the
	// challenger is better. Lower and Upper are the ends of its 95 % interval,
	// of the paired differences, resampled as those of Ranking.Intervals.
	Difference, Lower, Upper float64
	// StandardError is that of the difference, as a mean over customers, for who
	// wants to be surer than 95 %.
	StandardError float64
	// Customers is how many customers with equally many rows say as much: all, if
	// they have; few, if most of the rows are of a few.
	Customers float64
}

// Worse says that the challenger is worse beyond chance: even the lower end of the
// interval is above 0. It is false without an interval, as of too few customers.
func (c *Comparison) Worse() bool { return c.Lower > 0 }

// Better says that the challenger is better beyond chance: even the upper end of
// the interval is below 0. It is false without an interval.
func (c *Comparison) Better() bool { return c.Upper < 0 }

// Compare compares two models on the same examples. Those without one of the
// scores (scoring.Missing) are left out; without any, all but
// the numbers of rows and customers is Missing.
func Compare(pairs []Pair) Comparison {
	pairs = slices.DeleteFunc(slices.Clone(pairs), func(p Pair) bool {
		return scoring.IsMissing(p.Challenger) || scoring.IsMissing(p.Champion)
	})
	c := Comparison{Rows: int64(len(pairs)), Challenger: scoring.Missing, Champion: scoring.Missing,
		Difference: scoring.Missing, Lower: scoring.Missing, Upper: scoring.Missing, StandardError: scoring.Missing}
	if len(pairs) == 0 {
		return c
	}
	// An order that depends on the pairs alone: so does then the last bit of a sum.
	slices.SortFunc(pairs, func(a, b Pair) int {
		return cmp.Or(cmp.Compare(a.Customer, b.Customer), cmp.Compare(a.Challenger, b.Challenger),
			cmp.Compare(a.Champion, b.Champion), cmp.Compare(weight(a.Churned), weight(b.Churned)))
	})
	type customer struct {
		id         uint64
		difference float64 // over the rows
		rows       float64
	}
	var customers []customer
	n := float64(len(pairs))
	c.Challenger, c.Champion, c.Difference = 0, 0, 0
	for i, p := range pairs {
		challenger, champion := LogLoss(p.Challenger, p.Churned), LogLoss(p.Champion, p.Churned)
		c.Challenger += challenger / n
		c.Champion += champion / n
		c.Difference += (challenger - champion) / n
		if i == 0 || p.Customer != pairs[i-1].Customer {
			customers = append(customers, customer{id: p.Customer})
		}
		last := &customers[len(customers)-1]
		last.difference += challenger - champion
		last.rows++
	}
	var squares, weights float64
	for i := range customers {
		k := &customers[i]
		deviation := k.difference - c.Difference*k.rows
		squares += deviation * deviation
		weights += k.rows * k.rows
	}
	c.StandardError, c.Customers = math.Sqrt(squares)/n, n*n/weights

	values := make([]float64, 0, resamples)
	for block := range uint64(resamples / lanes) {
		var sums, rows [lanes]float64
		for i := range customers {
			for lane, w := range draw(customers[i].id, block) {
				sums[lane] += float64(w) * customers[i].difference
				rows[lane] += float64(w) * customers[i].rows
			}
		}
		for lane := range sums {
			if rows[lane] > 0 {
				values = append(values, sums[lane]/rows[lane])
			}
		}
	}
	c.Lower, c.Upper, _ = interval(values)
	return c
}

func weight(b bool) int {
	if b {
		return 1
	}
	return 0
}
