package scoring

import "testing"

func TestRisk(t *testing.T) {
	thresholds := Thresholds{Medium: 0.3, High: 0.6}
	for _, c := range []struct {
		probability float64
		risk        Risk
		name        string
	}{
		{0, RiskLow, "LOW"},
		{0.2999, RiskLow, "LOW"},
		{0.3, RiskMedium, "MEDIUM"},
		{0.5999, RiskMedium, "MEDIUM"},
		{0.6, RiskHigh, "HIGH"},
		{1, RiskHigh, "HIGH"},
		{Missing, RiskLow, "LOW"},
	} {
		got := thresholds.Risk(c.probability)
		if got != c.risk || got.String() != c.name {
			t.Errorf("risk of %v is %v, want %v", c.probability, got, c.name)
		}
	}
	if got := (Thresholds{Medium: 0.5, High: 0.5}).Risk(0.5); got != RiskHigh {
		t.Errorf("risk at equal thresholds is %v, want HIGH", got)
	}
}
