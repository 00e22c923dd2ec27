package schemas

import (
	"encoding/binary"
	"math"
	"strconv"

	"github.com/churnstream/churnstream/scoring"
)

// AppendEvent appends an event, framed, to dst. Register comes first: without
// a schema id it panics.
func (c *Codec) AppendEvent(dst []byte, e *CustomerEvent) []byte {
	dst = c.appendFrame(dst, eventMessage)
	dst = appendBytes(dst, e.EventID)
	dst = appendBytes(dst, e.CustomerID)
	dst = appendLong(dst, e.OccurredAt)
	dst = c.set.appendAttributes(dst, e.Changes)
	dst = c.set.appendIncrements(dst, e.Increments)
	return appendBytes(dst, e.Source)
}

// AppendScore appends a score, framed, to dst. Register comes first: without a
// schema id it panics.
func (c *Codec) AppendScore(dst []byte, s *ChurnScore) []byte {
	dst = c.appendFrame(dst, scoreMessage)
	dst = appendBytes(dst, s.CustomerID)
	dst = appendBytes(dst, s.EventID)
	dst = appendLong(dst, s.OccurredAt)
	dst = appendLong(dst, s.ScoredAt)
	dst = appendLong(dst, s.ModelVersion)
	dst = appendDouble(dst, s.Probability)
	dst = appendOptional(dst, s.Previous)
	dst = appendLong(dst, int64(s.Risk))
	dst = appendDouble(dst, s.ExpectedProbability)
	if len(s.Explanations) > 0 {
		dst = appendLong(dst, int64(len(s.Explanations)))
		for i := range s.Explanations {
			e := &s.Explanations[i]
			dst = appendString(dst, c.set.spec.Feature(e.Feature).Name)
			if x := s.Attributes[e.Feature]; scoring.IsMissing(x) {
				dst = append(dst, nullBranch)
			} else {
				dst = append(dst, valueBranch)
				dst = c.set.appendText(dst, e.Feature, x)
			}
			dst = appendOptional(dst, e.LIME)
			dst = appendOptional(dst, e.SHAP)
		}
	}
	dst = append(dst, 0)
	if len(s.Missing) > 0 {
		dst = appendLong(dst, int64(len(s.Missing)))
		for _, feature := range s.Missing {
			dst = appendString(dst, c.set.spec.Feature(feature).Name)
		}
	}
	dst = append(dst, 0)
	dst = c.set.appendAttributes(dst, s.Attributes)
	dst = appendLongs(dst, s.AttributeAges)
	dst = appendLongs(dst, s.RecentEvents)
	dst = appendLong(dst, int64(s.SourcePartition))
	dst = appendLong(dst, s.SourceOffset)
	if !s.HasBestChange {
		dst = append(dst, nullBranch)
	} else {
		dst = append(dst, valueBranch)
		dst = appendString(dst, c.set.spec.Feature(s.BestChange.Feature).Name)
		dst = c.set.appendText(dst, s.BestChange.Feature, s.BestChange.Value)
		dst = appendDouble(dst, s.BestChange.Probability)
	}
	dst = appendLong(dst, s.AsOf)
	return appendLong(dst, int64(s.Trigger))
}

// AppendOutcome appends an outcome, framed, to dst. Register comes first:
// without a schema id it panics.
func (c *Codec) AppendOutcome(dst []byte, o *ChurnOutcome) []byte {
	dst = c.appendFrame(dst, outcomeMessage)
	dst = appendString(dst, o.CustomerID)
	dst = appendBoolean(dst, o.Churned)
	dst = appendLong(dst, o.ObservedAt)
	if o.Attributes == nil {
		dst = append(dst, nullBranch)
	} else {
		dst = append(dst, valueBranch)
		dst = c.set.appendAttributes(dst, o.Attributes)
	}
	return appendString(dst, o.Source)
}

// AppendModel appends a model version, framed, to dst. Register comes first:
// without a schema id it panics.
func (c *Codec) AppendModel(dst []byte, m *ModelVersion) []byte {
	dst = c.appendFrame(dst, modelMessage)
	dst = appendLong(dst, m.Version)
	dst = appendLong(dst, m.CreatedAt)
	dst = appendLong(dst, int64(m.Stage))
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
	dst = appendLong(dst, m.TrainingStart)
	dst = appendLong(dst, m.TrainingEnd)
	dst = appendLong(dst, m.TrainingRows)
	dst = appendLong(dst, m.LabelsSeen)
	dst = appendString(dst, m.FeatureFingerprint)
	dst = appendDouble(dst, m.MediumThreshold)
	dst = appendDouble(dst, m.HighThreshold)
	if len(m.Baseline) > 0 {
		dst = appendLong(dst, int64(len(m.Baseline)))
		for i := range m.Baseline {
			b := &m.Baseline[i]
			dst = appendString(dst, b.Name)
			if len(b.Bins) > 0 {
				dst = appendLong(dst, int64(len(b.Bins)))
				for _, bin := range b.Bins {
					dst = appendString(dst, bin)
				}
			}
			dst = append(dst, 0)
			if len(b.Frequencies) > 0 {
				dst = appendLong(dst, int64(len(b.Frequencies)))
				for _, x := range b.Frequencies {
					dst = appendDouble(dst, x)
				}
			}
			dst = append(dst, 0)
		}
	}
	return append(dst, 0)
}

