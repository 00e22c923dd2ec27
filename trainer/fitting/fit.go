package fitting

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

var (
	// ErrTooFewLabels is matched by errors that more labels can cure: too few
	// examples, or examples of one class only.
	ErrTooFewLabels = errors.New("too few labels")
	// ErrNotConverged is matched when Fit used up its iterations.
	ErrNotConverged = errors.New("fit has not converged")
	// ErrNotFinite is matched when a number is not finite, or beyond
	// scoring.MaxNumber, such that no fit can be. The error names the column.
	ErrNotFinite = errors.New("not finite")
)

// Config says how a model is made of examples. Its zero value is usable.
type Config struct {
	// Holdout is the share of the examples, the newest, that a model is
	// measured on and not trained on (0: 0.25).
	Holdout float64 `kong:"-"`
	// Folds is the number of cross-validation folds (0: 5).
	Folds int `kong:"-"`
	// Strengths are the values of C to choose from, ascending (nil:
	// DefaultStrengths). With a single one there is no cross-validation.
	Strengths []float64 `kong:"-"`
	// MaxLevels and Knots are those of EncodeConfig. Knots pay off where
	// churn does not rise or fall evenly with a number, and cost a few percent
	// more time: of the Telco table, 9 lower the log loss by 0.0075.
	MaxLevels int `kong:"-"`
	Knots     int `name:"knots" help:"Fit numbers piecewise linearly, with this many knots at quantiles of the training values; 0 fits straight lines." default:"0" unit:"knots"`
	// Thresholds sort probabilities into risks (zero: those of scoring).
	Thresholds scoring.Thresholds `kong:"-"`
	// ImportanceRows bounds the training rows that global importance is
	// computed over (0: 10,000; negative: no importance). Of more rows, that
	// many are taken, evenly spaced in time: the means are then estimates, with
	// the standard error of a sample of that size, 1 % of a standard deviation
	// for 10,000. A row costs as much as one customer's explanations, some 25 µs
	// with 19 features.
	ImportanceRows int `kong:"-"`
	// MinWindow is the least number of newest examples that a model may be
	// learnt from in place of all (0: 500; negative: always all).
	MinWindow int `kong:"-"`
}

// Validate reports the first setting that makes no sense.
func (c *Config) Validate() error {
	if !(c.Holdout >= 0 && c.Holdout < 1) {
		return fmt.Errorf("holdout share %v is not between 0 and 1", c.Holdout)
	}
	if c.Knots < 0 || c.Knots == 1 || c.Knots > MaxKnots {
		return fmt.Errorf("%d knots, neither 0 nor from 2 to %d", c.Knots, MaxKnots)
	}
	for _, s := range c.Strengths {
		if !(s > 0) {
			return fmt.Errorf("strength %v is not positive", s)
		}
	}
	return nil
}

// Candidate is a fitted model, before it is judged.
type Candidate struct {
	Model     *scoring.Model
	Predictor *scoring.Predictor
	// Metrics are the model's on the holdout, with their intervals.
	Metrics evaluation.Metrics
	// Baseline is what drift is measured against: how features were distributed
	// over the training rows, each customer once, and the score over the holdout.
	Baseline []drift.Distribution
	// Strength is the chosen C, the inverse of the penalty.
	Strength float64
	// Training and Holdout are the examples' positions in the dataset, from
	// the oldest to the newest.
	Training, Holdout []int32
	// Examples is how many could have been learnt from. Where Training and
	// Holdout are fewer, the older ones did harm.
	Examples int
	// Horizon is that of the examples: what the model predicts.
	Horizon int64

	data *Dataset
}

// Fit makes a model of the examples in d that have the horizon of most of the newest
// labels (see Dataset.DecideBy): it sets the newest aside, chooses the penalty by cross-validation on the others,
// and fits those with it. Examples of the same moment are in the order of their
// customers' hashes, so undated history is split at random.
//
// Where what makes customers leave has changed, old examples do harm. So models
// of the newest half, quarter, eighth … of the examples are made as well, each
// with the newest part of its own set aside, and the model of fewer examples is
// taken where it is better beyond chance on rows that neither has seen.
//
// The model is not fitted again on all examples: the figures measured on the
// holdout are those of the very model that is returned.
//
// The candidate refers to d, which must not change before it is judged: Clone a
// dataset that goes on growing. The error matches ErrTooFewLabels where more
// labels may help, and ErrNotFinite where a number of an example is beyond
// scoring.MaxNumber. Once ctx has ended, Fit returns its error after the pass over
// the rows that it is in.
func Fit(ctx context.Context, d *Dataset, cfg Config) (*Candidate, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("fit: %w", err)
	}
	order := d.usable()
	held := cfg.held(len(order))
	if held < 1 || held >= len(order) {
		return nil, fmt.Errorf("fit %d examples: %w", len(order), ErrTooFewLabels)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.checkNumbers(order); err != nil {
		return nil, fmt.Errorf("fit: %w", err)
	}
	c, err := d.fit(ctx, order[:len(order)-held], order[len(order)-held:], cfg.strengths(), cfg)
	if err != nil {
		return nil, err
	}
	if c, err = narrow(ctx, c, order, cfg); err != nil {
		return nil, err
	}
	c.Examples, c.Horizon = len(order), d.Horizon(int(order[0]))
	if c.used() < c.Examples {
		c.Model.About += fmt.Sprintf(", the newest of %d, as older ones made it worse on the newest", c.Examples)
	}
	if cfg.ImportanceRows >= 0 {
		if err := c.addImportance(ctx, cmp.Or(cfg.ImportanceRows, 10_000)); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.Metrics = evaluation.Evaluate(d.scored(c.Predictor, c.Holdout))
	if err := c.addBaseline(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// held returns how many of so many examples are held out.
func (c *Config) held(examples int) int {
	return int(math.Round(cmp.Or(c.Holdout, 0.25) * float64(examples)))
}

// strengths returns the values of C to choose from.
func (c *Config) strengths() []float64 {
	if len(c.Strengths) == 0 {
		return DefaultStrengths()
	}
	return c.Strengths
}

// fit makes a model of the training rows, without what is measured on it.
func (d *Dataset) fit(ctx context.Context, training, holdout []int32, strengths []float64, cfg Config) (*Candidate, error) {
	c := &Candidate{Training: training, Holdout: holdout, Strength: strengths[0], data: d}
	x := Encode(d, training, EncodeConfig{Folds: cmp.Or(cfg.Folds, 5), MaxLevels: cfg.MaxLevels, Knots: cfg.Knots})
	var err error
	if len(strengths) > 1 {
		if c.Strength, _, err = x.Strength(ctx, strengths); err != nil {
			return nil, err
		}
	}
	w, err := x.Fit(ctx, c.Strength, SolverConfig{})
	if err != nil {
		return nil, err
	}
	c.Model = w.Model()
	c.Model.Thresholds = cfg.Thresholds
	c.Model.Thresholds = c.Model.RiskThresholds()
	c.Model.About = fmt.Sprintf("L2-regularised logistic regression with C %.4g on %d labelled rows", c.Strength, x.Rows())
	if x.hats > 0 {
		c.Model.About += ", numbers piecewise linear"
	}
	if c.Predictor, err = scoring.Compile(c.Model, d.vocabulary); err != nil {
		return nil, fmt.Errorf("compile the fitted model: %w", err)
	}
	return c, nil
}

// used is how many examples the candidate was learnt from and measured on.
func (c *Candidate) used() int { return len(c.Training) + len(c.Holdout) }
