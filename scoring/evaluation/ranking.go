package evaluation

import (
	"cmp"
	"math"
	"slices"

	"github.com/churnstream/churnstream/scoring"
)

// Example is a score and what became of the customer.
type Example struct {
	// Customer tells customers apart, as a hash of the id does; see
	// scoring.Hash. Examples of one customer are not independent of each other.
	Customer    uint64
	Probability float64
	Churned     bool
}

// Evaluate returns the figures of examples with their intervals. It is Rank, then
// Metrics and Intervals; where there are curves to draw too, rank once.
func Evaluate(examples []Example) Metrics {
	r := Rank(examples)
	m := r.Metrics()
	m.Lower, m.Upper = r.Intervals()
	return m
}

// Ranking is labelled examples in the order of their scores, from which figures
// and curves are read. It is safe for concurrent use.
type Ranking struct {
	groups []group
	// customer is the position of a row's customer in customers. Rows are
	// ordered by group, and within one churners come first.
	customer  []int32
	customers []uint64 // ascending, each once
}

// group is the examples that tie: rows start to end, churners up to middle.
type group struct {
	probability        float64
	start, middle, end int32
	bin                int8
	predicted          bool
	// losses of a churner and a stayer
	churnedLoss, stayedLoss   float64
	churnedBrier, stayedBrier float64
}

