package check

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

//go:embed page.html
var pageTemplate string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"figure":   short,
	"interval": interval,
	"plain":    func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) },
	"percent":  func(x float64) string { return strconv.FormatFloat(100*x, 'f', 1, 64) + "\u202f%" },
	"signed":   func(x float64) string { return signed(quality.Number(x)) },
	"change":   signed,
	"exceeds":  quality.Measure.Exceeded,
	"day":      func(t time.Time) string { return t.Format("2 Jan 2006") },
	"minute":   func(t time.Time) string { return t.Format("2 Jan 2006, 15:04 UTC") },
	"bar": func(x quality.Number, most float64) string {
		return strconv.FormatFloat(math.Round(1000*math.Abs(float64(x))/most)/10, 'f', -1, 64)
	},
	"worse": func(x quality.Number) bool { return x > 0 },
	"all":   func() []evaluation.Figure { return evaluation.All },
	"last":  func(t time.Time) time.Time { return t.Add(-time.Millisecond) },
}).Parse(pageTemplate))

// interval shows a figure with its interval.
func interval(f quality.Figures, name string) string {
	x, defined := f[name]
	switch {
	case !defined:
		return "–"
	case !x.Lower.Defined() || !x.Upper.Defined():
		return short(x.Value)
	}
	return fmt.Sprintf("%s (%s to %s)", short(x.Value), short(x.Lower), short(x.Upper))
}

func signed(x quality.Number) string {
	if !x.Defined() {
		return "–"
	}
	if x > -0.00005 && x < 0.00005 {
		return "0.0000" // and not −0
	}
	return fmt.Sprintf("%+.4f", float64(x))
}

// captioned is a picture and what is to be said of it.
type captioned struct {
	Picture template.HTML
	Caption string
}

// WriteHTML writes the report as a page that needs nothing else: no script, and
// nothing from the network.
func (r *Report) WriteHTML(w io.Writer) error {
	pictures, err := r.pictures()
	if err != nil {
		return err
	}
	most := 0.0
	if r.Loss != nil {
		for _, f := range r.Loss.Features {
			most = max(most, math.Abs(f.Value))
			if f.Change.Defined() {
				most = max(most, math.Abs(float64(f.Change)))
			}
		}
	}
	return page.Execute(w, struct {
		*Report
		Pictures []captioned
		MostLoss float64
	}{r, pictures, max(most, 1e-12)})
}

func (r *Report) pictures() (list []captioned, err error) {
	if r.Overall.Rows == 0 {
		return nil, nil
	}
	add := func(caption string, draw func() (template.HTML, error)) {
		if err != nil {
			return
		}
		var c captioned
		if c.Picture, err = draw(); err == nil {
			c.Caption = caption
			list = append(list, c)
		}
	}
	m := &r.Overall
	add("Calibration: of customers with a probability of 30 %, 30 % should have left. Bars are 95 % intervals.", func() (template.HTML, error) { return calibrationPicture(m) })
	add("ROC: how many churners are reached at the price of how many stayers.", func() (template.HTML, error) { return rocPicture(m) })
	add("Precision and recall: how many of those called have left, and how many of those who left are called.", func() (template.HTML, error) { return precisionRecallPicture(m) })
	add("Gains: how many of those who left are among the customers with the highest probabilities.", func() (template.HTML, error) { return gainsPicture(m) })
	if len(r.Weeks) < 2 {
		return list, err
	}
	add("Log loss by week: lower is better. Above the churn rate's own, one number for all would do.", func() (template.HTML, error) {
		return weeklyPicture(r.Weeks, "log_loss", "log loss", "churn rate alone", func(w *Week) quality.Number { return quality.Number(w.BaseLogLoss) })
	})
	add("ROC AUC by week, and what the scores themselves let expect.", func() (template.HTML, error) {
		return weeklyPicture(r.Weeks, "roc_auc", "ROC AUC", "expected", func(w *Week) quality.Number {
			if f, ok := w.Expected["roc_auc"]; ok {
				return f.Value
			}
			return undefined.Value
		})
	})
	return list, err
}
