package check

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/churnstream/churnstream/internal/quality"
)

// Colours that are told apart by those who do not see red from green too.
var (
	blue   = color.NRGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
	orange = color.NRGBA{R: 0xc4, G: 0x56, B: 0x0a, A: 0xff}
	grey   = color.Gray{Y: 0x90}
	pale   = color.NRGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0x80}
)

// picture is a plot under way; the first error stays.
type picture struct {
	*plot.Plot
	err error
}

func newPicture(x, y string) *picture {
	p := &picture{Plot: plot.New()}
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font, axis.Tick.Label.Font = sans(10), sans(9)
		axis.Padding = vg.Points(3)
	}
	p.X.Label.Text, p.Y.Label.Text = x, y
	p.Legend.TextStyle.Font = sans(9)
	p.Legend.Padding = vg.Points(2)
	return p
}

// unit has both axes go from 0 to 1.
func (p *picture) unit() *picture {
	p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, 1, 0, 1
	return p
}

// line adds a line through points, with a name in the legend if it has one.
func (p *picture) line(name string, points plotter.XYs, c color.Color, dashed bool) {
	if len(points) == 0 || p.err != nil {
		return
	}
	l, err := plotter.NewLine(points)
	if err != nil {
		p.err = err
		return
	}
	l.Color, l.Width = c, vg.Points(1.5)
	if dashed {
		l.Dashes = []vg.Length{vg.Points(4), vg.Points(3)}
	}
	p.Add(l)
	if name != "" {
		p.Legend.Add(name, l)
	}
}

// dots adds points with error bars.
func (p *picture) dots(points plotter.XYs, bars plotter.YErrors, c color.Color) {
	if len(points) == 0 || p.err != nil {
		return
	}
	marks, err := plotter.NewScatter(points)
	if err != nil {
		p.err = err
		return
	}
	marks.GlyphStyle = draw.GlyphStyle{Color: c, Radius: vg.Points(3), Shape: draw.CircleGlyph{}}
	errors, err := plotter.NewYErrorBars(struct {
		plotter.XYs
		plotter.YErrors
	}{points, bars})
	if err != nil {
		p.err = err
		return
	}
	errors.Color = pale
	p.Add(errors, marks)
}

