package fitting

import (
	"cmp"
	"context"
	"math"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/churnstream/churnstream/scoring"
)

// tally sums one feature's weights over rows.
type tally struct {
	lime, shap float64 // absolute
	points     []pointTally
}

// pointTally sums a feature's weights over the rows with one level or bin.
type pointTally struct {
	lime, shap float64
	rows       int
}

// importanceBlock is how many rows are summed at once. It must not depend on
// the number of processors: sums would.
const importanceBlock = 128

// rareRows is how many rows stand for a level or bin that the rows taken do not
// have.
const rareRows = 20

// addImportance computes the global importance over at most limit training
// rows, evenly spaced in their order. A level or bin that none of them has gets
// its point from the newest rows that do; they do not count for the means of
// absolute weights. A point without any row, of a feature of which no value is
// known, is 0.
func (c *Candidate) addImportance(ctx context.Context, limit int) error {
	n := min(limit, len(c.Training))
	row := func(i int) int { return int(c.Training[i*len(c.Training)/n]) }
	blocks := make([][]tally, (n+importanceBlock-1)/importanceBlock)
	var next atomic.Int64
	var wait sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(blocks)) {
		wait.Go(func() {
			e := c.explainer()
			for b := int(next.Add(1)) - 1; b < len(blocks) && ctx.Err() == nil; b = int(next.Add(1)) - 1 {
				blocks[b] = c.tallies()
				for i := b * importanceBlock; i < min(n, (b+1)*importanceBlock); i++ {
					e.explain(row(i))
					for j := range blocks[b] {
						blocks[b][j].lime += math.Abs(e.lime[j])
						blocks[b][j].shap += math.Abs(e.shap[j])
						e.point(&blocks[b][j], j, row(i))
					}
				}
			}
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	total := c.tallies()
	for _, block := range blocks {
		for j := range total {
			total[j].lime += block[j].lime
			total[j].shap += block[j].shap
			for k, p := range block[j].points {
				total[j].points[k].lime += p.lime
				total[j].points[k].shap += p.shap
				total[j].points[k].rows += p.rows
			}
		}
	}
	if err := c.addRare(ctx, total); err != nil {
		return err
	}

	for j := range total {
		f := &c.Model.Features[j]
		g := scoring.Importance{Feature: f.Name, LIME: total[j].lime / float64(n), SHAP: total[j].shap / float64(n)}
		for k, text := range binTexts(f) {
			p := total[j].points[k]
			rows := float64(max(p.rows, 1))
			g.Points = append(g.Points, scoring.ImportancePoint{Value: text, LIME: p.lime / rows, SHAP: p.shap / rows})
		}
		c.Model.Importance = append(c.Model.Importance, g)
	}
	slices.SortStableFunc(c.Model.Importance, func(a, b scoring.Importance) int { return cmp.Compare(b.SHAP, a.SHAP) })
	return nil
}

// addRare adds points that have no row yet.
func (c *Candidate) addRare(ctx context.Context, total []tally) error {
	type place struct{ feature, bin int }
	wanted := make(map[place]int) // rows still to be found
	features := make(map[int]int) // points wanted of each feature
	for j := range total {
		for b, p := range total[j].points {
			if p.rows == 0 {
				wanted[place{j, b}] = rareRows
				features[j]++
			}
		}
	}
	e := c.explainer()
	for i := len(c.Training) - 1; i >= 0 && len(wanted) > 0; i-- {
		if i%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		row := int(c.Training[i])
		explained := false
		for j := range total {
			if features[j] == 0 {
				continue
			}
			at := place{j, c.bin(j, row)}
			left, want := wanted[at]
			if !want {
				continue
			}
			if !explained {
				e.explain(row)
				explained = true
			}
			e.point(&total[j], j, row)
			if left > 1 {
				wanted[at] = left - 1
				continue
			}
			delete(wanted, at)
			features[j]--
		}
	}
	return nil
}

// tallies returns empty sums for all features.
func (c *Candidate) tallies() []tally {
	out := make([]tally, len(c.Model.Features))
	for j := range out {
		f := &c.Model.Features[j]
		out[j].points = make([]pointTally, max(len(f.Levels), len(f.Bins)))
	}
	return out
}

// explainer explains rows, for one goroutine.
type explainer struct {
	c          *Candidate
	x          scoring.Vector
	workspace  *scoring.Workspace
	lime, shap []float64 // of the row explained last
}

func (c *Candidate) explainer() *explainer {
	return &explainer{c: c, x: scoring.NewVector(c.data.Spec().Len()), workspace: c.Predictor.NewWorkspace()}
}

func (e *explainer) explain(row int) {
	e.c.data.Attributes(row, e.x)
	e.lime = e.c.Predictor.LIME(e.lime, e.x, e.workspace)
	e.shap = e.c.Predictor.SHAP(e.shap, e.x, e.workspace)
}

// point adds the row explained last to its level or bin of feature j.
func (e *explainer) point(t *tally, j, row int) {
	if b := e.c.bin(j, row); b >= 0 {
		t.points[b].lime += e.lime[j]
		t.points[b].shap += e.shap[j]
		t.points[b].rows++
	}
}

// bin returns the position of example i's level or bin of a feature, −1 where
// it is missing or not a level of the model.
func (c *Candidate) bin(feature, i int) int {
	v, f := c.data.columns[feature].value(i), &c.Model.Features[feature]
	switch {
	case scoring.IsMissing(v):
		return -1
	case c.data.columns[feature].categorical:
		return slices.Index(f.Levels, c.data.vocabulary.Level(feature, v))
	default:
		return sort.SearchFloat64s(f.Quartiles, v)
	}
}

// binTexts names the levels or bins of a feature.
func binTexts(f *scoring.ModelFeature) []string {
	if f.Kind == scoring.Categorical.String() {
		return f.Levels
	}
	var out []string
	number := func(v float64) string { return strconv.FormatFloat(v, 'g', 6, 64) }
	for b, bin := range f.Bins {
		switch {
		case len(f.Bins) == 1:
			out = append(out, number(bin.Min)+" to "+number(bin.Max))
		case b == 0:
			out = append(out, "up to "+number(f.Quartiles[0]))
		case b == len(f.Quartiles):
			out = append(out, "over "+number(f.Quartiles[b-1]))
		default:
			out = append(out, "over "+number(f.Quartiles[b-1])+" to "+number(f.Quartiles[b]))
		}
	}
	return out
}