// Rank orders examples. Those without a probability (scoring.Missing) are left
// out; the others' must be from 0 to 1.
func Rank(examples []Example) *Ranking {
	sorted := make([]Example, 0, len(examples))
	for _, e := range examples {
		if !scoring.IsMissing(e.Probability) {
			sorted = append(sorted, e)
		}
	}
	slices.SortFunc(sorted, func(a, b Example) int {
		switch {
		case a.Probability != b.Probability:
			return cmp.Compare(b.Probability, a.Probability)
		case a.Churned != b.Churned:
			if a.Churned {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Customer, b.Customer)
	})
	r := &Ranking{customer: make([]int32, len(sorted)), customers: make([]uint64, len(sorted))}
	for i, e := range sorted {
		r.customers[i] = e.Customer
	}
	slices.Sort(r.customers)
	r.customers = slices.Compact(r.customers)
	for i, e := range sorted {
		position, _ := slices.BinarySearch(r.customers, e.Customer)
		r.customer[i] = int32(position)
	}
	for i := 0; i < len(sorted); {
		p := sorted[i].Probability
		g := group{probability: p, start: int32(i), bin: int8(bin(p)), predicted: p >= 0.5,
			churnedLoss: LogLoss(p, true), stayedLoss: LogLoss(p, false),
			churnedBrier: (1 - p) * (1 - p), stayedBrier: p * p}
		for i < len(sorted) && sorted[i].Probability == p && sorted[i].Churned {
			i++
		}
		g.middle = int32(i)
		for i < len(sorted) && sorted[i].Probability == p {
			i++
		}
		g.end = int32(i)
		r.groups = append(r.groups, g)
	}
	return r
}

// Len returns the number of examples.
func (r *Ranking) Len() int { return len(r.customer) }

// LogLoss is the negative log-likelihood of one label (natural logarithm), with
// the probability of what happened kept 2⁻⁵² away from 0 and 1.
func LogLoss(probability float64, churned bool) float64 {
	const least = 0x1p-52
	switch {
	case churned:
		return -math.Log(min(max(probability, least), 1-least))
	case probability > 1-least:
		return -math.Log(least)
	}
	return -math.Log1p(-max(probability, least))
}

// bins is the number of bins of equal width that calibration is measured in.
const bins = 10

// bin returns the bin of a probability. A bin has its upper edge, and the first
// one has 0 as well, as in scikit-learn's calibration_curve.
func bin(p float64) int {
	b := min(max(int(p*bins), 0), bins-1)
	for b > 0 && p <= edge(b) {
		b--
	}
	for b < bins-1 && p > edge(b+1) {
		b++
	}
	return b
}

// edge is the lower edge of a bin.
func edge(b int) float64 { return float64(b) * 0.1 }

// Metrics returns the figures, without intervals.
func (r *Ranking) Metrics() Metrics {
	m := NoMetrics()
	weights := make([]uint8, r.Len())
	for i := range weights {
		weights[i] = 1
	}
	m.Rows = int64(r.Len())
	m.Churners = r.churners()
	m.Figures = r.figures(weights, m.Rows)
	return m
}

func (r *Ranking) churners() (n int64) {
	for i := range r.groups {
		n += int64(r.groups[i].middle - r.groups[i].start)
	}
	return n
}

// figures computes the figures of examples that count as often as their weights
// say, total times in all.
func (r *Ranking) figures(weights []uint8, total int64) Figures {
	f := Undefined()
	if total == 0 {
		return f
	}
	var (
		above, churnedAbove       int64 // what has been passed
		truePositives, predicted  int64
		pairs                     int64 // twice the ordered pairs of a churner and a stayer
		loss, brier, precisions   float64
		binPredicted, miscalibred float64
		binChurned                int64
		caught                    float64 // churners in the top decile
		inBin                     = int8(-1)
	)
	decile := (total + 9) / 10
	for i := range r.groups {
		g := &r.groups[i]
		// Most groups are one row, and a third of the rows has weight 0 in a
		// resample: branches on what a row is would be guessed wrong too often.
		var churned, stayed int64
		if g.end-g.start == 1 {
			w := int64(weights[g.start])
			churned = w * int64(g.middle-g.start)
			stayed = w - churned
		} else {
			for _, w := range weights[g.start:g.middle] {
				churned += int64(w)
			}
			for _, w := range weights[g.middle:g.end] {
				stayed += int64(w)
			}
		}
		rows := churned + stayed
		loss += float64(churned)*g.churnedLoss + float64(stayed)*g.stayedLoss
		brier += float64(churned)*g.churnedBrier + float64(stayed)*g.stayedBrier
		if g.bin != inBin {
			miscalibred += math.Abs(binPredicted - float64(binChurned))
			binPredicted, binChurned, inBin = 0, 0, g.bin
		}
		binPredicted += float64(rows) * g.probability
		binChurned += churned
		if g.predicted {
			predicted += rows
			truePositives += churned
		}
		pairs += stayed * (2*churnedAbove + churned)
		if above < decile {
			caught += float64(churned) * min(float64(decile-above)/float64(max(rows, 1)), 1)
		}
		above += rows
		churnedAbove += churned
		precisions += float64(churned) * float64(churnedAbove) / float64(max(above, 1))
	}
	miscalibred += math.Abs(binPredicted - float64(binChurned))

	n, churners := float64(total), churnedAbove
	stayers := total - churners
	f.Accuracy = float64(truePositives+stayers-(predicted-truePositives)) / n
	f.Precision = ratio(float64(truePositives), float64(predicted))
	f.Recall = ratio(float64(truePositives), float64(churners))
	f.F1 = ratio(2*float64(truePositives), float64(predicted+churners))
	f.ROCAUC = ratio(float64(pairs), 2*float64(churners)*float64(stayers))
	f.PRAUC = ratio(precisions, float64(churners))
	f.LogLoss = loss / n
	if churners > 0 && stayers > 0 {
		f.LogLossSkill = 1 - f.LogLoss/entropy(float64(churners)/n)
	}
	f.Brier = brier / n
	f.CalibrationError = miscalibred / n
	f.TopDecileLift = ratio(caught*n, float64(decile)*float64(churners))
	return f
}

// entropy is that of a coin, in nats.
func entropy(p float64) float64 {
	if p <= 0 || p >= 1 {
		return 0
	}
	return -p*math.Log(p) - (1-p)*math.Log1p(-p)
}

// ratio is Missing where the divisor is 0.
func ratio(a, b float64) float64 {
	if b == 0 {
		return scoring.Missing
	}
	return a / b
}
