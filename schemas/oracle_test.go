package schemas

import (
	"bytes"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// oracle turns what goavro decoded into our messages, by field names, and
// collects the reasons for which we may refuse it.
type oracle struct {
	set     *Set
	reasons map[Reason]bool
	ours    bool // what is read was written by us, and is not refused
	// rewritten says that something is written otherwise than it was read.
	rewritten bool
}

func newOracle(set *Set) *oracle { return &oracle{set: set, reasons: map[Reason]bool{}} }

type native = map[string]any

// branch takes the wrapping off a union's value; ok is false for null.
func branch(v any) (any, bool) {
	m, ok := v.(native)
	if !ok {
		return nil, false
	}
	for _, v := range m {
		return v, true
	}
	return nil, false
}

func (o *oracle) text(v any) []byte {
	switch v := v.(type) {
	case string:
		return []byte(v)
	case []byte:
		return append([]byte{}, v...)
	}
	return nil
}

// plain is text that is written as it is if it is UTF-8.
func (o *oracle) plain(v any) string {
	text := string(o.text(v))
	o.rewritten = o.rewritten || !utf8.ValidString(text)
	return text
}

// moment is a time that is written as the nearest that others can read.
func (o *oracle) moment(v any) int64 {
	ms := o.integer(v)
	o.rewritten = o.rewritten || ms != o.nearest(v)
	return ms
}

// nearest is the time nearest to v in the years 1 to 9999.
func (o *oracle) nearest(v any) int64 {
	first, last := time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)
	return min(max(o.integer(v), first.UnixMilli()), last.UnixMilli()-1)
}

func (o *oracle) time(v any) int64 {
	if o.integer(v) != o.nearest(v) && !o.ours {
		o.reasons[ReasonInvalidValue] = true
	}
	return o.nearest(v)
}

func (o *oracle) id(v any) []byte {
	b := o.text(v)
	if len(b) > MaxIDBytes {
		o.reasons[ReasonTooLarge] = true
	}
	if !utf8.Valid(b) && !o.ours {
		o.reasons[ReasonInvalidValue] = true
	}
	return b
}

func (o *oracle) customer(v any) []byte {
	b := o.id(v)
	if len(b) == 0 {
		o.reasons[ReasonNoCustomerID] = true
	}
	return b
}

func (o *oracle) number(v any) float64 {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			o.reasons[ReasonInvalidValue] = true
		}
		return v
	case float32:
		return o.number(float64(v))
	case int64:
		return float64(v)
	case int32:
		return float64(v)
	}
	return 0
}

func (o *oracle) optional(v any) float64 {
	if v, ok := branch(v); ok {
		return o.number(v)
	}
	return scoring.Missing
}

func (o *oracle) integer(v any) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case int32:
		return int64(v)
	}
	return 0
}

func (o *oracle) integers(v any) (all []int64) {
	items, _ := v.([]any)
	for _, v := range items {
		all = append(all, o.integer(v))
	}
	return all
}

// ages are bounded by the years 1 to 9999.
func (o *oracle) ages(v any) []int64 {
	all := o.integers(v)
	most := o.nearest(int64(math.MaxInt64)) - o.nearest(int64(math.MinInt64))
	for i, age := range all {
		all[i] = min(max(age, -most), most)
	}
	return all
}

func (o *oracle) symbol(v any, symbols ...string) int {
	s, ok := v.(string)
	for i := range symbols {
		if symbols[i] == s {
			return i
		}
	}
	if ok {
		o.reasons[ReasonUndecodable] = true
	}
	return 0
}

func (o *oracle) vector(v any) scoring.Vector {
	fields, _ := v.(native)
	x := scoring.NewVector(o.set.Spec().Len())
	for i := range x {
		v, ok := branch(fields[o.set.Spec().Feature(i).Name])
		if !ok {
			continue
		}
		if o.set.Spec().Feature(i).Kind == scoring.Numeric {
			if x[i] = o.number(v); x[i] > 1e100 || x[i] < -1e100 {
				x[i] = scoring.Missing
				if !o.ours {
					o.reasons[ReasonInvalidValue] = true
				}
			}
			continue
		}
		level := bytes.TrimSpace(o.text(v))
		if len(level) == 0 {
			continue
		}
		if !utf8.Valid(level) && o.ours {
			level = bytes.ToValidUTF8(level, []byte("\uFFFD"))
		} else if !utf8.Valid(level) {
			o.reasons[ReasonInvalidValue] = true
			continue
		}
		if len(level) > scoring.MaxLevelBytes {
			o.reasons[ReasonTooLarge] = true
			continue
		}
		x[i], _ = o.set.Vocabulary().Code(i, level)
	}
	return x
}

