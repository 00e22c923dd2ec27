package fitting

import (
	"slices"
	"testing"
)

func TestQuartileBins(t *testing.T) {
	for name, c := range map[string]struct {
		values, bounds []float64
		frequency      []float64
	}{
		"even":                          {[]float64{1, 2, 3, 4, 5, 6, 7, 8, 9}, []float64{3, 5, 7}, []float64{3. / 9, 2. / 9, 2. / 9, 2. / 9}},
		"between values":                {[]float64{1, 2, 3, 4}, []float64{1.75, 2.5, 3.25}, []float64{0.25, 0.25, 0.25, 0.25}},
		"mostly one value, at the foot": {[]float64{0, 0, 0, 0, 0, 0, 1, 2}, []float64{0}, []float64{0.75, 0.25}}, // no value between 0 and the upper quartile, 0.25
		"mostly one value, at the top":  {[]float64{1, 2, 9, 9, 9, 9, 9, 9}, []float64{7.25}, []float64{0.25, 0.75}},
		"one value":                     {[]float64{3, 3, 3}, nil, []float64{1}},
		"none":                          {nil, nil, []float64{1}},
	} {
		t.Run(name, func(t *testing.T) {
			bounds, bins := quartileBins(c.values)
			if !slices.Equal(bounds, c.bounds) {
				t.Errorf("bounds %v, want %v", bounds, c.bounds)
			}
			var frequency []float64
			for b, bin := range bins {
				frequency = append(frequency, bin.Frequency)
				if bin.Mean < bin.Min || bin.Mean > bin.Max {
					t.Errorf("bin %d: %+v", b, bin)
				}
			}
			if !slices.Equal(frequency, c.frequency) {
				t.Errorf("frequencies %v, want %v", frequency, c.frequency)
			}
		})
	}
}
