package schemas

import (
	"bytes"
	"context"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// Positions of the fields in our schemas. A test holds them against the files.
const (
	eventEventID = iota
	eventCustomerID
	eventOccurredAt
	eventChanges
	eventIncrements
	eventSource
)

const (
	scoreCustomerID = iota
	scoreEventID
	scoreOccurredAt
	scoreScoredAt
	scoreModelVersion
	scoreProbability
	scorePrevious
	scoreRisk
	scoreExpected
	scoreExplanations
	scoreMissing
	scoreAttributes
	scoreAges
	scoreRecentEvents
	scoreSourcePartition
	scoreSourceOffset
	scoreBestChange
	scoreAsOf
	scoreTrigger
)

const (
	explanationFeature = iota
	explanationValue
	explanationLIME
	explanationSHAP
)

const (
	changeFeature = iota
	changeValue
	changeProbability
)

const (
	outcomeCustomerID = iota
	outcomeChurned
	outcomeObservedAt
	outcomeAttributes
	outcomeSource
)

const (
	modelVersion = iota
	modelCreatedAt
	modelStage
	modelReason
	modelPayload
	modelSHA256
	modelMetrics
	modelChampionMetrics
	modelTrainingStart
	modelTrainingEnd
	modelTrainingRows
	modelLabelsSeen
	modelFingerprint
	modelMediumThreshold
	modelHighThreshold
	modelBaseline
)

const (
	metricsRows = iota
	metricsAccuracy
	metricsPrecision
	metricsRecall
	metricsF1
	metricsROCAUC
	metricsLogLoss
	metricsBrier
	metricsCalibrationError
	metricsTopDecileLift
)

const (
	baselineName = iota
	baselineBins
	baselineFrequencies
)

const (
	deadLetterReason = iota
	deadLetterDetail
	deadLetterTopic
	deadLetterPartition
	deadLetterOffset
	deadLetterTimestamp
	deadLetterKey
	deadLetterValue
	deadLetterHeaders
	deadLetterFailedAt
	deadLetterFailedBy
)

const (
	headerKey = iota
	headerValue
)

// DecodeEvent decodes a record's value into e, reusing its vectors. The byte
// slices of e point into value.
//
// Errors that lie in the bytes are *PoisonError; any other is passing (the
// registry, the context). After an error the contents of e are not specified.
//
// Strings are taken as they come, be they valid UTF-8 or not.
func (c *Codec) DecodeEvent(ctx context.Context, value []byte, e *CustomerEvent) error {
	datum, root, err := c.open(ctx, eventMessage, value)
	if err != nil {
		return err
	}
	in := input{buf: datum}
	e.EventID, e.CustomerID, e.Source, e.OccurredAt = nil, nil, nil, 0
	e.Changes = clearVector(e.Changes, c.set.spec.Len())
	e.Increments = clearVector(e.Increments, c.set.spec.Len())
	for i := range root.fields {
		f := &root.fields[i]
		n := f.node
		switch f.position {
		case eventEventID:
			e.EventID = in.id(n)
		case eventCustomerID:
			e.CustomerID = in.id(n)
		case eventOccurredAt:
			e.OccurredAt = in.integer(n)
		case eventChanges:
			c.attributes(&in, n, e.Changes)
		case eventIncrements:
			c.increments(&in, n, e.Increments)
		case eventSource:
			e.Source = in.id(n)
		default:
			in.skip(n.writer, 0)
		}
		if in.err != nil {
			return in.failed(root, i)
		}
	}
	return in.end(e.CustomerID)
}

// DecodeScore decodes a record's value into s, reusing its slices. The byte
// slices of s point into value. Features that the Set does not have are left
// out. Errors are as those of DecodeEvent.
func (c *Codec) DecodeScore(ctx context.Context, value []byte, s *ChurnScore) error {
	datum, root, err := c.open(ctx, scoreMessage, value)
	if err != nil {
		return err
	}
	in := input{buf: datum}
	*s = ChurnScore{
		Previous:      scoring.Missing,
		Explanations:  s.Explanations[:0],
		Missing:       s.Missing[:0],
		Attributes:    clearVector(s.Attributes, c.set.spec.Len()),
		AttributeAges: s.AttributeAges[:0],
		RecentEvents:  s.RecentEvents[:0],
	}
	for i := range root.fields {
		f := &root.fields[i]
		n := f.node
		switch f.position {
		case scoreCustomerID:
			s.CustomerID = in.id(n)
		case scoreEventID:
			s.EventID = in.id(n)
		case scoreOccurredAt:
			s.OccurredAt = in.integer(n)
		case scoreScoredAt:
			s.ScoredAt = in.integer(n)
		case scoreModelVersion:
			s.ModelVersion = in.integer(n)
		case scoreProbability:
			s.Probability, _ = in.number(n)
		case scorePrevious:
			s.Previous = in.optional(n)
		case scoreRisk:
			s.Risk = Risk(in.symbol(n))
		case scoreExpected:
			s.ExpectedProbability, _ = in.number(n)
		case scoreExplanations:
			c.explanations(&in, n, s)
		case scoreMissing:
			c.missing(&in, n, s)
		case scoreAttributes:
			c.attributes(&in, n, s.Attributes)
		case scoreAges:
			s.AttributeAges = in.integers(n, s.AttributeAges)
		case scoreRecentEvents:
			s.RecentEvents = in.integers(n, s.RecentEvents)
		case scoreSourcePartition:
			s.SourcePartition = int32(in.integer(n))
		case scoreSourceOffset:
			s.SourceOffset = in.integer(n)
		case scoreBestChange:
			c.bestChange(&in, n, s)
		case scoreAsOf:
			s.AsOf = in.integer(n)
		case scoreTrigger:
			s.Trigger = Trigger(in.symbol(n))
		default:
			in.skip(n.writer, 0)
		}
		if in.err != nil {
			return in.failed(root, i)
		}
	}
	if s.AsOf == 0 {
		s.AsOf = s.OccurredAt
	}
	return in.end(s.CustomerID)
}

// DecodeOutcome decodes a record's value into o, of which it shares nothing.
// Errors are as those of DecodeEvent.
func (c *Codec) DecodeOutcome(ctx context.Context, value []byte, o *ChurnOutcome) error {
	datum, root, err := c.open(ctx, outcomeMessage, value)
	if err != nil {
		return err
	}
	in := input{buf: datum}
	*o = ChurnOutcome{}
	var id []byte
	for i := range root.fields {
		f := &root.fields[i]
		n := f.node
		switch f.position {
		case outcomeCustomerID:
			id = in.id(n)
			o.CustomerID = string(id)
		case outcomeChurned:
			o.Churned = in.truth(n)
		case outcomeObservedAt:
			o.ObservedAt = in.integer(n)
		case outcomeAttributes:
			if n = in.resolved(n); n.kind != kindNull {
				o.Attributes = scoring.NewVector(c.set.spec.Len())
				c.attributes(&in, n, o.Attributes)
			}
		case outcomeSource:
			o.Source = string(in.id(n))
		default:
			in.skip(n.writer, 0)
		}
		if in.err != nil {
			return in.failed(root, i)
		}
	}
	return in.end(id)
}

// DecodeModel decodes a record's value into m, of which it shares nothing.
// Errors are as those of DecodeEvent.
func (c *Codec) DecodeModel(ctx context.Context, value []byte, m *ModelVersion) error {
	datum, root, err := c.open(ctx, modelMessage, value)
	if err != nil {
		return err
	}
	in := input{buf: datum}
	*m = ModelVersion{}
	for i := range root.fields {
		f := &root.fields[i]
		n := f.node
		switch f.position {
		case modelVersion:
			m.Version = in.integer(n)
		case modelCreatedAt:
			m.CreatedAt = in.integer(n)
		case modelStage:
			m.Stage = Stage(in.symbol(n))
		case modelReason:
			m.Reason = in.string(n)
		case modelPayload:
			m.Payload = in.string(n)
		case modelSHA256:
			m.SHA256 = in.string(n)
		case modelMetrics:
			in.metrics(n, &m.Metrics)
		case modelChampionMetrics:
			if n = in.resolved(n); n.kind != kindNull {
				m.ChampionMetrics = &HoldoutMetrics{}
				in.metrics(n, m.ChampionMetrics)
			}
		case modelTrainingStart:
			m.TrainingStart = in.integer(n)
		case modelTrainingEnd:
			m.TrainingEnd = in.integer(n)
		case modelTrainingRows:
			m.TrainingRows = in.integer(n)
		case modelLabelsSeen:
			m.LabelsSeen = in.integer(n)
		case modelFingerprint:
			m.FeatureFingerprint = in.string(n)
		case modelMediumThreshold:
			m.MediumThreshold, _ = in.number(n)
		case modelHighThreshold:
			m.HighThreshold, _ = in.number(n)
		case modelBaseline:
			in.baseline(n, m)
		default:
			in.skip(n.writer, 0)
		}
		if in.err != nil {
			return in.failed(root, i)
		}
	}
	return in.finish()
}

// DecodeDeadLetter decodes a record's value into d, of which it shares
// nothing. Errors are as those of DecodeEvent.
func (c *Codec) DecodeDeadLetter(ctx context.Context, value []byte, d *DeadLetter) error {
	datum, root, err := c.open(ctx, deadLetterMessage, value)
	if err != nil {
		return err
	}
	in := input{buf: datum}
	*d = DeadLetter{}
	for i := range root.fields {
		f := &root.fields[i]
		n := f.node
		switch f.position {
		case deadLetterReason:
			d.Reason = Reason(in.string(n))
		case deadLetterDetail:
			d.Detail = in.string(n)
		case deadLetterTopic:
			d.Topic = in.string(n)
		case deadLetterPartition:
			d.Partition = int32(in.integer(n))
		case deadLetterOffset:
			d.Offset = in.integer(n)
		case deadLetterTimestamp:
			d.Timestamp = in.integer(n)
		case deadLetterKey:
			d.Key = in.copied(n)
		case deadLetterValue:
			d.Value = in.copied(n)
		case deadLetterHeaders:
			in.headers(n, d)
		case deadLetterFailedAt:
			d.FailedAt = in.integer(n)
		case deadLetterFailedBy:
			d.FailedBy = in.string(n)
		default:
			in.skip(n.writer, 0)
		}
		if in.err != nil {
			return in.failed(root, i)
		}
	}
	return in.finish()
}

// attributes reads a record of attributes into x, whose values are missing.
func (c *Codec) attributes(in *input, n *node, x scoring.Vector) {
	if n = in.record(n); n == nil {
		return
	}
	for i := range n.fields {
		f := &n.fields[i]
		switch {
		case f.position < 0:
			in.skip(f.node.writer, 0)
		case c.set.columns[f.position].categorical:
			c.level(in, f.node, f.position, &x[f.position])
		default:
			if v, ok := in.number(f.node); ok {
				x[f.position] = v
			}
		}
		if in.err != nil {
			in.at(n, i)
			return
		}
	}
}

// level reads a level of a categorical feature into x, unless it is null.
func (c *Codec) level(in *input, n *node, feature int, x *float64) {
	n = in.resolved(n)
	var level []byte
	var digits [20]byte
	switch n.kind {
	case kindNull:
		return
	case kindString, kindBytes:
		level = in.bytes()
	case kindEnum:
		*x = float64(in.symbol(n)) // the vocabulary numbers symbols in their order
		return
	case kindLong, kindInt:
		level = strconv.AppendInt(digits[:0], in.integer(n), 10)
	default:
		in.unreadable(n)
	}
	if in.err != nil {
		return
	}
	if len(level) > scoring.MaxLevelBytes {
		in.fail(ReasonTooLarge, "a level of %d bytes, at most %d are allowed", len(level), scoring.MaxLevelBytes)
		return
	}
	code, err := c.set.vocabulary.Code(feature, level)
	if err != nil {
		in.fail(ReasonInvalidValue, "more than %d different levels", scoring.MaxLevels)
		return
	}
	*x = code
}

// increments reads a record of increments into x, whose values are missing.
func (c *Codec) increments(in *input, n *node, x scoring.Vector) {
	if n = in.record(n); n == nil {
		return
	}
	for i := range n.fields {
		f := &n.fields[i]
		if f.position < 0 {
			in.skip(f.node.writer, 0)
		} else if v, ok := in.number(f.node); ok {
			x[c.set.numeric[f.position]] = v
		}
		if in.err != nil {
			in.at(n, i)
			return
		}
	}
}

func (c *Codec) explanations(in *input, n *node, s *ChurnScore) {
	items := in.array(n)
	for count := in.block(); count != 0; count = in.block() {
		for ; count > 0 && in.err == nil; count-- {
			item := in.record(items)
			if item == nil {
				return
			}
			e := Explanation{LIME: scoring.Missing, SHAP: scoring.Missing}
			known := false
			for i := range item.fields {
				f := &item.fields[i]
				switch f.position {
				case explanationFeature:
					name, _ := in.text(f.node)
					e.Feature, known = c.featureIndex[string(name)]
				case explanationLIME:
					e.LIME = in.optional(f.node)
				case explanationSHAP:
					e.SHAP = in.optional(f.node)
				case explanationValue:
					in.text(f.node)
				default:
					in.skip(f.node.writer, 0)
				}
				if in.err != nil {
					in.at(item, i)
					return
				}
			}
			if known {
				s.Explanations = append(s.Explanations, e)
			}
		}
	}
}

func (c *Codec) missing(in *input, n *node, s *ChurnScore) {
	items := in.array(n)
	for count := in.block(); count != 0; count = in.block() {
		for ; count > 0 && in.err == nil; count-- {
			name, _ := in.text(items)
			if i, known := c.featureIndex[string(name)]; known {
				s.Missing = append(s.Missing, i)
			}
		}
	}
}

func (c *Codec) bestChange(in *input, n *node, s *ChurnScore) {
	if n = in.resolved(n); n.kind == kindNull {
		return
	}
	if n = in.record(n); n == nil {
		return
	}
	var name, text []byte
	for i := range n.fields {
		f := &n.fields[i]
		switch f.position {
		case changeFeature:
			name, _ = in.text(f.node)
		case changeValue:
			text, _ = in.text(f.node)
		case changeProbability:
			s.BestChange.Probability, _ = in.number(f.node)
		default:
			in.skip(f.node.writer, 0)
		}
		if in.err != nil {
			in.at(n, i)
			return
		}
	}
	feature, known := c.featureIndex[string(name)]
	if !known {
		s.BestChange = BestChange{}
		return
	}
	value, reason, problem := c.set.parseBytes(feature, text)
	if problem != "" {
		in.fail(reason, "value %s", problem)
		return
	}
	s.HasBestChange = true
	s.BestChange.Feature, s.BestChange.Value = feature, value
}

// parseBytes is parseText for bytes, without an allocation for numbers and
// known levels.
func (s *Set) parseBytes(feature int, text []byte) (x float64, reason Reason, problem string) {
	switch c := &s.columns[feature]; {
	case !c.categorical:
		x, problem = c.parseNumber(string(text))
		return x, ReasonInvalidValue, problem
	case c.typ.kind != kindString:
		x, problem = s.parseLevel(feature, string(text), learn)
		return x, ReasonInvalidValue, problem
	}
	if len(text) > scoring.MaxLevelBytes {
		return 0, ReasonTooLarge, "is too long"
	}
	x, err := s.vocabulary.Code(feature, text)
	if err != nil {
		return 0, ReasonInvalidValue, "would be one level too many"
	}
	return x, "", ""
}

func (in *input) metrics(n *node, m *HoldoutMetrics) {
	if n = in.record(n); n == nil {
		return
	}
	for i := range n.fields {
		f := &n.fields[i]
		var into *float64
		switch f.position {
		case metricsRows:
			m.Rows = in.integer(f.node)
		case metricsAccuracy:
			into = &m.Accuracy
		case metricsPrecision:
			into = &m.Precision
		case metricsRecall:
			into = &m.Recall
		case metricsF1:
			into = &m.F1
		case metricsROCAUC:
			into = &m.ROCAUC
		case metricsLogLoss:
			into = &m.LogLoss
		case metricsBrier:
			into = &m.Brier
		case metricsCalibrationError:
			into = &m.CalibrationError
		case metricsTopDecileLift:
			into = &m.TopDecileLift
		default:
			in.skip(f.node.writer, 0)
		}
		if into != nil {
			*into, _ = in.number(f.node)
		}
		if in.err != nil {
			in.at(n, i)
			return
		}
	}
}

func (in *input) baseline(n *node, m *ModelVersion) {
	items := in.array(n)
	for count := in.block(); count != 0; count = in.block() {
		for ; count > 0 && in.err == nil; count-- {
			item := in.record(items)
			if item == nil {
				return
			}
			var b BaselineDistribution
			for i := range item.fields {
				f := &item.fields[i]
				switch f.position {
				case baselineName:
					b.Name = in.string(f.node)
				case baselineBins:
					bins := in.array(f.node)
					for count := in.block(); count != 0; count = in.block() {
						for ; count > 0 && in.err == nil; count-- {
							b.Bins = append(b.Bins, in.string(bins))
						}
					}
				case baselineFrequencies:
					frequencies := in.array(f.node)
					for count := in.block(); count != 0; count = in.block() {
						for ; count > 0 && in.err == nil; count-- {
							x, _ := in.number(frequencies)
							b.Frequencies = append(b.Frequencies, x)
						}
					}
				default:
					in.skip(f.node.writer, 0)
				}
				if in.err != nil {
					in.at(item, i)
					return
				}
			}
			m.Baseline = append(m.Baseline, b)
		}
	}
}

func (in *input) headers(n *node, d *DeadLetter) {
	items := in.array(n)
	for count := in.block(); count != 0; count = in.block() {
		for ; count > 0 && in.err == nil; count-- {
			item := in.record(items)
			if item == nil {
				return
			}
			var h Header
			for i := range item.fields {
				f := &item.fields[i]
				switch f.position {
				case headerKey:
					h.Key = in.string(f.node)
				case headerValue:
					h.Value = in.copied(f.node)
				default:
					in.skip(f.node.writer, 0)
				}
				if in.err != nil {
					in.at(item, i)
					return
				}
			}
			d.Headers = append(d.Headers, h)
		}
	}
}

// id reads a string of at most MaxIDBytes.
func (in *input) id(n *node) []byte {
	b, _ := in.text(n)
	if len(b) > MaxIDBytes {
		in.fail(ReasonTooLarge, "%d bytes, at most %d are allowed", len(b), MaxIDBytes)
		return nil
	}
	return b
}

func (in *input) string(n *node) string {
	b, _ := in.text(n)
	return string(b)
}

// copied reads bytes or null into memory of their own.
func (in *input) copied(n *node) []byte {
	b, _ := in.text(n)
	return bytes.Clone(b)
}

// optional reads a number, or null as Missing.
func (in *input) optional(n *node) float64 {
	if x, ok := in.number(n); ok {
		return x
	}
	return scoring.Missing
}

func (in *input) integers(n *node, dst []int64) []int64 {
	items := in.array(n)
	for count := in.block(); count != 0; count = in.block() {
		for ; count > 0 && in.err == nil; count-- {
			dst = append(dst, in.integer(items))
		}
	}
	return dst
}

// record returns the node of the record that follows, nil after a failure.
func (in *input) record(n *node) *node {
	n = in.resolved(n)
	if n.kind != kindRecord {
		in.unreadable(n)
	}
	if in.err != nil {
		return nil
	}
	return n
}

// array returns the node of the items of the array that follows, nil after a
// failure, when there is no block to read either.
func (in *input) array(n *node) *node {
	n = in.resolved(n)
	if n.kind != kindArray {
		in.unreadable(n)
		return nil
	}
	return n.items
}

// at puts the name of field i of a record before what went wrong in it.
func (in *input) at(record *node, i int) { in.err.in(record.names[i]) }

func (in *input) failed(root *node, i int) error {
	in.at(root, i)
	return in.err
}

// finish checks that nothing is left.
func (in *input) finish() error {
	if len(in.buf) > 0 {
		in.fail(ReasonUndecodable, "%d bytes are left over", len(in.buf))
	}
	if in.err != nil {
		return in.err
	}
	return nil
}

// end is finish for messages about a customer.
func (in *input) end(customerID []byte) error {
	if err := in.finish(); err != nil {
		return err
	}
	if len(customerID) == 0 {
		return poison(ReasonNoCustomerID, "customer_id is empty")
	}
	return nil
}

// clearVector returns x with n values, all missing.
func clearVector(x scoring.Vector, n int) scoring.Vector {
	if len(x) != n {
		return scoring.NewVector(n)
	}
	x.Clear()
	return x
}