func (o *oracle) event(m native) *CustomerEvent {
	return &CustomerEvent{
		EventID:    o.id(m["event_id"]),
		CustomerID: o.customer(m["customer_id"]),
		OccurredAt: o.time(m["occurred_at"]),
		Changes:    o.vector(m["changes"]),
		Increments: o.vector(m["increments"]),
		Source:     o.id(m["source"]),
	}
}

func (o *oracle) score(m native) *ChurnScore {
	o.ours = true
	s := &ChurnScore{
		CustomerID:          o.customer(m["customer_id"]),
		EventID:             o.id(m["event_id"]),
		OccurredAt:          o.time(m["occurred_at"]),
		ScoredAt:            o.time(m["scored_at"]),
		ModelVersion:        o.integer(m["model_version"]),
		Probability:         o.number(m["churn_probability"]),
		Previous:            o.optional(m["previous_probability"]),
		Risk:                Risk(o.symbol(m["risk"], "LOW", "MEDIUM", "HIGH")),
		ExpectedProbability: o.number(m["expected_probability"]),
		Attributes:          o.vector(m["attributes"]),
		AttributeAges:       o.ages(m["attribute_ages"]),
		RecentEvents:        o.integers(m["recent_events"]),
		SourcePartition:     int32(o.integer(m["source_partition"])),
		SourceOffset:        o.integer(m["source_offset"]),
		AsOf:                o.time(m["as_of"]),
		Trigger:             Trigger(o.symbol(m["trigger"], "EVENT", "MODEL", "TIME", "REPAIR")),
	}
	if s.AsOf == 0 {
		s.AsOf = s.OccurredAt
	}
	explanations, _ := m["explanations"].([]any)
	for _, v := range explanations {
		m := v.(native)
		e := Explanation{LIME: o.optional(m["lime"]), SHAP: o.optional(m["shap"])}
		i, known := o.set.Spec().Index(string(o.text(m["feature"])))
		if e.Feature = i; known {
			s.Explanations = append(s.Explanations, e)
		}
	}
	missing, _ := m["missing"].([]any)
	for _, v := range missing {
		if i, known := o.set.Spec().Index(string(o.text(v))); known {
			s.Missing = append(s.Missing, i)
		}
	}
	if v, ok := branch(m["best_change"]); ok {
		m := v.(native)
		probability := o.number(m["churn_probability"])
		text := bytes.TrimSpace(o.text(m["value"]))
		if i, known := o.set.Spec().Index(string(o.text(m["feature"]))); known && len(text) > 0 {
			s.HasBestChange = true
			s.BestChange = BestChange{Feature: i, Probability: probability}
			if o.set.Spec().Feature(i).Kind == scoring.Numeric {
				x, err := strconv.ParseFloat(string(text), 64)
				if s.BestChange.Value = x; err != nil || math.IsInf(x, 0) || math.IsNaN(x) {
					o.reasons[ReasonInvalidValue] = true
				}
			} else if len(text) > scoring.MaxLevelBytes {
				o.reasons[ReasonTooLarge] = true
			} else {
				s.BestChange.Value, _ = o.set.Vocabulary().Code(i, text)
			}
		}
	}
	return s
}

func (o *oracle) outcome(m native) *ChurnOutcome {
	churned, _ := m["churned"].(bool)
	out := &ChurnOutcome{
		CustomerID: string(o.customer(m["customer_id"])),
		Churned:    churned,
		ObservedAt: o.time(m["observed_at"]),
		Source:     string(o.id(m["source"])),
	}
	if v, ok := branch(m["attributes"]); ok {
		out.Attributes = o.vector(v)
	}
	return out
}