// AppendDeadLetter appends a dead letter, framed, to dst. Register comes
// first: without a schema id it panics.
func (c *Codec) AppendDeadLetter(dst []byte, d *DeadLetter) []byte {
	dst = c.appendFrame(dst, deadLetterMessage)
	dst = appendString(dst, string(d.Reason))
	dst = appendString(dst, d.Detail)
	dst = appendString(dst, d.Topic)
	dst = appendLong(dst, int64(d.Partition))
	dst = appendLong(dst, d.Offset)
	dst = appendLong(dst, d.Timestamp)
	for _, b := range [...][]byte{d.Key, d.Value} {
		if b == nil {
			dst = append(dst, nullBranch)
		} else {
			dst = appendBytes(append(dst, valueBranch), b)
		}
	}
	if len(d.Headers) > 0 {
		dst = appendLong(dst, int64(len(d.Headers)))
		for i := range d.Headers {
			dst = appendString(dst, d.Headers[i].Key)
			dst = appendBytes(dst, d.Headers[i].Value)
		}
	}
	dst = append(dst, 0)
	dst = appendLong(dst, d.FailedAt)
	return appendString(dst, d.FailedBy)
}

// The branches of ["null", X], encoded, as all our own unions are.
const (
	nullBranch  = 0
	valueBranch = 2
)

func (c *Codec) appendFrame(dst []byte, k messageKind) []byte {
	frame := c.frames[k].Load()
	if frame == nil {
		panic("schemas: encoding for " + messageTopics[k] + " before Codec.Register")
	}
	return append(dst, frame[:]...)
}

// appendAttributes appends a vector as a CustomerAttributes record.
func (s *Set) appendAttributes(dst []byte, x scoring.Vector) []byte {
	for i := range s.columns {
		c := &s.columns[i]
		v := x[i]
		if scoring.IsMissing(v) {
			dst = append(dst, c.null)
			continue
		}
		switch {
		case !c.categorical:
			dst = appendNumeric(append(dst, c.value), c.typ.kind, v)
		case c.typ.kind == kindString:
			dst = appendString(append(dst, c.value), s.vocabulary.Level(i, v))
		case c.typ.kind == kindEnum:
			if int(v) < len(c.typ.symbols) {
				dst = appendLong(append(dst, c.value), int64(v))
			} else {
				dst = append(dst, c.null) // not a symbol: only a model can know such a level
			}
		default:
			n, err := strconv.ParseInt(s.vocabulary.Level(i, v), 10, 64)
			if err != nil {
				dst = append(dst, c.null) // not a number: only a model can know such a level
			} else {
				dst = appendLong(append(dst, c.value), n)
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
			dst = appendNumeric(append(dst, valueBranch), s.columns[i].typ.kind, v)
		}
	}
	return dst
}

// appendNumeric appends x as the nearest number of the type.
func appendNumeric(dst []byte, k kind, x float64) []byte {
	switch k {
	case kindInt:
		return appendLong(dst, int64(math.RoundToEven(min(max(x, math.MinInt32), math.MaxInt32))))
	case kindLong:
		if x >= math.MaxInt64 { // as float64: 2⁶³, which int64 does not have
			return appendLong(dst, math.MaxInt64)
		}
		return appendLong(dst, int64(math.RoundToEven(max(x, math.MinInt64))))
	case kindFloat:
		return binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(min(max(x, -math.MaxFloat32), math.MaxFloat32))))
	}
	return appendDouble(dst, x)
}

// appendText appends a value as a string, as Set.Text has it.
func (s *Set) appendText(dst []byte, feature int, x float64) []byte {
	if s.columns[feature].categorical {
		return appendString(dst, s.vocabulary.Level(feature, x))
	}
	var digits [32]byte
	return appendBytes(dst, appendNumber(digits[:0], x))
}

func appendMetrics(dst []byte, m *HoldoutMetrics) []byte {
	dst = appendLong(dst, m.Rows)
	dst = appendDouble(dst, m.Accuracy)
	dst = appendDouble(dst, m.Precision)
	dst = appendDouble(dst, m.Recall)
	dst = appendDouble(dst, m.F1)
	dst = appendDouble(dst, m.ROCAUC)
	dst = appendDouble(dst, m.LogLoss)
	dst = appendDouble(dst, m.Brier)
	dst = appendDouble(dst, m.CalibrationError)
	return appendDouble(dst, m.TopDecileLift)
}

func appendLong(dst []byte, n int64) []byte {
	return binary.AppendUvarint(dst, uint64(n)<<1^uint64(n>>63))
}

func appendLongs(dst []byte, ns []int64) []byte {
	if len(ns) > 0 {
		dst = appendLong(dst, int64(len(ns)))
		for _, n := range ns {
			dst = appendLong(dst, n)
		}
	}
	return append(dst, 0)
}

func appendDouble(dst []byte, x float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(x))
}

// appendOptional appends a number, or null for Missing.
func appendOptional(dst []byte, x float64) []byte {
	if scoring.IsMissing(x) {
		return append(dst, nullBranch)
	}
	return appendDouble(append(dst, valueBranch), x)
}

func appendBoolean(dst []byte, b bool) []byte {
	if b {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendBytes(dst, b []byte) []byte {
	return append(appendLong(dst, int64(len(b))), b...)
}

func appendString(dst []byte, s string) []byte {
	return append(appendLong(dst, int64(len(s))), s...)
}
