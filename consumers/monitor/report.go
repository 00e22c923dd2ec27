package monitor

import (
	"time"

	"github.com/churnstream/churnstream/internal/quality"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
)

// Report returns what the monitor knows now, or a moment ago; nothing but the
// champion until the topics have been read.
func (m *Monitor) Report() *quality.Report {
	report := &quality.Report{At: m.now().UTC(), Window: m.cfg.Window}
	if !m.caughtUp.Load() {
		if champion := m.cfg.Models.Champion(); champion != nil {
			report.Champion = champion.Version
		}
		return report
	}
	r := m.computer.result()
	report.CaughtUp, report.At, report.Examples = true, r.at.UTC(), r.total.examples
	if r.champion != nil {
		report.Champion = r.champion.Version
	}
	report.Versions = m.reportVersions(r)
	for _, s := range r.course {
		last := s.rows[len(s.rows)-1]
		report.Course = append(report.Course, quality.Slice{
			From: moment(s.rows[0].at), To: moment(last.at), Rows: int64(len(s.rows)), Version: last.ModelVersion,
			LogLoss: s.logLoss, BaseLogLoss: s.baseLoss,
		})
	}
	for i := range r.segments {
		s := &r.segments[i]
		report.Segments = append(report.Segments, quality.Segment{
			Feature: m.spec.Feature(s.feature).Name, Level: s.Level, Rows: int64(len(s.Rows)), ChurnShare: s.share,
			LogLoss: quality.Number(s.figures.LogLoss), LogLossSkill: quality.Number(s.figures.LogLossSkill),
			ROCAUC: quality.Number(s.figures.ROCAUC), CalibrationError: quality.Number(s.figures.CalibrationError),
		})
	}
	report.Drift = m.reportDrift(r)
	if a := r.loss; a != nil && a.newest.Examples() > 0 && a.reference.Examples() > 0 {
		loss := &quality.Loss{Rows: a.newest.Examples(), Reference: a.reference.Examples(), Change: a.change}
		for i := range a.features {
			loss.Features = append(loss.Features, quality.FeatureLoss{Feature: m.spec.Feature(i).Name, Value: a.features[i], Change: a.changes[i]})
		}
		report.Loss = loss
	}
	return report
}

// reportDrift returns nil without a champion that says what it was trained on.
func (m *Monitor) reportDrift(r *result) *quality.Drift {
	if r.champion == nil || len(r.champion.Baseline) == 0 {
		return nil
	}
	measure := func(c drift.Change) quality.Measure {
		return quality.Measure{Value: quality.Number(c.Value), Threshold: quality.Number(c.Threshold)}
	}
	d := &quality.Drift{Scores: int64(len(r.customers.rows.rows)),
		Score: quality.Measure{Value: quality.Number(scoring.Missing), Threshold: quality.Number(scoring.Missing)}}
	for i, change := range r.drift.features {
		d.Features = append(d.Features, quality.FeatureDrift{
			Feature: m.spec.Feature(i).Name, Values: measure(change), Reason: measure(r.drift.reasons[i]),
		})
	}
	for _, s := range r.drift.scores {
		if s.version == r.champion.Version {
			d.Score = measure(s.Change)
		}
	}
	return d
}

// reportVersions returns the versions that have examples or a holdout, newest
// first.
func (m *Monitor) reportVersions(r *result) []quality.Version {
	var all []quality.Version
	challenger := newestChallenger(r.models)
	for i, v := range r.models {
		f := r.of(v.Version)
		if i >= maxVersions && v != r.champion || f == nil && v != r.champion && v != challenger {
			continue
		}
		o := quality.Version{Version: v.Version, Horizon: float64(v.Horizon) / 1000, Holdout: quality.FiguresOf(&v.Metrics), HoldoutRows: v.Metrics.Rows,
			Measured: quality.Figures{}, Expected: quality.Figures{}}
		if f != nil {
			o.Examples, o.Rows, o.Churners = f.present, f.metrics.Rows, f.metrics.Churners
			o.OtherHorizon = f.others()
			if rows := f.measured; len(rows) > 0 {
				o.From, o.To = moment(rows[0].at), moment(rows[len(rows)-1].at)
			}
			o.Measured = quality.FiguresOf(&f.metrics)
			for _, b := range f.calibration {
				if b.Rows > 0 {
					o.Calibration = append(o.Calibration, quality.Bin{Rows: b.Rows, Predicted: b.Predicted, Observed: b.Observed})
				}
			}
		}
		if f != nil && o.Rows > 0 {
			for _, d := range f.deciles {
				o.Gains = append(o.Gains, quality.Decile{Gain: quality.Number(d.Gain), Lift: quality.Number(d.Lift)})
			}
			for i := range f.ages {
				if n := f.ages[i].rows; n > 0 {
					o.Ages = append(o.Ages, quality.Age{Most: ages[i].name, Rows: n, LogLoss: f.ages[i].logLoss})
				}
			}
		}
		if v == r.champion && r.judged != nil {
			o.Current = &quality.Sample{Rows: r.judged.metrics.Rows, Churners: r.judged.metrics.Churners, Figures: quality.FiguresOf(&r.judged.metrics)}
			if rows := r.judged.rows; len(rows) > 0 {
				o.Current.From, o.Current.To = moment(rows[0].at), moment(rows[len(rows)-1].at)
			}
		}
		for i := range r.expected {
			if e := &r.expected[i]; e.version == v.Version {
				o.ExpectedRows = e.Rows
				o.Expected = quality.EstimateOf(&e.Estimate)
			}
		}
		if s := r.shadow; s != nil && s.challenger == v && s.Rows > 0 {
			o.Shadow = &quality.Shadow{
				Rows: s.Rows, Challenger: s.Comparison.Challenger, Champion: s.Comparison.Champion,
				Difference: quality.Interval{Value: quality.Number(s.Difference), Lower: quality.Number(s.Lower), Upper: quality.Number(s.Upper)},
			}
		}
		all = append(all, o)
	}
	return all
}

func moment(milliseconds int64) time.Time { return time.UnixMilli(milliseconds).UTC() }