func (o *oracle) examples(m native) *CustomerExamples {
	out := &CustomerExamples{CustomerID: o.customer(m["customer_id"])}
	items, _ := m["examples"].([]any)
	for _, v := range items {
		m := v.(native)
		churned, _ := m["churned"].(bool)
		e := LabelledExample{
			AsOf: o.time(m["as_of"]), ObservedAt: o.time(m["observed_at"]), LabelledAt: o.time(m["labelled_at"]),
			Horizon: o.integer(m["horizon"]), Churned: churned, Corrections: o.integer(m["corrections"]),
			Probability:     scoring.Missing,
			SourcePartition: int32(o.integer(m["source_partition"])), SourceOffset: o.integer(m["source_offset"]),
		}
		if v, ok := branch(m["model_version"]); ok {
			e.ModelVersion = o.integer(v)
		}
		if v, ok := branch(m["churn_probability"]); ok {
			e.Probability = o.number(v)
		}
		e.Attributes = o.vector(m["attributes"])
		out.Examples = append(out.Examples, e)
	}
	return out
}

func (o *oracle) metrics(m native) HoldoutMetrics {
	h := HoldoutMetrics{Rows: o.integer(m["rows"]), Churners: o.integer(m["churners"]), Figures: o.figures(m),
		Lower: evaluation.Undefined(), Upper: evaluation.Undefined()}
	if lower, ok := branch(m["lower"]); ok {
		h.Lower = o.figures(lower.(native))
	}
	if upper, ok := branch(m["upper"]); ok {
		h.Upper = o.figures(upper.(native))
	}
	return h
}

func (o *oracle) figures(m native) (f evaluation.Figures) {
	for _, figure := range evaluation.All {
		*figure.Of(&f) = o.optional(m[figure.Name])
	}
	return f
}

func (o *oracle) model(m native) *ModelVersion {
	v := &ModelVersion{
		Version: o.integer(m["version"]), CreatedAt: o.nearest(m["created_at"]),
		Stage:  Stage(o.symbol(m["stage"], "CHALLENGER", "CHAMPION", "RETIRED")),
		Reason: o.plain(m["reason"]), Payload: o.plain(m["payload"]), SHA256: o.plain(m["sha256"]),
		Metrics:       o.metrics(m["metrics"].(native)),
		TrainingStart: o.nearest(m["training_start"]), TrainingEnd: o.nearest(m["training_end"]),
		TrainingRows: o.integer(m["training_rows"]), LabelsSeen: o.integer(m["labels_seen"]),
		FeatureFingerprint: o.plain(m["feature_fingerprint"]),
		MediumThreshold:    o.number(m["medium_threshold"]), HighThreshold: o.number(m["high_threshold"]),
		Horizon: o.integer(m["horizon"]), LabelsUntil: o.nearest(m["labels_until"]),
	}
	if champion, ok := branch(m["champion_metrics"]); ok {
		metrics := o.metrics(champion.(native))
		v.ChampionMetrics = &metrics
	}
	baseline, _ := m["baseline"].([]any)
	for _, item := range baseline {
		m := item.(native)
		b := BaselineDistribution{Name: o.plain(m["name"])}
		for _, bin := range m["bins"].([]any) {
			b.Bins = append(b.Bins, o.plain(bin))
		}
		for _, x := range m["frequencies"].([]any) {
			b.Frequencies = append(b.Frequencies, o.number(x))
		}
		b.Rows, b.Missing, b.ReasonRows = o.integer(m["rows"]), o.integer(m["missing"]), o.integer(m["reason_rows"])
		b.ReasonMean, b.ReasonDeviation = o.number(m["reason_mean"]), o.number(m["reason_deviation"])
		v.Baseline = append(v.Baseline, b)
	}
	return v
}

func (o *oracle) progress(m native) *Progress {
	p := &Progress{
		Group: string(o.text(m["group"])), EventsTopicID: string(o.text(m["events_topic_id"])), ScoresTopicID: string(o.text(m["scores_topic_id"])),
		Partition: int32(o.integer(m["source_partition"])), Since: o.integer(m["since_offset"]), Next: o.integer(m["next_offset"]),
		LeaderEpoch: int32(o.integer(m["leader_epoch"])),
		Sums: Sums{
			Scored: o.integer(m["scored"]), Duplicates: o.integer(m["duplicates"]), DeadLetters: o.integer(m["dead_letters"]),
			Erasures: o.integer(m["erasures"]), NoRecord: o.integer(m["no_record"]), Forwarded: o.integer(m["forwarded"]),
		},
		Partitions: int32(o.integer(m["partitions"])), Moving: m["moving"].(bool),
	}
	former, _ := m["former_partitions"].([]any)
	for _, n := range former {
		p.Former = append(p.Former, o.integer(n))
	}
	origins, _ := m["origins"].([]any)
	for _, v := range origins {
		m := v.(native)
		p.Origins = append(p.Origins, Origin{Partition: int32(o.integer(m["partition"])), Next: o.integer(m["next_offset"])})
	}
	p.Customers = o.integer(m["customers"])
	writers, _ := m["writers"].([]any)
	for _, v := range writers {
		m := v.(native)
		p.Writers = append(p.Writers, Writer{ProducerID: o.integer(m["producer_id"]), Since: o.integer(m["since_offset"])})
	}
	return p
}

