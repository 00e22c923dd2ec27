package schemas

import (
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// AppendEvent appends an event, framed, to dst. Register comes first: without
// a schema id it panics.
func (c *Codec) AppendEvent(dst []byte, e *CustomerEvent) []byte {
	dst = c.appendFrame(dst, eventMessage)
	dst = avro.AppendBytes(dst, e.EventID)
	dst = avro.AppendBytes(dst, e.CustomerID)
	dst = avro.AppendLong(dst, e.OccurredAt)
	dst = c.set.appendAttributes(dst, e.Changes, e.Levels)
	dst = c.set.appendIncrements(dst, e.Increments)
	return avro.AppendBytes(dst, e.Source)
}

// AppendOutcome appends an outcome, framed, to dst. Register comes first:
// without a schema id it panics.
func (c *Codec) AppendOutcome(dst []byte, o *ChurnOutcome) []byte {
	dst = c.appendFrame(dst, outcomeMessage)
	dst = avro.AppendString(dst, o.CustomerID)
	dst = avro.AppendBoolean(dst, o.Churned)
	dst = avro.AppendLong(dst, o.ObservedAt)
	if o.Attributes == nil {
		dst = append(dst, nullBranch)
	} else {
		dst = append(dst, valueBranch)
		dst = c.set.appendAttributes(dst, o.Attributes, o.Levels)
	}
	return avro.AppendString(dst, o.Source)
}

// AppendExamples appends a customer's examples, framed, to dst. Register comes
// first: without a schema id it panics.
func (c *Codec) AppendExamples(dst []byte, m *CustomerExamples) []byte {
	dst = c.appendFrame(dst, examplesMessage)
	dst = avro.AppendBytes(dst, m.CustomerID)
	if len(m.Examples) > 0 {
		dst = avro.AppendLong(dst, int64(len(m.Examples)))
	}
	for i := range m.Examples {
		e := &m.Examples[i]
		dst = avro.AppendLong(dst, e.AsOf)
		dst = avro.AppendLong(dst, e.ObservedAt)
		dst = avro.AppendLong(dst, e.LabelledAt)
		dst = avro.AppendLong(dst, e.Horizon)
		dst = avro.AppendBoolean(dst, e.Churned)
		dst = avro.AppendLong(dst, e.Corrections)
		if e.ModelVersion != 0 {
			dst = avro.AppendLong(append(dst, valueBranch), e.ModelVersion)
		} else {
			dst = append(dst, nullBranch)
		}
		dst = appendOptional(dst, e.Probability)
		dst = avro.AppendLong(dst, int64(e.SourcePartition))
		dst = avro.AppendLong(dst, e.SourceOffset)
		dst = c.set.appendAttributes(dst, e.Attributes, m.Levels)
	}
	return append(dst, 0)
}

// AppendModel appends a model version, framed, to dst. Register comes first:
// without a schema id it panics.
func (c *Codec) AppendModel(dst []byte, m *ModelVersion) []byte {
	dst = c.appendFrame(dst, modelMessage)
	dst = avro.AppendLong(dst, m.Version)
	dst = appendTime(dst, m.CreatedAt)
	dst = avro.AppendLong(dst, int64(m.Stage))
	dst = appendString(dst, m.Reason)
	dst = appendString(dst, m.Payload)
	dst = appendString(dst, m.SHA256)
	dst = appendMetrics(dst, &m.Metrics)
	if m.ChampionMetrics == nil {
		dst = append(dst, nullBranch)
	} else {
		dst = append(dst, valueBranch)
		dst = appendMetrics(dst, m.ChampionMetrics)
	}
	dst = appendTime(dst, m.TrainingStart)
	dst = appendTime(dst, m.TrainingEnd)
	dst = avro.AppendLong(dst, m.TrainingRows)
	dst = avro.AppendLong(dst, m.LabelsSeen)
	dst = appendString(dst, m.FeatureFingerprint)
	dst = avro.AppendDouble(dst, m.MediumThreshold)
	dst = avro.AppendDouble(dst, m.HighThreshold)
	if len(m.Baseline) > 0 {
		dst = avro.AppendLong(dst, int64(len(m.Baseline)))
		for i := range m.Baseline {
			b := &m.Baseline[i]
			dst = appendString(dst, b.Name)
			if len(b.Bins) > 0 {
				dst = avro.AppendLong(dst, int64(len(b.Bins)))
				for _, bin := range b.Bins {
					dst = appendString(dst, bin)
				}
			}
			dst = append(dst, 0)
			if len(b.Frequencies) > 0 {
				dst = avro.AppendLong(dst, int64(len(b.Frequencies)))
				for _, x := range b.Frequencies {
					dst = avro.AppendDouble(dst, x)
				}
			}
			dst = append(dst, 0)
			dst = avro.AppendLong(dst, b.Rows)
			dst = avro.AppendLong(dst, b.Missing)
			dst = avro.AppendLong(dst, b.ReasonRows)
			dst = avro.AppendDouble(dst, b.ReasonMean)
			dst = avro.AppendDouble(dst, b.ReasonDeviation)
		}
	}
	dst = avro.AppendLong(append(dst, 0), m.Horizon)
	return appendTime(dst, m.LabelsUntil)
}

// AppendDeadLetter appends a dead letter, framed, to dst. Register comes
// first: without a schema id it panics.
func (c *Codec) AppendDeadLetter(dst []byte, d *DeadLetter) []byte {
	dst = c.appendFrame(dst, deadLetterMessage)
	dst = appendString(dst, string(d.Reason))
	dst = appendString(dst, d.Detail)
	dst = appendString(dst, d.Topic)
	dst = avro.AppendLong(dst, int64(d.Partition))
	dst = avro.AppendLong(dst, d.Offset)
	dst = appendTime(dst, d.Timestamp)
	for _, b := range [...][]byte{d.Key, d.Value} {
		if b == nil {
			dst = append(dst, nullBranch)
		} else {
			dst = avro.AppendBytes(append(dst, valueBranch), b)
		}
	}
	if len(d.Headers) > 0 {
		dst = avro.AppendLong(dst, int64(len(d.Headers)))
		for i := range d.Headers {
			dst = appendString(dst, d.Headers[i].Key)
			dst = avro.AppendBytes(dst, d.Headers[i].Value)
		}
	}
	dst = append(dst, 0)
	dst = appendTime(dst, d.FailedAt)
	dst = appendString(dst, d.FailedBy)
	dst = avro.AppendLong(dst, d.OriginalBytes)
	return avro.AppendString(dst, d.ValueSHA256)
}

// AppendProgress appends what a marker says, framed, to dst. Register comes first:
// without a schema id it panics.
func (c *Codec) AppendProgress(dst []byte, p *Progress) []byte {
	dst = c.appendFrame(dst, progressMessage)
	dst = avro.AppendString(dst, p.Group)
	dst = avro.AppendString(dst, p.EventsTopicID)
	dst = avro.AppendString(dst, p.ScoresTopicID)
	for _, n := range [...]int64{
		int64(p.Partition), p.Since, p.Next, int64(p.LeaderEpoch), p.Scored, p.Duplicates, p.DeadLetters, p.Erasures, p.NoRecord, p.Forwarded,
	} {
		dst = avro.AppendLong(dst, n)
	}
	dst = avro.AppendLong(appendWriters(dst, p.Writers), p.Customers)
	dst = avro.AppendLong(dst, int64(p.Partitions))
	dst = appendLongs(dst, p.Former)
	dst = avro.AppendBoolean(dst, p.Moving)
	if len(p.Origins) > 0 {
		dst = avro.AppendLong(dst, int64(len(p.Origins)))
		for _, o := range p.Origins {
			dst = avro.AppendLong(dst, int64(o.Partition))
			dst = avro.AppendLong(dst, o.Next)
		}
	}
	return append(dst, 0)
}

// AppendLabelerProgress appends what a marker among the examples says, framed, to
// dst. Register comes first: without a schema id it panics.
func (c *Codec) AppendLabelerProgress(dst []byte, p *LabelerProgress) []byte {
	dst = c.appendFrame(dst, labelerProgressMessage)
	dst = avro.AppendString(dst, p.Group)
	dst = avro.AppendString(dst, p.ExamplesTopicID)
	dst = avro.AppendString(dst, p.OutcomesTopicID)
	dst = avro.AppendLong(dst, int64(p.Partition))
	dst = avro.AppendLong(dst, int64(p.Partitions))
	if len(p.Positions) > 0 {
		dst = avro.AppendLong(dst, int64(len(p.Positions)))
		for _, at := range p.Positions {
			dst = avro.AppendLong(dst, int64(at.Partition))
			dst = avro.AppendLong(dst, at.Next)
			dst = appendLongs(dst, at.Waiting)
		}
	}
	dst = append(dst, 0)
	if len(p.Sums) > 0 {
		dst = avro.AppendLong(dst, int64(len(p.Sums)))
		for _, s := range p.Sums {
			dst = avro.AppendString(dst, s.Result)
			dst = avro.AppendBoolean(dst, s.Churned)
			dst = avro.AppendLong(dst, s.Outcomes)
		}
	}
	return avro.AppendLong(appendWriters(append(dst, 0), p.Writers), p.Horizon)
}

func appendWriters(dst []byte, writers []Writer) []byte {
	if len(writers) > 0 {
		dst = avro.AppendLong(dst, int64(len(writers)))
		for _, w := range writers {
			dst = avro.AppendLong(dst, w.ProducerID)
			dst = avro.AppendLong(dst, w.Since)
		}
	}
	return append(dst, 0)
}

// The branches of ["null", X], encoded, as all our own unions are.
const (
	nullBranch  = 0
	valueBranch = 2
)

// appendString appends text from anywhere, with U+FFFD for what is not UTF-8.
func appendString(dst []byte, text string) []byte {
	return avro.AppendString(dst, strings.ToValidUTF8(text, "\uFFFD"))
}

// appendTime appends a time from anywhere, or the nearest that other consumers
// can read.
func appendTime(dst []byte, ms int64) []byte { return avro.AppendLong(dst, readable(ms)) }

func (c *Codec) appendFrame(dst []byte, k messageKind) []byte {
	frame := c.frames[k].Load()
	if frame == nil {
		panic("schemas: encoding for " + messageTopics[k] + " before Codec.Register")
	}
	return append(dst, frame[:]...)
}

// appendAttributes appends a vector as a CustomerAttributes record.
func (s *Set) appendAttributes(dst []byte, x scoring.Vector, levels scoring.Levels) []byte {
	for i := range s.columns {
		c := &s.columns[i]
		v := x[i]
		if scoring.IsMissing(v) {
			dst = append(dst, c.null)
			continue
		}
		switch {
		case !c.categorical:
			dst = appendNumeric(append(dst, c.value), c.typ.Kind, v)
		case c.typ.Kind == avro.String && v >= 0:
			dst = avro.AppendString(append(dst, c.value), s.vocabulary.Level(i, v))
		case c.typ.Kind == avro.String:
			dst = avro.AppendString(append(dst, c.value), s.vocabulary.Text(i, v, levels))
		case c.typ.Kind == avro.Enum:
			if v >= 0 && int(v) < len(c.typ.Symbols) {
				dst = avro.AppendLong(append(dst, c.value), int64(v))
			} else {
				dst = append(dst, c.null) // not a symbol: only a model can know such a level
			}
		default:
			n, err := strconv.ParseInt(s.vocabulary.Text(i, v, levels), 10, 64)
			if err != nil {
				dst = append(dst, c.null) // not a number: only a model can know such a level
			} else {
				dst = avro.AppendLong(append(dst, c.value), n)
			}
		}
	}
	return dst
}

// appendIncrements appends the numeric features of a vector as a
// CustomerIncrements record.
func (s *Set) appendIncrements(dst []byte, x scoring.Vector) []byte {
	for _, i := range s.numeric {
		if v := x[i]; scoring.IsMissing(v) {
			dst = append(dst, nullBranch)
		} else {
			dst = appendNumeric(append(dst, valueBranch), s.columns[i].typ.Kind, v)
		}
	}
	return dst
}

// appendNumeric appends x as the nearest number of the type.
func appendNumeric(dst []byte, k avro.Kind, x float64) []byte {
	switch k {
	case avro.Int:
		return avro.AppendLong(dst, int64(math.RoundToEven(min(max(x, math.MinInt32), math.MaxInt32))))
	case avro.Long:
		if x >= math.MaxInt64 { // as float64: 2⁶³, which int64 does not have
			return avro.AppendLong(dst, math.MaxInt64)
		}
		return avro.AppendLong(dst, int64(math.RoundToEven(max(x, math.MinInt64))))
	case avro.Float:
		return avro.AppendFloat(dst, float32(min(max(x, -math.MaxFloat32), math.MaxFloat32)))
	}
	return avro.AppendDouble(dst, x)
}

// appendText appends a value as a string, as Set.Text has it.
func (s *Set) appendText(dst []byte, feature int, x float64, levels scoring.Levels) []byte {
	if s.columns[feature].categorical {
		return avro.AppendString(dst, s.vocabulary.Text(feature, x, levels))
	}
	var digits [32]byte
	return avro.AppendBytes(dst, appendNumber(digits[:0], x))
}

func appendMetrics(dst []byte, m *HoldoutMetrics) []byte {
	dst = avro.AppendLong(dst, m.Rows)
	dst = appendOptional(dst, m.Accuracy)
	dst = appendOptional(dst, m.Precision)
	dst = appendOptional(dst, m.Recall)
	dst = appendOptional(dst, m.F1)
	dst = appendOptional(dst, m.ROCAUC)
	dst = appendOptional(dst, m.LogLoss)
	dst = appendOptional(dst, m.Brier)
	dst = appendOptional(dst, m.CalibrationError)
	dst = appendOptional(dst, m.TopDecileLift)
	dst = appendOptional(dst, m.PRAUC)
	dst = appendOptional(dst, m.LogLossSkill)
	dst = avro.AppendLong(dst, m.Churners)
	dst = appendBounds(dst, &m.Lower)
	return appendBounds(dst, &m.Upper)
}

// appendBounds appends figures, or null if none is defined.
func appendBounds(dst []byte, f *evaluation.Figures) []byte {
	defined := func(figure evaluation.Figure) bool { return !scoring.IsMissing(*figure.Of(f)) }
	if !slices.ContainsFunc(evaluation.All, defined) {
		return append(dst, nullBranch)
	}
	dst = append(dst, valueBranch)
	for _, figure := range evaluation.All {
		dst = appendOptional(dst, *figure.Of(f))
	}
	return dst
}

func appendLongs(dst []byte, ns []int64) []byte {
	if len(ns) > 0 {
		dst = avro.AppendLong(dst, int64(len(ns)))
		for _, n := range ns {
			dst = avro.AppendLong(dst, n)
		}
	}
	return append(dst, 0)
}

// appendOptional appends a number, or null for Missing.
func appendOptional(dst []byte, x float64) []byte {
	if scoring.IsMissing(x) {
		return append(dst, nullBranch)
	}
	return avro.AppendDouble(append(dst, valueBranch), x)
}
