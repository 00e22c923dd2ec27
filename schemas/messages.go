package schemas

import "github.com/churnstream/churnstream/scoring"

// Topics, and the suffix that makes a topic's subject in the registry.
const (
	TopicEvents      = "churn.customer-events"
	TopicScores      = "churn.scores"
	TopicOutcomes    = "churn.outcomes"
	TopicModels      = "churn.models"
	TopicDeadLetters = "churn.dead-letters"

	subjectSuffix = "-value"
)

// Header keys that carry the source position of a score, in decimal digits, also
// on the tombstone of an erased customer, which has no value to carry it.
const (
	HeaderSourcePartition = "source-partition"
	HeaderSourceOffset    = "source-offset"
)

// HeaderProgress is the key of the header that holds what a marker of progress
// says, framed as a value is; see ProgressKey.
const HeaderProgress = "progress"

// Times in messages are milliseconds since 1970 UTC, as on the wire.

// CustomerEvent says what happened to a customer. Byte slices of a decoded
// event point into the decoded record.
type CustomerEvent struct {
	EventID    []byte
	CustomerID []byte
	OccurredAt int64
	// Changes holds new values; a missing one leaves the attribute unchanged.
	Changes scoring.Vector
	// Increments holds amounts to add to numeric attributes; missing adds
	// nothing.
	Increments scoring.Vector
	Source     []byte
	// Levels are those in Changes without a number in the vocabulary.
	Levels scoring.Levels
}

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
	Risk                Risk
	ExpectedProbability float64
	Explanations        []Explanation
	// Missing lists the positions of features whose value was missing or
	// unknown to the model.
	Missing    []int
	Attributes scoring.Vector
	// AttributeAges is empty when all attributes were set by this event.
	AttributeAges   []int64
	RecentEvents    []int64
	SourcePartition int32
	SourceOffset    int64
	// HasBestChange reports whether BestChange is set.
	HasBestChange bool
	BestChange    BestChange
	// AsOf is the moment the score speaks of: the latest OccurredAt of the
	// customer's events so far, or the later moment that time has brought. A
	// score written before there was this field is decoded with its
	// OccurredAt.
	AsOf    int64
	Trigger Trigger
	// Levels are those in Attributes, and in BestChange, without a number in
	// the vocabulary.
	Levels scoring.Levels
}

// ChurnOutcome says what became of a customer: the label.
type ChurnOutcome struct {
	CustomerID string
	Churned    bool
	ObservedAt int64
	// Attributes is nil unless the sender knows them.
	Attributes scoring.Vector
	Source     string
	// Levels are those in Attributes without a number in the vocabulary.
	Levels scoring.Levels
}

// Stage is where a model version stands.
type Stage uint8

// The symbols of the Stage enum, in its order.
const (
	StageChallenger Stage = iota
	StageChampion
	StageRetired
)

// String returns the enum's symbol.
func (s Stage) String() string {
	switch s {
	case StageChampion:
		return "CHAMPION"
	case StageRetired:
		return "RETIRED"
	}
	return "CHALLENGER"
}

// BaselineDistribution is how a feature, or the score, was distributed at
// training.
type BaselineDistribution struct {
	Name        string
	Bins        []string
	Frequencies []float64
}

// HoldoutMetrics are a model's figures on rows it was not trained on.
type HoldoutMetrics = scoring.Metrics

// MaxModelVersion is the greatest number of a model version: the greatest that
// JSON gives to all its readers as it is.
const MaxModelVersion = 1<<53 - 1

// ModelVersion is a trained model and how it came to be.
type ModelVersion struct {
	Version            int64
	CreatedAt          int64
	Stage              Stage
	Reason             string
	Payload            string
	SHA256             string
	Metrics            HoldoutMetrics
	ChampionMetrics    *HoldoutMetrics
	TrainingStart      int64
	TrainingEnd        int64
	TrainingRows       int64
	LabelsSeen         int64
	FeatureFingerprint string
	MediumThreshold    float64
	HighThreshold      float64
	Baseline           []BaselineDistribution
}

// Risk measures a probability against the version's thresholds.
func (v *ModelVersion) Risk(probability float64) Risk {
	return scoring.Thresholds{Medium: v.MediumThreshold, High: v.HighThreshold}.Risk(probability)
}

// Header is a record header.
type Header struct {
	Key   string
	Value []byte
}

// DeadLetter is a record that could not be processed, with the reason.
type DeadLetter struct {
	Reason    Reason
	Detail    string
	Topic     string
	Partition int32
	Offset    int64
	Timestamp int64
	Key       []byte // nil if the record had none
	Value     []byte // nil if the record had none
	Headers   []Header
	FailedAt  int64
	FailedBy  string
}

// Progress is how far a partition of events is processed, and what became of
// its offsets from Since up to before Next. It is in the header of a marker under
// ProgressKey among the scores.
type Progress struct {
	// Group is the consumer group of the scorer.
	Group string
	// EventsTopicID and ScoresTopicID are the topics' ids, as the String method
	// of kafka's TopicID has them.
	EventsTopicID, ScoresTopicID string
	Partition                    int32
	Since, Next                  int64
	// LeaderEpoch is that of the last event before Next, −1 if there is none.
	LeaderEpoch int32
	Sums
	// Writers are the owners of the partition of scores so far, in the order of
	// their first records.
	Writers []Writer
}

// Sums count the offsets of a partition of events by what became of them.
type Sums struct {
	// Scored, Duplicates, DeadLetters and Erasures are records.
	Scored, Duplicates, DeadLetters, Erasures int64
	// NoRecord are offsets that hold no record of their own.
	NoRecord int64
}

// Total is the number of offsets.
func (s Sums) Total() int64 {
	return s.Scored + s.Duplicates + s.DeadLetters + s.Erasures + s.NoRecord
}

// Unaccounted is how many offsets the sums leave out; it is zero unless
// something is wrong.
func (p *Progress) Unaccounted() int64 { return p.Next - p.Since - p.Total() }

// Writer is an owner of a partition of scores: the producer id it wrote under,
// and the offset from which on.
type Writer struct{ ProducerID, Since int64 }

// Reason is the kind of failure that made a record a dead letter.
type Reason string

// The reasons. They are values of a metric label too, hence few.
const (
	ReasonBadFrame      Reason = "bad_frame"
	ReasonUnknownSchema Reason = "unknown_schema"
	ReasonUndecodable   Reason = "undecodable"
	ReasonInvalidValue  Reason = "invalid_value"
	ReasonNoCustomerID  Reason = "missing_customer_id"
	ReasonKeyMismatch   Reason = "key_mismatch"
	ReasonTooLarge      Reason = "too_large"
	ReasonTooManyLevels Reason = "too_many_levels"
	ReasonUnprocessable Reason = "unprocessable"
	ReasonAheadOfClock  Reason = "ahead_of_clock"
	ReasonForeign       Reason = "foreign"
)
