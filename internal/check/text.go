package check

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText writes the report in a few lines.
func (r *Report) WriteText(out io.Writer) error {
	labels := strings.Join(r.Labels, "; ")
	if labels == "" {
		labels = "no labels"
	}
	fmt.Fprintf(out, "%d labelled examples of %d customers, observed from %s to %s (%s): %d churned, %d labels corrected, %d without a score, %d of another horizon than the version's\n\n",
		r.Examples.Examples, r.Examples.Customers, r.Since.Format(time.DateTime), r.Until.Format(time.DateTime),
		labels, r.Examples.Churners, r.Examples.Corrected, r.Examples.Unscored, r.Examples.OtherHorizon)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	row := func(what string, m *Measured) {
		fmt.Fprintf(w, "%s\t%d\t%d", what, m.Rows, m.Churners)
		for _, name := range []string{"log_loss", "log_loss_skill", "roc_auc", "pr_auc", "calibration_error", "top_decile_lift"} {
			fmt.Fprintf(w, "\t%s", interval(m.Figures, name))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintln(w, "VERSION\tROWS\tCHURNERS\tLOG LOSS\tSKILL\tROC AUC\tPR AUC\tCALIBRATION ERROR\tTOP DECILE LIFT")
	row("all", &r.Overall)
	for i := range r.Versions {
		v := &r.Versions[i]
		what := fmt.Sprint(v.Version)
		if v.InUse {
			what += " (in use)"
		}
		row(what, &v.Measured)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	if len(r.Thresholds) == 0 {
		fmt.Fprintln(out, "no thresholds were given, so nothing was judged")
	}
	for _, t := range r.Thresholds {
		if t.Met {
			fmt.Fprintf(out, "met     %s %g\n", t.Threshold, t.Limit)
		} else {
			fmt.Fprintf(out, "missed  %s: %s\n", t.Threshold, t.Why)
		}
	}
	return nil
}
