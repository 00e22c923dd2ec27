package fitting

import (
	"cmp"
	"context"
	"math"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// beyondChance is how many standard errors a narrower window must be better by.
// A stationary stream is cut short once in some two thousand comparisons; a
// change worth following is far beyond it.
const beyondChance = 3.3

// leastOfClass is how many rows of each class that takes, and leastCustomers how
// many customers: fewer say nothing of how far chance goes.
const (
	leastOfClass   = 10
	leastCustomers = 30
)

// narrow returns the candidate of the newest examples that is to be used: that
// of all, or of a window of the newest half, quarter, eighth … of them.
//
// A window's model competes with the best so far on the newest part of the
// window, which neither was fitted on. If it wins, that may be because the other
// lacks the rows before this part, which are in its own holdout; so then it must
// win as well against a model that was given them. What is decided is thus
// whether it pays to forget what is older than the window, and nothing else
// differs between the two.
//
// Of the newest labels some may be missing: those of customers who left may come at
// once, those of others with the next month's list. That changes the share of those
// who left, and nothing else of a logistic model (Prentice and Pyke, "Logistic disease
// incidence models and case-control studies", 1979). So models compete with the share
// of the rows that they are measured on: whether customers leave for other reasons
// decides, not whether more of them do.
//
// A window counts only if the newest part has some customers of both classes.
// Windows are not tried that begin among the oldest examples' moment, as of
// undated history: nothing there is older than they are.
func narrow(ctx context.Context, best *Candidate, order []int32, cfg Config) (*Candidate, error) {
	d, least := best.data, cmp.Or(cfg.MinWindow, 500)
	if least < 0 {
		return best, nil
	}
	tuned := len(order) // examples at which the strength was chosen
	strengths := []float64{best.Strength}
	for size := len(order) / 2; size >= least; size /= 2 {
		rows := order[len(order)-size:]
		if d.observed[rows[0]] == d.observed[order[0]] {
			continue
		}
		// Half as many rows want about the same penalty; choosing it anew is most
		// of the work.
		try := strengths
		if tuned >= 4*size {
			try = cfg.strengths()
		}
		held := cfg.held(size)
		if churners := d.churnersIn(rows[size-held:]); held >= size || min(churners, held-churners) < leastOfClass {
			continue
		}
		c, err := d.fit(ctx, rows[:size-held], rows[size-held:], try, cfg)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			continue // only one class of late, or a column that says almost exactly who left
		}
		if len(try) > 1 || len(cfg.strengths()) == 1 {
			tuned, strengths = size, []float64{c.Strength}
		}
		if !c.beats(best) {
			continue
		}
		rival, err := d.fit(ctx, order[len(order)-best.used():len(order)-held], c.Holdout, []float64{best.Strength}, cfg)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err == nil && c.beats(rival):
			best = c
		}
	}
	return best, nil
}

// churnersIn counts those at the given positions who churned.
func (d *Dataset) churnersIn(rows []int32) (n int) {
	for _, r := range rows {
		n += int(d.customer[r] & 1)
	}
	return n
}

// beats reports whether a candidate is better than another beyond chance, on its
// own holdout, given the share of those who churned there. A few customers with most
// of the rows are as good as so many customers.
func (c *Candidate) beats(other *Candidate) bool {
	pairs := c.pairs(other.Predictor)
	challenger := shift(pairs, func(p *evaluation.Pair) float64 { return p.Challenger })
	champion := shift(pairs, func(p *evaluation.Pair) float64 { return p.Champion })
	for i := range pairs {
		p := &pairs[i]
		p.Challenger, p.Champion = shifted(p.Challenger, challenger), shifted(p.Champion, champion)
	}
	x := evaluation.Compare(pairs)
	return x.Customers >= leastCustomers && x.Difference+beyondChance*x.StandardError < 0
}

// against compares a candidate, as the challenger, with another model on its own
// holdout.
func (c *Candidate) against(other *scoring.Predictor) evaluation.Comparison {
	return evaluation.Compare(c.pairs(other))
}

// pairs returns the scores of a candidate, as the challenger, and of another model
// on the candidate's holdout.
func (c *Candidate) pairs(other *scoring.Predictor) []evaluation.Pair {
	own, theirs := c.data.scored(c.Predictor, c.Holdout), c.data.probabilities(other, c.Holdout)
	pairs := make([]evaluation.Pair, len(own))
	for i, e := range own {
		pairs[i] = evaluation.Pair{Customer: e.Customer, Challenger: e.Probability, Champion: theirs[i], Churned: e.Churned}
	}
	return pairs
}

// shift returns what is to be added to the log-odds of one of the models such that
// its probabilities have the mean of the labels, which have both classes.
func shift(pairs []evaluation.Pair, of func(*evaluation.Pair) float64) float64 {
	low, high := -100.0, 100.0
	for range 60 {
		middle, excess := (low+high)/2, 0.0
		for i := range pairs {
			excess += shifted(of(&pairs[i]), middle)
			if pairs[i].Churned {
				excess--
			}
		}
		if excess > 0 {
			high = middle
		} else {
			low = middle
		}
	}
	return (low + high) / 2
}

// shifted returns a probability whose log-odds are greater by an amount.
func shifted(p, by float64) float64 {
	p = min(max(p, 1e-15), 1-1e-15)
	return 1 / (1 + (1-p)/p*math.Exp(-by))
}
