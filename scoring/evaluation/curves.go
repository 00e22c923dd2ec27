package evaluation

import "math"

// Confusion counts examples by what was predicted and what happened.
type Confusion struct {
	TruePositives, FalsePositives, FalseNegatives, TrueNegatives int64
}

// Confusion returns the confusion matrix at probability 0.5, from which on churn is
// predicted.
func (r *Ranking) Confusion() (c Confusion) {
	for i := range r.groups {
		g := &r.groups[i]
		churned, stayed := g.counts()
		if g.predicted {
			c.TruePositives += churned
			c.FalsePositives += stayed
		} else {
			c.FalseNegatives += churned
			c.TrueNegatives += stayed
		}
	}
	return c
}

func (g *group) counts() (churned, stayed int64) {
	return int64(g.middle - g.start), int64(g.end - g.middle)
}

// CalibrationBin is the examples whose probability is in one of ten bins of equal
// width. A bin has its upper edge, and the first one has 0 as well.
type CalibrationBin struct {
	Rows int64
	// Predicted is the mean probability and Observed the churn rate; both are
	// Missing in an empty bin.
	Predicted, Observed float64
}

// Calibration returns the calibration curve: what was predicted and what happened,
// in ten bins of equal width.
func (r *Ranking) Calibration() [bins]CalibrationBin {
	var (
		curve   [bins]CalibrationBin
		sums    [bins]float64
		churned [bins]int64
	)
	for i := range r.groups {
		g := &r.groups[i]
		c, s := g.counts()
		curve[g.bin].Rows += c + s
		sums[g.bin] += float64(c+s) * g.probability
		churned[g.bin] += c
	}
	for b := range curve {
		n := float64(curve[b].Rows)
		curve[b].Predicted, curve[b].Observed = ratio(sums[b], n), ratio(float64(churned[b]), n)
	}
	return curve
}

// Decile is the examples with the highest probabilities, up to some tenths of all.
type Decile struct {
	// Rows is how many there are: that many tenths of all, rounded up. Churners
	// is how many of them churned. Examples that tie across the edge count in
	// proportion, so the order they came in does not matter.
	Rows     int64
	Churners float64
	// Gain is the share of all churners that is among them, and Lift their churn
	// rate over that of all. Both are Missing without churners.
	Gain, Lift float64
}

// Deciles returns gains and lift: element i is of the first i+1 tenths.
func (r *Ranking) Deciles() (deciles [10]Decile) {
	all := float64(r.churners())
	n := int64(r.Len())
	for d := range deciles {
		rows := (int64(d+1)*n + 9) / 10
		churners := 0.0
		for i := range r.groups {
			g := &r.groups[i]
			if int64(g.start) >= rows {
				break
			}
			c, s := g.counts()
			churners += float64(c) * min(float64(rows-int64(g.start))/float64(c+s), 1)
		}
		deciles[d] = Decile{Rows: rows, Churners: churners, Gain: ratio(churners, all),
			Lift: ratio(churners*float64(n), float64(rows)*all)}
	}
	return deciles
}

// ROCPoint says how many of the stayers and of the churners have a probability of
// Threshold or more.
type ROCPoint struct {
	Threshold                           float64
	FalsePositiveRate, TruePositiveRate float64
}

// ROC returns the points of the ROC curve, from (0, 0), whose threshold is
// infinite, by falling thresholds to (1, 1). Between them the curve is straight.
// It is nil when only one class is present.
func (r *Ranking) ROC() []ROCPoint {
	churners := r.churners()
	stayers := int64(r.Len()) - churners
	if churners == 0 || stayers == 0 {
		return nil
	}
	points := make([]ROCPoint, 1, len(r.groups)+1)
	points[0].Threshold = math.Inf(1)
	var churned, stayed int64
	for i := range r.groups {
		c, s := r.groups[i].counts()
		churned += c
		stayed += s
		points = append(points, ROCPoint{r.groups[i].probability, float64(stayed) / float64(stayers), float64(churned) / float64(churners)})
	}
	return points
}

// PrecisionRecallPoint is the precision and the recall when churn is predicted
// from probability Threshold on.
type PrecisionRecallPoint struct {
	Threshold, Precision, Recall float64
}

// PrecisionRecall returns the points of the precision-recall curve by falling
// thresholds, from that of the highest probability to recall 1. It is nil without
// churners. Lines between the points would be too optimistic: draw steps.
func (r *Ranking) PrecisionRecall() []PrecisionRecallPoint {
	churners := r.churners()
	if churners == 0 {
		return nil
	}
	points := make([]PrecisionRecallPoint, 0, len(r.groups))
	var churned, rows int64
	for i := range r.groups {
		c, s := r.groups[i].counts()
		churned += c
		rows += c + s
		points = append(points, PrecisionRecallPoint{r.groups[i].probability, float64(churned) / float64(rows), float64(churned) / float64(churners)})
	}
	return points
}
