package schemas

import (
	"context"
	"strconv"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
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
	outcomeCustomerID = iota
	outcomeChurned
	outcomeObservedAt
	outcomeAttributes
	outcomeSource
)

const (
	examplesCustomerID = iota
	examplesExamples
)

const (
	exampleAsOf = iota
	exampleObservedAt
	exampleLabelledAt
	exampleHorizon
	exampleChurned
	exampleCorrections
	exampleModelVersion
	exampleProbability
	exampleSourcePartition
	exampleSourceOffset
	exampleAttributes
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
	modelHorizon
	modelLabelsUntil
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
	metricsPRAUC
	metricsLogLossSkill
	metricsChurners
	metricsLower
	metricsUpper
)

const (
	baselineName = iota
	baselineBins
	baselineFrequencies
	baselineRows
	baselineMissing
	baselineReasonRows
	baselineReasonMean
	baselineReasonDeviation
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
	deadLetterOriginalBytes
	deadLetterValueSHA256
)

const (
	headerKey = iota
	headerValue
)

const (
	progressGroup = iota
	progressEventsTopicID
	progressScoresTopicID
	progressPartition
	progressSince
	progressNext
	progressLeaderEpoch
	progressScored
	progressDuplicates
	progressDeadLetters
	progressErasures
	progressNoRecord
	progressForwarded
	progressWriters
	progressCustomers
	progressPartitions
	progressFormer
	progressMoving
	progressOrigins
)

const (
	labelerGroup = iota
	labelerExamplesTopicID
	labelerOutcomesTopicID
	labelerPartition
	labelerPartitions
	labelerPositions
	labelerSums
	labelerWriters
	labelerHorizon
)

const (
	positionPartition = iota
	positionNext
	positionWaiting
)

const (
	sumResult = iota
	sumChurned
	sumOutcomes
)

