package scorer

import "testing"

func TestDefaults(t *testing.T) {
	cfg := Role.Config().(*Config)
	if cfg.Group != DefaultGroup {
		t.Errorf("the group is %s by default, not DefaultGroup, %s", cfg.Group, DefaultGroup)
	}
	if cfg.Reasons != 5 || cfg.Explain != ExplainLIME {
		t.Errorf("by default %d reasons by %s", cfg.Reasons, cfg.Explain)
	}
}

func TestExplainByName(t *testing.T) {
	for _, e := range []Explain{ExplainLIME, ExplainSHAP, ExplainBoth, ExplainNone} {
		var got Explain
		if err := got.UnmarshalText([]byte(e.String())); err != nil || got != e {
			t.Errorf("%s is read as %s: %v", e, got, err)
		}
	}
	if err := new(Explain).UnmarshalText([]byte("all")); err == nil {
		t.Error("explanations all are taken")
	}
}
