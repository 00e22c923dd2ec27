// Package listing prints model versions, for people and as JSON.
package listing

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/terminal"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Table prints versions as a table. champion is the one in use, nil for none: the
// others that were published as champions are retired.
func Table(out io.Writer, versions []*models.Version, champion *models.Version) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "VERSION\tSTAGE\tTRAINED\tLABEL\tROWS\tLOG LOSS\tROC AUC\tACCURACY\tREASON")
	for _, v := range versions {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", v.Version, v.StageNow(champion),
			moment(v.CreatedAt).Format(time.DateTime), schemas.Label(v.Horizon), v.TrainingRows,
			figure(v.Metrics.LogLoss), figure(v.Metrics.ROCAUC), figure(v.Metrics.Accuracy), terminal.Plain(v.Reason, 200))
	}
	return w.Flush()
}

// JSON prints a version's figures as JSON, without its model. champion is the version in
// use, nil for none.
func JSON(out io.Writer, v, champion *models.Version) error {
	var until *time.Time // versions of before examples do not say
	if v.LabelsUntil > 0 {
		until = new(time.Time)
		*until = moment(v.LabelsUntil)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Version            int64                   `json:"version"`
		Stage              string                  `json:"stage"`
		Reason             string                  `json:"reason"`
		CreatedAt          time.Time               `json:"created_at"`
		SHA256             string                  `json:"sha256"`
		FeatureFingerprint string                  `json:"feature_fingerprint"`
		Label              string                  `json:"label"`
		HorizonSeconds     float64                 `json:"horizon_seconds"`
		LabelsSeen         int64                   `json:"labels_seen"`
		LabelsUntil        *time.Time              `json:"labels_until"`
		TrainingRows       int64                   `json:"training_rows"`
		TrainingStart      time.Time               `json:"training_start"`
		TrainingEnd        time.Time               `json:"training_end"`
		Metrics            schemas.HoldoutMetrics  `json:"metrics"`
		ChampionMetrics    *schemas.HoldoutMetrics `json:"champion_metrics"`
	}{v.Version, v.StageNow(champion).String(), v.Reason, moment(v.CreatedAt), v.SHA256, v.FeatureFingerprint,
		schemas.Label(v.Horizon), float64(v.Horizon) / 1000, v.LabelsSeen, until, v.TrainingRows, moment(v.TrainingStart), moment(v.TrainingEnd), v.Metrics, v.ChampionMetrics})
}

// figure shows a figure, a dash where it is not defined.
func figure(x float64) string {
	if scoring.IsMissing(x) {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', 4, 64)
}

func moment(millis int64) time.Time { return time.UnixMilli(millis).UTC() }
