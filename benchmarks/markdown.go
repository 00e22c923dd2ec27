package benchmarks

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"runtime"
	"strings"
	"time"
)

// Machine returns in a line what the figures were measured on.
func Machine() string {
	cpu := runtime.GOARCH
	if f, err := os.Open("/proc/cpuinfo"); err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if name, model, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(model)
				break
			}
		}
	}
	return fmt.Sprintf("%s, %d cores, %s, %s", cpu, runtime.NumCPU(), runtime.GOOS, runtime.Version())
}

// CostTable returns costs as a Markdown table.
func CostTable(costs []*Cost) string {
	var b strings.Builder
	b.WriteString("| model | features | probability | LIME | SHAP | all three | allocations | compile | tables | sampled LIME | sampled / exact |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, c := range costs {
		fmt.Fprintf(&b, "| %s | %d | %s | %s | %s | %s | %.0f | %s | %s | %s | %.0f |\n", c.Case, c.Features,
			duration(c.Probability), duration(c.LIME), duration(c.SHAP), duration(c.All), c.Allocations,
			duration(c.Compile), size(c.TableBytes), duration(c.Sampled), c.Ratio)
	}
	return b.String()
}

// ScatterTable returns a customer's explanation by sampling and exactly, as a
// Markdown table.
func ScatterTable(s *Scatter) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| feature | value | exact | mean of %d runs | scatter of one run | z |\n", s.Runs)
	b.WriteString("|---|---|--:|--:|--:|--:|\n")
	for i := range s.Features {
		f := &s.Features[i]
		fmt.Fprintf(&b, "| %s | %s | %+.5f | %+.5f | %.5f | %+.1f |\n", f.Feature, cell(f.Value), f.Exact, f.Mean, f.Std, f.Z())
	}
	return b.String()
}

// cell escapes what would end a table's cell.
func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// duration returns nanoseconds with three digits.
func duration(ns float64) string {
	for _, unit := range []struct {
		least float64
		name  string
	}{{float64(time.Second), "s"}, {float64(time.Millisecond), "ms"}, {float64(time.Microsecond), "µs"}} {
		if ns >= unit.least {
			return digits(ns/unit.least) + " " + unit.name
		}
	}
	return digits(ns) + " ns"
}

// size returns bytes with three digits.
func size(bytes float64) string {
	if bytes >= 1<<20 {
		return digits(bytes/(1<<20)) + " MiB"
	}
	return digits(bytes/(1<<10)) + " KiB"
}

// digits returns a number with three digits, or more if its whole part has
// more.
func digits(x float64) string {
	decimals := 2
	if x > 0 {
		decimals = max(0, 2-int(math.Floor(math.Log10(x))))
	}
	return fmt.Sprintf("%.*f", decimals, x)
}