func (o *oracle) labelerProgress(m native) *LabelerProgress {
	p := &LabelerProgress{
		Group: string(o.text(m["group"])), ExamplesTopicID: string(o.text(m["examples_topic_id"])), OutcomesTopicID: string(o.text(m["outcomes_topic_id"])),
		Partition: int32(o.integer(m["partition"])), Partitions: int32(o.integer(m["partitions"])), Horizon: o.integer(m["horizon"]),
	}
	positions, _ := m["positions"].([]any)
	for _, v := range positions {
		m := v.(native)
		at := OutcomesPosition{Partition: int32(o.integer(m["partition"])), Next: o.integer(m["next_offset"])}
		for _, n := range m["waiting"].([]any) {
			at.Waiting = append(at.Waiting, o.integer(n))
		}
		p.Positions = append(p.Positions, at)
	}
	sums, _ := m["sums"].([]any)
	for _, v := range sums {
		m := v.(native)
		p.Sums = append(p.Sums, OutcomeSum{Result: string(o.text(m["result"])), Churned: m["churned"].(bool), Outcomes: o.integer(m["outcomes"])})
	}
	writers, _ := m["writers"].([]any)
	for _, v := range writers {
		m := v.(native)
		p.Writers = append(p.Writers, Writer{ProducerID: o.integer(m["producer_id"]), Since: o.integer(m["since_offset"])})
	}
	return p
}

func (o *oracle) deadLetter(m native) *DeadLetter {
	d := &DeadLetter{
		Reason: Reason(o.plain(m["reason"])), Detail: o.plain(m["detail"]), Topic: o.plain(m["topic"]),
		Partition: int32(o.integer(m["partition"])), Offset: o.integer(m["offset"]),
		Timestamp: o.moment(m["timestamp"]), FailedAt: o.moment(m["failed_at"]), FailedBy: o.plain(m["failed_by"]),
		OriginalBytes: o.integer(m["original_bytes"]), ValueSHA256: o.plain(m["value_sha256"]),
	}
	if v, ok := branch(m["key"]); ok {
		d.Key = o.text(v)
	}
	if v, ok := branch(m["value"]); ok {
		d.Value = o.text(v)
	}
	headers, _ := m["headers"].([]any)
	for _, v := range headers {
		m := v.(native)
		d.Headers = append(d.Headers, Header{Key: o.plain(m["key"]), Value: o.text(m["value"])})
	}
	return d
}

// numbered returns a message whose levels are all learnt by the vocabulary, as
// the oracle has them.
func numbered(set *Set, message any) any {
	learn := func(x scoring.Vector, levels scoring.Levels) scoring.Vector {
		x = slices.Clone(x)
		set.vocabulary.Learn(x, set.vocabulary, levels, math.MaxInt)
		return x
	}
	switch m := message.(type) {
	case *CustomerEvent:
		c := *m
		c.Changes, c.Levels = learn(m.Changes, m.Levels), nil
		return &c
	case *ChurnScore:
		c := *m
		c.Attributes, c.Levels = learn(m.Attributes, m.Levels), nil
		if level, ok := m.Levels.At(m.BestChange.Value); ok && set.columns[m.BestChange.Feature].categorical {
			c.BestChange.Value, _ = set.vocabulary.CodeString(m.BestChange.Feature, level)
		}
		return &c
	case *CustomerExamples:
		c := *m
		c.Examples, c.Levels = slices.Clone(m.Examples), nil
		for i := range c.Examples {
			c.Examples[i].Attributes = learn(c.Examples[i].Attributes, m.Levels)
		}
		return &c
	case *ChurnOutcome:
		c := *m
		c.Attributes, c.Levels = learn(m.Attributes, m.Levels), nil
		return &c
	}
	return message
}
