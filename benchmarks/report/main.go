// Command report measures what explanations cost and how far sampled ones
// scatter, prints both as Markdown, and draws the scatter.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"

	"github.com/churnstream/churnstream/benchmarks"
	"github.com/churnstream/churnstream/trainer/fitting"
)

type flags struct {
	Model   string `help:"Measure this model, in the form that churnstream explain takes, instead of one trained on the shipped table." type:"existingfile" placeholder:"FILE"`
	Picture string `help:"Draw the scatter into this file; the ending says which format (png, svg). Empty: no picture." default:"docs/images/lime-scatter.png"`
	Sizes   []int  `help:"Numbers of features of the made-up models to measure." default:"5,19,50,200"`
	Runs    int    `help:"Runs of sampling." default:"100"`
	Samples int    `help:"Samples a run." default:"5000"`
	Rounds  int    `help:"Rounds of measuring; the fastest counts." default:"25"`
}

func main() {
	var f flags
	kong.Parse(&f, kong.Name("report"), kong.Description("Measures exact explanations against sampled ones. Run it from the root of the repository."))
	if err := f.run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func (f *flags) run(ctx context.Context, out io.Writer) error {
	if f.Runs < 2 || f.Samples < 1 || f.Rounds < 1 {
		return fmt.Errorf("--runs must be at least 2, --samples and --rounds at least 1")
	}
	var subject *benchmarks.Case
	var err error
	if f.Model != "" {
		subject, err = benchmarks.FromFile(f.Model)
	} else {
		subject, err = benchmarks.Telco(ctx, fitting.Config{})
	}
	if err != nil {
		return err
	}
	cases := []*benchmarks.Case{subject}
	for _, n := range f.Sizes {
		c, err := benchmarks.Synthetic(n)
		if err != nil {
			return err
		}
		cases = append(cases, c)
	}
	var costs []*benchmarks.Cost
	for _, c := range cases {
		cost, err := benchmarks.Measure(c, f.Rounds, f.Samples)
		if err != nil {
			return err
		}
		costs = append(costs, cost)
	}
	s, err := benchmarks.MeasureScatter(subject, subject.Customers[0], f.Runs, f.Samples)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "Measured on: %s. One core used; times are per customer with all features\nexplained, the fastest of %d rounds.\n\n", benchmarks.Machine(), f.Rounds)
	fmt.Fprintln(out, benchmarks.CostTable(costs))
	fmt.Fprintf(out, "One customer of the %s model, churn probability %.3f: exact, and %d runs of %d samples.\n\n", s.Case, s.Probability, s.Runs, s.Samples)
	fmt.Fprintln(out, benchmarks.ScatterTable(s))
	fmt.Fprintf(out, "Root mean square of z: %.2f. Runs whose five greatest weights differ from the exact\nones in kind or order: %.0f %%. Weights with the wrong sign: %.1f %%.\n",
		s.RMSZ(), 100*s.OtherTop, 100*s.OtherSign)
	if f.Picture == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Picture), 0o755); err != nil {
		return fmt.Errorf("making room for the picture: %w", err)
	}
	if err := benchmarks.Picture(s, f.Picture); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nPicture: %s\n", f.Picture)
	return nil
}
