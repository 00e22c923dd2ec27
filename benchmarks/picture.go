package benchmarks

import (
	"errors"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

var (
	cloudColor = color.NRGBA{R: 0x3b, G: 0x6e, B: 0xa8, A: 0x60}
	exactColor = color.NRGBA{R: 0xc0, G: 0x2a, B: 0x2a, A: 0xff}
)

// Picture draws a scatter into a file, in the format that the file's ending
// names (png, svg, pdf, …): of each feature the weight of every sampling run as
// a dot and the exact weight as a line. The same scatter gives the same picture.
func Picture(s *Scatter, path string) error {
	p := plot.New()
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	p.Title.Text = fmt.Sprintf("LIME weights of one customer: exact, and in %d runs of %d samples", s.Runs, s.Samples)
	p.Title.TextStyle.Font = sans(12)
	p.Title.Padding = vg.Points(8)
	p.X.Label.Text = "weight on the probability scale (right: towards churn)"
	p.X.Label.TextStyle.Font = sans(10)
	p.X.Padding, p.Y.Padding = vg.Points(4), vg.Points(4)

	n := len(s.Features)
	rng := rand.New(rand.NewPCG(uint64(n), 0)) // spreads the dots over a feature's row
	var cloud plotter.XYs
	labels := make(plot.ConstantTicks, n)
	for i := range s.Features {
		f := &s.Features[i]
		row := float64(n - 1 - i)
		labels[i] = plot.Tick{Value: row, Label: f.Feature + " = " + f.Value}
		for _, w := range f.Sampled {
			cloud = append(cloud, plotter.XY{X: w, Y: row + 0.6*(rng.Float64()-0.5)})
		}
	}
	dots, err := plotter.NewScatter(cloud)
	if err != nil {
		return fmt.Errorf("drawing %s: %w", path, err)
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: cloudColor, Radius: vg.Points(1.5), Shape: draw.CircleGlyph{}}
	zero, err := plotter.NewLine(plotter.XYs{{X: 0, Y: -0.7}, {X: 0, Y: float64(n) - 0.3}})
	if err != nil {
		return fmt.Errorf("drawing %s: %w", path, err)
	}
	zero.LineStyle = draw.LineStyle{Color: color.Gray{0xb0}, Width: vg.Points(0.75)}
	p.Add(zero, dots)
	var exact *plotter.Line
	for i := range s.Features {
		row := float64(n - 1 - i)
		exact, err = plotter.NewLine(plotter.XYs{{X: s.Features[i].Exact, Y: row - 0.42}, {X: s.Features[i].Exact, Y: row + 0.42}})
		if err != nil {
			return fmt.Errorf("drawing %s: %w", path, err)
		}
		exact.LineStyle = draw.LineStyle{Color: exactColor, Width: vg.Points(1.75)}
		p.Add(exact)
	}
	p.Y.Tick.Marker = labels
	p.Y.Tick.Length = 0
	p.Y.Tick.Label.Font, p.X.Tick.Label.Font = sans(9), sans(9)
	p.Y.Min, p.Y.Max = -0.7, float64(n)-0.3
	p.Legend.Add("exact", exact)
	p.Legend.Add("a run of sampling", dots)
	p.Legend.TextStyle.Font = sans(9)
	// The least weights are at the bottom and near 0, so the corner on the
	// side of the lesser extreme is free.
	low, high := math.Inf(1), math.Inf(-1)
	for _, xy := range cloud {
		low, high = min(low, xy.X), max(high, xy.X)
	}
	p.Legend.Left = high < -low
	p.Legend.Padding = vg.Points(3)
	p.X.Min, p.X.Max = low-0.03*(high-low), high+0.03*(high-low)
	p.X.Tick.Marker = ticks(p.X.Min, p.X.Max)
	return save(p, 9*vg.Inch, vg.Length(1.2+0.28*float64(n))*vg.Inch, path)
}

// ticks returns marks at round weights, 0 among them.
func ticks(low, high float64) plot.ConstantTicks {
	step := 1.0
	for _, finer := range []float64{0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001} {
		if (high-low)/finer <= 12 {
			step = finer
		}
	}
	var marks plot.ConstantTicks
	for k := math.Ceil(low / step); k*step <= high; k++ {
		marks = append(marks, plot.Tick{Value: k * step, Label: fmt.Sprintf("%.3g", k*step)})
	}
	return marks
}

// save writes a plot with a margin around it, on white: titles and labels
// otherwise touch the edge.
func save(p *plot.Plot, width, height vg.Length, path string) (err error) {
	format := strings.TrimPrefix(strings.ToLower(filepath.Ext(path)), ".")
	c, err := draw.NewFormattedCanvas(width, height, format)
	if err != nil {
		return fmt.Errorf("drawing %s: %w", path, err)
	}
	dc := draw.New(c)
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	const margin = 12
	p.Draw(draw.Crop(dc, margin, -margin, margin, -margin))
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := c.WriteTo(f); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
