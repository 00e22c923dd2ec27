package quality

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestFallenIsWhatTheAlertsSay holds the conditions of the alerts that Fallen and
// Stands speak of against what it was written for. Who changes one of them changes Fallen too.
func TestFallenIsWhatTheAlertsSay(t *testing.T) {
	rules, err := os.ReadFile("../../deploy/prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	for alert, want := range map[string]string{
		"ChurnModelNoSkill":           fmt.Sprintf(`churn_champion_log_loss_skill <= 0 and on (model_version) churn_champion_examples >= %d`, EnoughRows),
		"ChurnModelWorseThanBaseRate": `churn_champion_figure_upper{figure="log_loss_skill"} < 0`,
		"ChurnModelAUCLow":            `churn_champion_figure_upper{figure="roc_auc"} < churn_model_holdout_figure_lower{figure="roc_auc"}`,
		"ChurnModelCalibrationOff": `churn_champion_figure_lower{figure="calibration_error"} - 2.53 * sqrt(churn_champion_brier / churn_champion_examples)` +
			` > churn_model_holdout_figure_upper{figure="calibration_error"}`,
	} {
		_, rule, found := strings.Cut(string(rules), "- alert: "+alert+"\n")
		if !found {
			t.Errorf("there is no alert %s", alert)
			continue
		}
		_, expr, _ := strings.Cut(rule, "expr:")
		expr, _, _ = strings.Cut(expr, "\n        for:")
		// Of several monitors one is taken.
		expr = regexp.MustCompile(`max by \(model_version\) \(([^()]+)\)`).ReplaceAllString(strings.Join(strings.Fields(strings.TrimLeft(expr, " |\n")), " "), "$1")
		expr = strings.NewReplacer("( churn", "churn", ") ) >", ") >").Replace(expr)
		if expr != want {
			t.Errorf("%s is\n%s\nnot\n%s", alert, expr, want)
		}
	}
}
