package quality

import (
	"math"
	"testing"
)

func TestFallen(t *testing.T) {
	nan := math.NaN()
	holdout := Figures{}
	holdout.Set("roc_auc", .84, .82, .86)
	holdout.Set("calibration_error", .02, .01, .03)
	holdout.Set("log_loss", .41, .39, .43)
	for _, test := range []struct {
		name, figure        string
		value, lower, upper float64
		fallen              bool
	}{
		{"skill below 0", "log_loss_skill", -.2, -.3, -.1, true},
		{"skill that may be 0", "log_loss_skill", -.1, -.25, .05, false},
		{"skill without an interval", "log_loss_skill", -.1, nan, nan, false},
		{"another order", "roc_auc", .7, .65, .75, true},
		{"a better order", "roc_auc", .9, .88, .92, false},
		{"an order that may be as before", "roc_auc", .8, .77, .83, false},
		{"probabilities that are off", "calibration_error", .1, .08, .12, true},
		{"probabilities that are off by chance", "calibration_error", .05, .04, .06, false},
		{"better calibration", "calibration_error", .004, .002, .006, false},
		{"more loss alone", "log_loss", .6, .5, .7, false}, // as when everybody's fate is hard to tell
	} {
		v := Version{Rows: 5000, Holdout: holdout, Measured: Figures{}}
		v.Measured.Set("brier", .14, .13, .15)
		v.Measured.Set(test.figure, test.value, test.lower, test.upper)
		found, fallen := v.Fallen()
		if fallen != test.fallen || fallen && found.Figure != test.figure {
			t.Errorf("%s: fallen %t by %+v", test.name, fallen, found)
		}
	}
	// The champion is judged by what it would say, not by what it said once.
	v := Version{Rows: 5000, Holdout: holdout, Measured: Figures{}, Current: &Sample{Rows: 300, Figures: Figures{}}}
	v.Measured.Set("log_loss_skill", .3, .25, .35)
	v.Current.Figures.Set("log_loss_skill", -.2, -.3, -.1)
	if found, fallen := v.Fallen(); !fallen || found.Measured.Value != -.2 {
		t.Errorf("a champion that would be wrong has fallen %t by %+v", fallen, found)
	}
	v.Measured, v.Current.Figures = v.Current.Figures, v.Measured
	if standing, _ := v.Stands(); standing != Better {
		t.Errorf("one that was wrong once stands at %d", standing)
	}
	v.Current = &Sample{Figures: Figures{}}
	if standing, _ := v.Stands(); standing != Untold {
		t.Errorf("one that nothing is new to stands at %d", standing)
	}
	if _, fallen := (*Version)(nil).Fallen(); fallen {
		t.Error("no version has fallen")
	}
	if _, fallen := (&Version{}).Fallen(); fallen {
		t.Error("a version without figures has fallen")
	}
}