// svg returns the picture as an element of a page, which says what it shows to those
// who do not see it.
func (p *picture) svg(label string) (template.HTML, error) {
	if p.err != nil {
		return "", fmt.Errorf("drawing %s: %w", label, p.err)
	}
	c := vgsvg.New(vg.Points(360), vg.Points(270))
	p.Draw(draw.Crop(draw.New(c), 4, -10, 4, -8))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", fmt.Errorf("drawing %s: %w", label, err)
	}
	// The declaration of a file, and its comment, have no place in a page.
	_, element, ok := bytes.Cut(b.Bytes(), []byte("<svg "))
	if !ok {
		return "", fmt.Errorf("drawing %s: there is no <svg in it", label)
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg role="img" aria-label="%s" `, template.HTMLEscapeString(label))
	out.Write(element)
	return template.HTML(out.String()), nil
}

func xys(points [][2]float64) plotter.XYs {
	out := make(plotter.XYs, len(points))
	for i, p := range points {
		out[i] = plotter.XY{X: p[0], Y: p[1]}
	}
	return out
}

var diagonal = plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}

func rocPicture(m *Measured) (template.HTML, error) {
	p := newPicture("share of stayers reached", "share of churners reached").unit()
	p.line("chance", diagonal, grey, true)
	p.line("scores", xys(m.ROC), blue, false)
	return p.svg("ROC curve of all scores in force")
}

func precisionRecallPicture(m *Measured) (template.HTML, error) {
	p := newPicture("recall", "precision").unit()
	rate := float64(m.Churners) / float64(m.Rows)
	p.line("churn rate", plotter.XYs{{X: 0, Y: rate}, {X: 1, Y: rate}}, grey, true)
	// Steps: a line between two points would be too optimistic.
	var steps plotter.XYs
	recall := 0.0
	for _, at := range m.PrecisionRecall {
		steps = append(steps, plotter.XY{X: recall, Y: at[1]}, plotter.XY{X: at[0], Y: at[1]})
		recall = at[0]
	}
	p.line("scores", steps, blue, false)
	return p.svg("Precision-recall curve of all scores in force")
}

func calibrationPicture(m *Measured) (template.HTML, error) {
	p := newPicture("mean probability", "churn rate").unit()
	p.line("right", diagonal, grey, true)
	var points plotter.XYs
	var bars plotter.YErrors
	for _, b := range m.Calibration {
		low, high := wilson(b.Observed*float64(b.Rows), float64(b.Rows))
		points = append(points, plotter.XY{X: b.Predicted, Y: b.Observed})
		bars = append(bars, struct{ Low, High float64 }{b.Observed - low, high - b.Observed})
	}
	p.line("", points, blue, false)
	p.dots(points, bars, blue)
	return p.svg("Calibration curve of all scores in force, in ten bins with 95 % intervals")
}

// wilson is the 95 % interval of a share.
func wilson(hits, rows float64) (low, high float64) {
	const z = 1.959963984540054
	centre := (hits + z*z/2) / (rows + z*z)
	half := z / (rows + z*z) * math.Sqrt(hits*(rows-hits)/rows+z*z/4)
	return centre - half, centre + half
}

func gainsPicture(m *Measured) (template.HTML, error) {
	p := newPicture("share of customers, by falling probability", "share of churners").unit()
	p.line("chance", diagonal, grey, true)
	points := plotter.XYs{{X: 0, Y: 0}}
	for _, d := range m.Deciles {
		if d.Gain.Defined() {
			points = append(points, plotter.XY{X: float64(d.Rows) / float64(m.Rows), Y: float64(d.Gain)})
		}
	}
	p.line("scores", points, blue, false)
	return p.svg("Gains by decile of all scores in force")
}

// weeklyPicture shows a figure by week with its intervals, and what it is compared
// with.
func weeklyPicture(weeks []Week, figure, y, other string, against func(*Week) quality.Number) (template.HTML, error) {
	p := newPicture("week", y)
	var points, beside plotter.XYs
	var bars plotter.YErrors
	for i := range weeks {
		w := &weeks[i]
		x := float64(w.From.Unix())
		if a := against(w); a.Defined() {
			beside = append(beside, plotter.XY{X: x, Y: float64(a)})
		}
		f, defined := w.Figures[figure]
		if !defined {
			continue
		}
		bar := struct{ Low, High float64 }{}
		if f.Lower.Defined() && f.Upper.Defined() {
			bar.Low, bar.High = float64(f.Value-f.Lower), float64(f.Upper-f.Value)
		}
		points = append(points, plotter.XY{X: x, Y: float64(f.Value)})
		bars = append(bars, bar)
	}
	p.line(other, beside, orange, true)
	p.line("scores", points, blue, false)
	p.dots(points, bars, blue)
	p.X.Tick.Marker = plot.ConstantTicks(weekTicks(weeks))
	if len(weeks) > 0 {
		const days = 3 * 24 * 3600
		p.X.Min, p.X.Max = float64(weeks[0].From.Unix()-days), float64(weeks[len(weeks)-1].From.Unix()+days)
	}
	return p.svg(y + " by week, with 95 % intervals")
}

// weekTicks marks some of the weeks.
func weekTicks(weeks []Week) (ticks []plot.Tick) {
	every := (len(weeks) + 5) / 6
	for i := range weeks {
		tick := plot.Tick{Value: float64(weeks[i].From.Unix())}
		if every > 0 && i%every == 0 {
			tick.Label = weeks[i].From.Format("2 Jan")
		}
		ticks = append(ticks, tick)
	}
	return ticks
}