// DecodeEvent decodes a record's value into e, reusing its vectors. The byte
// slices of e point into value.
//
// Errors that lie in the bytes are *PoisonError; any other is passing (the
// registry, the context). After an error the contents of e are not specified.
//
// Ids and levels have to be valid UTF-8, and times from the year 1 to 9999:
// other consumers cannot read anything else in what is written of them. A time
// is converted if the writer's schema says that it is not in milliseconds.
// Levels are without white space around them, and nothing but white space is
// null.
func (c *Codec) DecodeEvent(ctx context.Context, value []byte, e *CustomerEvent) error {
	datum, root, err := c.open(ctx, eventMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	e.EventID, e.CustomerID, e.Source, e.OccurredAt = nil, nil, nil, 0
	e.Levels = e.Levels[:0]
	e.Changes = clearVector(e.Changes, c.set.spec.Len())
	e.Increments = clearVector(e.Increments, c.set.spec.Len())
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case eventEventID:
			e.EventID = in.id(n)
		case eventCustomerID:
			e.CustomerID = in.id(n)
		case eventOccurredAt:
			e.OccurredAt = in.time(n)
		case eventChanges:
			c.attributes(&in, n, e.Changes, &e.Levels)
		case eventIncrements:
			c.increments(&in, n, e.Increments)
		case eventSource:
			e.Source = in.id(n)
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.end(e.CustomerID)
}

// DecodeOutcome decodes a record's value into o, of which it shares nothing.
// Errors are as those of DecodeEvent.
func (c *Codec) DecodeOutcome(ctx context.Context, value []byte, o *ChurnOutcome) error {
	datum, root, err := c.open(ctx, outcomeMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	*o = ChurnOutcome{}
	var id []byte
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case outcomeCustomerID:
			id = in.id(n)
			o.CustomerID = string(id)
		case outcomeChurned:
			o.Churned = in.Bool(n)
		case outcomeObservedAt:
			o.ObservedAt = in.time(n)
		case outcomeAttributes:
			if n = in.Branch(n); n.Kind != avro.Null {
				o.Attributes = scoring.NewVector(c.set.spec.Len())
				c.attributes(&in, n, o.Attributes, &o.Levels)
			}
		case outcomeSource:
			o.Source = string(in.id(n))
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.end(id)
}

// DecodeExamples decodes a record's value into m, reusing its memory. The byte
// slices of m point into value. Errors are as those of DecodeEvent.
func (c *Codec) DecodeExamples(ctx context.Context, value []byte, m *CustomerExamples) error {
	datum, root, err := c.open(ctx, examplesMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	m.CustomerID, m.Examples, m.Levels = nil, m.Examples[:0], m.Levels[:0]
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case examplesCustomerID:
			m.CustomerID = in.id(n)
		case examplesExamples:
			items := in.Array(n)
			for count := in.Block(); count != 0; count = in.Block() {
				for ; count > 0 && in.Err() == nil; count-- {
					c.example(&in, items, m)
				}
			}
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.end(m.CustomerID)
}

// example reads one more example.
func (c *Codec) example(in *input, n *avro.Node, m *CustomerExamples) {
	if n = in.Record(n); n == nil {
		return
	}
	var x scoring.Vector
	if k := len(m.Examples); k < cap(m.Examples) {
		x = m.Examples[:k+1][k].Attributes // of an earlier record
	}
	e := LabelledExample{
		Probability: scoring.Missing, SourcePartition: -1, SourceOffset: -1,
		Attributes: clearVector(x, c.set.spec.Len()),
	}
	for i := range n.Fields {
		f := &n.Fields[i]
		switch f.Position {
		case exampleAsOf:
			e.AsOf = in.time(f.Node)
		case exampleObservedAt:
			e.ObservedAt = in.time(f.Node)
		case exampleLabelledAt:
			e.LabelledAt = in.time(f.Node)
		case exampleHorizon:
			e.Horizon = in.Integer(f.Node)
		case exampleChurned:
			e.Churned = in.Bool(f.Node)
		case exampleCorrections:
			e.Corrections = in.Integer(f.Node)
		case exampleModelVersion:
			if version := in.Branch(f.Node); version.Kind != avro.Null {
				e.ModelVersion = in.Integer(version)
			}
		case exampleProbability:
			e.Probability = in.optional(f.Node)
		case exampleSourcePartition:
			e.SourcePartition = int32(in.Integer(f.Node))
		case exampleSourceOffset:
			e.SourceOffset = in.Integer(f.Node)
		case exampleAttributes:
			c.attributes(in, f.Node, e.Attributes, &m.Levels)
		default:
			in.Skip(f.Node.Writer)
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
	m.Examples = append(m.Examples, e)
}

// DecodeModel decodes a record's value into m, of which it shares nothing.
// Errors are as those of DecodeEvent.
func (c *Codec) DecodeModel(ctx context.Context, value []byte, m *ModelVersion) error {
	datum, root, err := c.open(ctx, modelMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	*m = ModelVersion{}
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case modelVersion:
			m.Version = in.Integer(n)
		case modelCreatedAt:
			m.CreatedAt = readable(in.Integer(n))
		case modelStage:
			m.Stage = Stage(in.Symbol(n))
		case modelReason:
			m.Reason = in.string(n)
		case modelPayload:
			m.Payload = in.string(n)
		case modelSHA256:
			m.SHA256 = in.string(n)
		case modelMetrics:
			in.metrics(n, &m.Metrics)
		case modelChampionMetrics:
			if n = in.Branch(n); n.Kind != avro.Null {
				m.ChampionMetrics = &HoldoutMetrics{}
				in.metrics(n, m.ChampionMetrics)
			}
		case modelTrainingStart:
			m.TrainingStart = readable(in.Integer(n))
		case modelTrainingEnd:
			m.TrainingEnd = readable(in.Integer(n))
		case modelTrainingRows:
			m.TrainingRows = in.Integer(n)
		case modelLabelsSeen:
			m.LabelsSeen = in.Integer(n)
		case modelFingerprint:
			m.FeatureFingerprint = in.string(n)
		case modelMediumThreshold:
			m.MediumThreshold, _ = in.Number(n)
		case modelHighThreshold:
			m.HighThreshold, _ = in.Number(n)
		case modelBaseline:
			in.baseline(n, m)
		case modelHorizon:
			m.Horizon = in.Integer(n)
		case modelLabelsUntil:
			m.LabelsUntil = readable(in.Integer(n))
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
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
	in := newInput(datum)
	*d = DeadLetter{}
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case deadLetterReason:
			d.Reason = Reason(in.string(n))
		case deadLetterDetail:
			d.Detail = in.string(n)
		case deadLetterTopic:
			d.Topic = in.string(n)
		case deadLetterPartition:
			d.Partition = int32(in.Integer(n))
		case deadLetterOffset:
			d.Offset = in.Integer(n)
		case deadLetterTimestamp:
			d.Timestamp = in.Integer(n)
		case deadLetterKey:
			d.Key = in.copied(n)
		case deadLetterValue:
			d.Value = in.copied(n)
		case deadLetterHeaders:
			in.headers(n, d)
		case deadLetterFailedAt:
			d.FailedAt = in.Integer(n)
		case deadLetterFailedBy:
			d.FailedBy = in.string(n)
		case deadLetterOriginalBytes:
			d.OriginalBytes = in.Integer(n)
		case deadLetterValueSHA256:
			d.ValueSHA256 = in.string(n)
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.finish()
}

// DecodeProgress decodes what a marker says into p, of which it shares nothing.
// Errors are as those of DecodeEvent.
func (c *Codec) DecodeProgress(ctx context.Context, value []byte, p *Progress) error {
	datum, root, err := c.open(ctx, progressMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	*p = Progress{}
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case progressGroup:
			p.Group = in.string(n)
		case progressEventsTopicID:
			p.EventsTopicID = in.string(n)
		case progressScoresTopicID:
			p.ScoresTopicID = in.string(n)
		case progressPartition:
			p.Partition = int32(in.Integer(n))
		case progressSince:
			p.Since = in.Integer(n)
		case progressNext:
			p.Next = in.Integer(n)
		case progressLeaderEpoch:
			p.LeaderEpoch = int32(in.Integer(n))
		case progressScored:
			p.Scored = in.Integer(n)
		case progressDuplicates:
			p.Duplicates = in.Integer(n)
		case progressDeadLetters:
			p.DeadLetters = in.Integer(n)
		case progressErasures:
			p.Erasures = in.Integer(n)
		case progressNoRecord:
			p.NoRecord = in.Integer(n)
		case progressForwarded:
			p.Forwarded = in.Integer(n)
		case progressWriters:
			in.pairs(n, func(id, since int64) { p.Writers = append(p.Writers, Writer{ProducerID: id, Since: since}) })
		case progressCustomers:
			p.Customers = in.Integer(n)
		case progressPartitions:
			p.Partitions = int32(in.Integer(n))
		case progressFormer:
			p.Former = in.integers(n, nil)
		case progressMoving:
			p.Moving = in.Bool(n)
		case progressOrigins:
			in.pairs(n, func(from, next int64) { p.Origins = append(p.Origins, Origin{Partition: int32(from), Next: next}) })
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.finish()
}

// DecodeLabelerProgress decodes what a marker among the examples says into p, of
// which it shares nothing. Errors are as those of DecodeEvent.
func (c *Codec) DecodeLabelerProgress(ctx context.Context, value []byte, p *LabelerProgress) error {
	datum, root, err := c.open(ctx, labelerProgressMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	*p = LabelerProgress{}
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case labelerGroup:
			p.Group = in.string(n)
		case labelerExamplesTopicID:
			p.ExamplesTopicID = in.string(n)
		case labelerOutcomesTopicID:
			p.OutcomesTopicID = in.string(n)
		case labelerPartition:
			p.Partition = int32(in.Integer(n))
		case labelerPartitions:
			p.Partitions = int32(in.Integer(n))
		case labelerPositions:
			in.records(n, func(item *avro.Node) {
				var at OutcomesPosition
				in.fields(item, func(position int, n *avro.Node) {
					switch position {
					case positionPartition:
						at.Partition = int32(in.Integer(n))
					case positionNext:
						at.Next = in.Integer(n)
					case positionWaiting:
						at.Waiting = in.integers(n, nil)
					default:
						in.Skip(n.Writer)
					}
				})
				p.Positions = append(p.Positions, at)
			})
		case labelerSums:
			in.records(n, func(item *avro.Node) {
				var sum OutcomeSum
				in.fields(item, func(position int, n *avro.Node) {
					switch position {
					case sumResult:
						sum.Result = in.string(n)
					case sumChurned:
						sum.Churned = in.Bool(n)
					case sumOutcomes:
						sum.Outcomes = in.Integer(n)
					default:
						in.Skip(n.Writer)
					}
				})
				p.Sums = append(p.Sums, sum)
			})
		case labelerWriters:
			in.pairs(n, func(id, since int64) { p.Writers = append(p.Writers, Writer{ProducerID: id, Since: since}) })
		case labelerHorizon:
			p.Horizon = in.Integer(n)
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	return in.finish()
}

// records reads an array of records.
func (in *input) records(n *avro.Node, read func(item *avro.Node)) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			if item := in.Record(items); item != nil {
				read(item)
			}
		}
	}
}

// fields reads the fields of a record.
func (in *input) fields(record *avro.Node, read func(position int, n *avro.Node)) {
	for i := range record.Fields {
		f := &record.Fields[i]
		read(f.Position, f.Node)
		if in.Err() != nil {
			in.at(record, i)
			return
		}
	}
}

// attributes reads a record of attributes into x, whose values are missing.
func (c *Codec) attributes(in *input, n *avro.Node, x scoring.Vector, levels *scoring.Levels) {
	if n = in.Record(n); n == nil {
		return
	}
	for i := range n.Fields {
		f := &n.Fields[i]
		if f.Position < 0 {
			in.Skip(f.Node.Writer)
		} else if value := in.Branch(f.Node); value.Kind != avro.Null { // most are null
			if c.set.columns[f.Position].categorical {
				c.level(in, value, f.Position, &x[f.Position], levels)
			} else if v, ok := in.number(value); ok {
				x[f.Position] = v
			}
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
}

// level reads a level of a categorical feature into x. It is not null.
func (c *Codec) level(in *input, n *avro.Node, feature int, x *float64, levels *scoring.Levels) {
	var level []byte
	switch n.Kind {
	case avro.String, avro.Bytes:
		level = in.Bytes()
		// Most levels are known. Those are valid, short, and without white space.
		if code, known := c.set.vocabulary.Known(feature, level); known {
			*x = code
			return
		}
		level = in.levelText(trim(level))
	case avro.Enum:
		*x = float64(in.Symbol(n)) // the vocabulary numbers symbols in their order
		return
	case avro.Long, avro.Int:
		var digits [20]byte
		level = strconv.AppendInt(digits[:0], in.Integer(n), 10)
	default:
		in.Unreadable(n)
	}
	if in.Err() != nil || len(level) == 0 {
		return
	}
	*x = c.set.vocabulary.Find(feature, level, levels)
}

// increments reads a record of increments into x, whose values are missing.
func (c *Codec) increments(in *input, n *avro.Node, x scoring.Vector) {
	if n = in.Record(n); n == nil {
		return
	}
	for i := range n.Fields {
		f := &n.Fields[i]
		if f.Position < 0 {
			in.Skip(f.Node.Writer)
		} else if v, ok := in.number(f.Node); ok {
			x[c.set.numeric[f.Position]] = v
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
}

// parseBytes is parseText for bytes, without an allocation for numbers and
// known levels.
func (s *Set) parseBytes(feature int, text []byte, levels *scoring.Levels) (x float64, reason Reason, problem string) {
	switch c := &s.columns[feature]; {
	case !c.categorical:
		// A quartile of whole numbers need not be one: any number will do.
		x, problem = anyNumber.parseNumber(string(text))
		return x, ReasonInvalidValue, problem
	case c.typ.Kind != avro.String:
		x, problem = s.parseLevel(feature, string(text), levels)
		return x, ReasonInvalidValue, problem
	}
	if len(text) > scoring.MaxLevelBytes {
		return 0, ReasonTooLarge, "is too long"
	}
	return s.vocabulary.Find(feature, text, levels), "", ""
}

func (in *input) metrics(n *avro.Node, m *HoldoutMetrics) {
	if n = in.Record(n); n == nil {
		return
	}
	*m = evaluation.NoMetrics()
	for i := range n.Fields {
		f := &n.Fields[i]
		var into *float64
		switch f.Position {
		case metricsRows:
			m.Rows = in.Integer(f.Node)
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
		case metricsPRAUC:
			into = &m.PRAUC
		case metricsLogLossSkill:
			into = &m.LogLossSkill
		case metricsChurners:
			m.Churners = in.Integer(f.Node)
		case metricsLower:
			in.bounds(f.Node, &m.Lower)
		case metricsUpper:
			in.bounds(f.Node, &m.Upper)
		default:
			in.Skip(f.Node.Writer)
		}
		if into != nil {
			*into = in.optional(f.Node)
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
}

// bounds reads a record with a number, or null, for every figure.
func (in *input) bounds(n *avro.Node, f *evaluation.Figures) {
	if n = in.Branch(n); n.Kind == avro.Null {
		return
	}
	if n = in.Record(n); n == nil {
		return
	}
	for i := range n.Fields {
		field := &n.Fields[i]
		if field.Position < 0 {
			in.Skip(field.Node.Writer)
		} else {
			*evaluation.All[field.Position].Of(f) = in.optional(field.Node)
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
}

func (in *input) baseline(n *avro.Node, m *ModelVersion) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			item := in.Record(items)
			if item == nil {
				return
			}
			var b BaselineDistribution
			for i := range item.Fields {
				f := &item.Fields[i]
				switch f.Position {
				case baselineName:
					b.Name = in.string(f.Node)
				case baselineBins:
					bins := in.Array(f.Node)
					for count := in.Block(); count != 0; count = in.Block() {
						for ; count > 0 && in.Err() == nil; count-- {
							b.Bins = append(b.Bins, in.string(bins))
						}
					}
				case baselineFrequencies:
					frequencies := in.Array(f.Node)
					for count := in.Block(); count != 0; count = in.Block() {
						for ; count > 0 && in.Err() == nil; count-- {
							x, _ := in.Number(frequencies)
							b.Frequencies = append(b.Frequencies, x)
						}
					}
				case baselineRows:
					b.Rows = in.Integer(f.Node)
				case baselineMissing:
					b.Missing = in.Integer(f.Node)
				case baselineReasonRows:
					b.ReasonRows = in.Integer(f.Node)
				case baselineReasonMean:
					b.ReasonMean, _ = in.Number(f.Node)
				case baselineReasonDeviation:
					b.ReasonDeviation, _ = in.Number(f.Node)
				default:
					in.Skip(f.Node.Writer)
				}
				if in.Err() != nil {
					in.at(item, i)
					return
				}
			}
			m.Baseline = append(m.Baseline, b)
		}
	}
}

func (in *input) headers(n *avro.Node, d *DeadLetter) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			item := in.Record(items)
			if item == nil {
				return
			}
			var h Header
			for i := range item.Fields {
				f := &item.Fields[i]
				switch f.Position {
				case headerKey:
					h.Key = in.string(f.Node)
				case headerValue:
					h.Value = in.copied(f.Node)
				default:
					in.Skip(f.Node.Writer)
				}
				if in.Err() != nil {
					in.at(item, i)
					return
				}
			}
			d.Headers = append(d.Headers, h)
		}
	}
}

// pairs reads an array of records of two integers each.
func (in *input) pairs(n *avro.Node, add func(first, second int64)) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			item := in.Record(items)
			if item == nil {
				return
			}
			var pair [2]int64
			for i := range item.Fields {
				f := &item.Fields[i]
				if f.Position == 0 || f.Position == 1 {
					pair[f.Position] = in.Integer(f.Node)
				} else {
					in.Skip(f.Node.Writer)
				}
				if in.Err() != nil {
					in.at(item, i)
					return
				}
			}
			add(pair[0], pair[1])
		}
	}
}

// clearVector returns x with n values, all missing.
func clearVector(x scoring.Vector, n int) scoring.Vector {
	if len(x) != n {
		return scoring.NewVector(n)
	}
	x.Clear()
	return x
}
