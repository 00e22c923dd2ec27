package schemas

import (
	"context"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

// Risk is a score's risk, an enum on the wire.
type Risk = scoring.Risk

// The symbols of the Risk enum, in its order.
const (
	RiskLow    = scoring.RiskLow
	RiskMedium = scoring.RiskMedium
	RiskHigh   = scoring.RiskHigh
)

// Trigger says why there is a score.
type Trigger uint8

// The symbols of the Trigger enum, in its order.
const (
	// TriggerEvent is an event of the customer.
	TriggerEvent Trigger = iota
	// TriggerModel is a change of the model in use.
	TriggerModel
	// TriggerTime is time that passed.
	TriggerTime
	// TriggerRepair is a record of another writer that had to be replaced.
	TriggerRepair
)

// String returns the enum's symbol.
func (t Trigger) String() string {
	switch t {
	case TriggerModel:
		return "MODEL"
	case TriggerTime:
		return "TIME"
	case TriggerRepair:
		return "REPAIR"
	}
	return "EVENT"
}

// Explanation is one feature's part in a score.
type Explanation struct {
	// Feature is the feature's position in the specification.
	Feature int
	// LIME and SHAP are weights on the probability scale; scoring.Missing
	// where they were not asked for. The value as text is not kept here: it is
	// Attributes[Feature] of the score.
	LIME, SHAP float64
}

// BestChange is the single actionable change after which the model would
// predict the lowest probability.
type BestChange struct {
	Feature     int
	Value       float64 // as in a scoring.Vector
	Probability float64
}

// ChurnScore is a churn probability, why, and what it was computed from. Its
// identity is SourcePartition, SourceOffset, ModelVersion and AsOf. Byte slices
// of a decoded score point into the decoded record.
type ChurnScore struct {
	CustomerID          []byte
	EventID             []byte
	OccurredAt          int64
	ScoredAt            int64
	ModelVersion        int64
	Probability         float64
	Previous            float64 // scoring.Missing for a customer's first score
	ExpectedProbability float64
	Explanations        []Explanation
	// Missing lists the positions of features whose value was missing or
	// unknown to the model.
	Missing    []int
	Attributes scoring.Vector
	// AttributeAges is empty when all attributes were set by this event.
	AttributeAges   []int64
	RecentEvents    []int64
	SourceOffset    int64
	SourcePartition int32
	// With the partition these take eight bytes: a read model has millions.
	Risk    Risk
	Trigger Trigger
	// HasBestChange reports whether BestChange is set.
	HasBestChange bool
	BestChange    BestChange
	// AsOf is the moment the score speaks of: the latest OccurredAt of the
	// customer's events so far, or the later moment that time has brought. A
	// score written before there was this field is decoded with its
	// OccurredAt.
	AsOf int64
	// Levels are those in Attributes, and in BestChange, without a number in
	// the vocabulary.
	Levels scoring.Levels
}

// The positions of the fields of a score; below, of an explanation and of a best
// change.
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

// scoreFields are their names in the schema, with which TestFieldPositions
// compares them.
var scoreFields = [...]string{
	scoreCustomerID:      "customer_id",
	scoreEventID:         "event_id",
	scoreOccurredAt:      "occurred_at",
	scoreScoredAt:        "scored_at",
	scoreModelVersion:    "model_version",
	scoreProbability:     "churn_probability",
	scorePrevious:        "previous_probability",
	scoreRisk:            "risk",
	scoreExpected:        "expected_probability",
	scoreExplanations:    "explanations",
	scoreMissing:         "missing",
	scoreAttributes:      "attributes",
	scoreAges:            "attribute_ages",
	scoreRecentEvents:    "recent_events",
	scoreSourcePartition: "source_partition",
	scoreSourceOffset:    "source_offset",
	scoreBestChange:      "best_change",
	scoreAsOf:            "as_of",
	scoreTrigger:         "trigger",
}

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

// AppendScore appends a score, framed, to dst. Register comes first: without a
// schema id it panics.
func (c *Codec) AppendScore(dst []byte, s *ChurnScore) []byte {
	dst = c.appendFrame(dst, scoreMessage)
	dst = avro.AppendBytes(dst, s.CustomerID)
	dst = avro.AppendBytes(dst, s.EventID)
	dst = avro.AppendLong(dst, s.OccurredAt)
	dst = avro.AppendLong(dst, s.ScoredAt)
	dst = avro.AppendLong(dst, s.ModelVersion)
	dst = avro.AppendDouble(dst, s.Probability)
	dst = appendOptional(dst, s.Previous)
	dst = avro.AppendLong(dst, int64(s.Risk))
	dst = avro.AppendDouble(dst, s.ExpectedProbability)
	if len(s.Explanations) > 0 {
		dst = avro.AppendLong(dst, int64(len(s.Explanations)))
		for i := range s.Explanations {
			e := &s.Explanations[i]
			dst = avro.AppendString(dst, c.set.spec.Feature(e.Feature).Name)
			if x := s.Attributes[e.Feature]; scoring.IsMissing(x) {
				dst = append(dst, nullBranch)
			} else {
				dst = append(dst, valueBranch)
				dst = c.set.appendText(dst, e.Feature, x, s.Levels)
			}
			dst = appendOptional(dst, e.LIME)
			dst = appendOptional(dst, e.SHAP)
		}
	}
	dst = append(dst, 0)
	if len(s.Missing) > 0 {
		dst = avro.AppendLong(dst, int64(len(s.Missing)))
		for _, feature := range s.Missing {
			dst = avro.AppendString(dst, c.set.spec.Feature(feature).Name)
		}
	}
	dst = append(dst, 0)
	dst = c.set.appendAttributes(dst, s.Attributes, s.Levels)
	dst = appendLongs(dst, s.AttributeAges)
	dst = appendLongs(dst, s.RecentEvents)
	dst = avro.AppendLong(dst, int64(s.SourcePartition))
	dst = avro.AppendLong(dst, s.SourceOffset)
	if !s.HasBestChange {
		dst = append(dst, nullBranch)
	} else {
		dst = append(dst, valueBranch)
		dst = avro.AppendString(dst, c.set.spec.Feature(s.BestChange.Feature).Name)
		dst = c.set.appendText(dst, s.BestChange.Feature, s.BestChange.Value, s.Levels)
		dst = avro.AppendDouble(dst, s.BestChange.Probability)
	}
	dst = avro.AppendLong(dst, s.AsOf)
	return avro.AppendLong(dst, int64(s.Trigger))
}

// DecodeScore decodes a record's value into s, reusing its slices. The byte
// slices of s point into value. Features that the Set does not have are left
// out, and numbers beyond scoring.MaxNumber, which earlier versions took, are
// missing. Errors are as those of DecodeEvent.
func (c *Codec) DecodeScore(ctx context.Context, value []byte, s *ChurnScore) error {
	datum, root, err := c.open(ctx, scoreMessage, value)
	if err != nil {
		return err
	}
	in := newInput(datum)
	in.ours = true
	*s = ChurnScore{
		Previous:      scoring.Missing,
		Explanations:  s.Explanations[:0],
		Missing:       s.Missing[:0],
		Attributes:    clearVector(s.Attributes, c.set.spec.Len()),
		AttributeAges: s.AttributeAges[:0],
		RecentEvents:  s.RecentEvents[:0],
		Levels:        s.Levels[:0],
	}
	for i := range root.Fields {
		f := &root.Fields[i]
		n := f.Node
		switch f.Position {
		case scoreCustomerID:
			s.CustomerID = in.id(n)
		case scoreEventID:
			s.EventID = in.id(n)
		case scoreOccurredAt:
			s.OccurredAt = in.time(n)
		case scoreScoredAt:
			s.ScoredAt = in.time(n)
		case scoreModelVersion:
			s.ModelVersion = in.Integer(n)
		case scoreProbability:
			s.Probability, _ = in.Number(n)
		case scorePrevious:
			s.Previous = in.optional(n)
		case scoreRisk:
			s.Risk = Risk(in.Symbol(n))
		case scoreExpected:
			s.ExpectedProbability, _ = in.Number(n)
		case scoreExplanations:
			c.explanations(&in, n, s)
		case scoreMissing:
			c.missing(&in, n, s)
		case scoreAttributes:
			c.attributes(&in, n, s.Attributes, &s.Levels)
		case scoreAges:
			s.AttributeAges = in.integers(n, s.AttributeAges)
			for k, age := range s.AttributeAges {
				s.AttributeAges[k] = min(max(age, minTime-maxTime), maxTime-minTime)
			}
		case scoreRecentEvents:
			s.RecentEvents = in.integers(n, s.RecentEvents)
		case scoreSourcePartition:
			s.SourcePartition = int32(in.Integer(n))
		case scoreSourceOffset:
			s.SourceOffset = in.Integer(n)
		case scoreBestChange:
			c.bestChange(&in, n, s)
		case scoreAsOf:
			s.AsOf = in.time(n)
		case scoreTrigger:
			s.Trigger = Trigger(in.Symbol(n))
		default:
			in.Skip(n.Writer)
		}
		if in.Err() != nil {
			return in.failed(root, i)
		}
	}
	if s.AsOf == 0 {
		s.AsOf = s.OccurredAt
	}
	return in.end(s.CustomerID)
}

func (c *Codec) explanations(in *input, n *avro.Node, s *ChurnScore) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			item := in.Record(items)
			if item == nil {
				return
			}
			e := Explanation{LIME: scoring.Missing, SHAP: scoring.Missing}
			known := false
			for i := range item.Fields {
				f := &item.Fields[i]
				switch f.Position {
				case explanationFeature:
					name, _ := in.Text(f.Node)
					e.Feature, known = c.featureIndex[string(name)]
				case explanationLIME:
					e.LIME = in.optional(f.Node)
				case explanationSHAP:
					e.SHAP = in.optional(f.Node)
				case explanationValue:
					in.Text(f.Node)
				default:
					in.Skip(f.Node.Writer)
				}
				if in.Err() != nil {
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

func (c *Codec) missing(in *input, n *avro.Node, s *ChurnScore) {
	items := in.Array(n)
	for count := in.Block(); count != 0; count = in.Block() {
		for ; count > 0 && in.Err() == nil; count-- {
			name, _ := in.Text(items)
			if i, known := c.featureIndex[string(name)]; known {
				s.Missing = append(s.Missing, i)
			}
		}
	}
}

func (c *Codec) bestChange(in *input, n *avro.Node, s *ChurnScore) {
	if n = in.Branch(n); n.Kind == avro.Null {
		return
	}
	if n = in.Record(n); n == nil {
		return
	}
	var name, text []byte
	for i := range n.Fields {
		f := &n.Fields[i]
		switch f.Position {
		case changeFeature:
			name, _ = in.Text(f.Node)
		case changeValue:
			text, _ = in.Text(f.Node)
		case changeProbability:
			s.BestChange.Probability, _ = in.Number(f.Node)
		default:
			in.Skip(f.Node.Writer)
		}
		if in.Err() != nil {
			in.at(n, i)
			return
		}
	}
	feature, known := c.featureIndex[string(name)]
	if text = trim(text); !known || len(text) == 0 {
		s.BestChange = BestChange{}
		return
	}
	value, reason, problem := c.set.parseBytes(feature, text, &s.Levels)
	if problem != "" {
		in.fail(reason, "value %s", problem)
		return
	}
	s.HasBestChange = true
	s.BestChange.Feature, s.BestChange.Value = feature, value
}
