package schemas

import (
	"github.com/churnstream/churnstream/scoring"
	"github.com/churnstream/churnstream/scoring/drift"
	"github.com/churnstream/churnstream/scoring/evaluation"
)

// Topics, and the suffix that makes a topic's subject in the registry.
const (
	TopicEvents      = "churn.customer-events"
	TopicScores      = "churn.scores"
	TopicOutcomes    = "churn.outcomes"
	TopicExamples    = "churn.examples"
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

// CustomerExamples are the labelled examples of a customer, which replace those
// of an earlier record. Byte slices of decoded examples point into the decoded
// record.
type CustomerExamples struct {
	CustomerID []byte
	// Examples are in the ascending order of ObservedAt.
	Examples []LabelledExample
	// Levels are those in the examples' Attributes without a number in the
	// vocabulary.
	Levels scoring.Levels
}

// LabelledExample is what was known of a customer at a decision, and what came
// of it. The customer and ObservedAt identify it.
type LabelledExample struct {
	// AsOf is the moment that Attributes and Probability speak of.
	AsOf int64
	// ObservedAt is when the customer left; of one who has not, the moment up to
	// which that is known. The decision was at ObservedAt − Horizon.
	ObservedAt int64
	// LabelledAt is when the outcome that gave the label was written.
	LabelledAt int64
	// Horizon is the time, in milliseconds, within which the customer left or not.
	Horizon int64
	Churned bool
	// Corrections is how often a later outcome changed the label.
	Corrections int64
	// ModelVersion and Probability are those of the score in force at the
	// decision. Without one, as when the outcome carried attributes of its own,
	// they are 0 and Missing, and the source position is −1, −1.
	ModelVersion    int64
	Probability     float64
	SourcePartition int32
	SourceOffset    int64
	Attributes      scoring.Vector
}

// Scored reports whether there was a score in force at the decision.
func (e *LabelledExample) Scored() bool { return e.ModelVersion > 0 }

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

// BaselineDistribution is how a feature, or the score, was distributed when a model
// was trained.
type BaselineDistribution = drift.Distribution

// HoldoutMetrics are a model's figures on rows it was not trained on. Churners is 0,
// and average precision, skill and intervals are missing, in what was written before
// there were any.
type HoldoutMetrics = evaluation.Metrics

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
	// Horizon is what is predicted: leaving within this time, in milliseconds; 0
	// where it is not known.
	Horizon int64
	// LabelsUntil is the greatest LabelledAt of the examples there were.
	LabelsUntil int64
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
	// OriginalBytes is how many bytes key, value and headers of the record had,
	// if they are not all here, and ValueSHA256 the hash of its value in
	// hexadecimal; else 0 and empty.
	OriginalBytes int64
	ValueSHA256   string
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
	// Customers is how many had a state among the scores then, 0 also if they were
	// not counted.
	Customers int64
	// Partitions is the number of partitions by which customers have their home
	// here or elsewhere, 0 if it is not known. Former are the numbers there were
	// before, ascending.
	Partitions int32
	Former     []int64
	// Moving is set while customers who move here have still to be taken over.
	Moving bool
	// Origins are the partitions from which events were forwarded to this one.
	Origins []Origin
}

// Origin is a partition from which events are forwarded, and the offset there up
// to which they have had their effect.
type Origin struct {
	Partition int32
	Next      int64
}

// Sums count the offsets of a partition of events by what became of them.
type Sums struct {
	// Scored, Duplicates, DeadLetters and Erasures are records.
	Scored, Duplicates, DeadLetters, Erasures int64
	// NoRecord are offsets that hold no record of their own.
	NoRecord int64
	// Forwarded are records of customers who have moved to another partition.
	Forwarded int64
}

// Total is the number of offsets.
func (s Sums) Total() int64 {
	return s.Scored + s.Duplicates + s.DeadLetters + s.Erasures + s.NoRecord + s.Forwarded
}

// Unaccounted is how many offsets the sums leave out; it is zero unless
// something is wrong.
func (p *Progress) Unaccounted() int64 { return p.Next - p.Since - p.Total() }

// Writer is an owner of a partition of scores: the producer id it wrote under,
// and the offset from which on.
type Writer struct{ ProducerID, Since int64 }

// LabelerProgress is how far the outcomes of the customers of a partition of
// examples are settled, and what became of them. It is in the header of a marker
// under ProgressKey among the examples.
type LabelerProgress struct {
	// Group is the consumer group of the labeler.
	Group string
	// ExamplesTopicID and OutcomesTopicID are the topics' ids, as the String method
	// of kafka's TopicID has them.
	ExamplesTopicID, OutcomesTopicID string
	// Partition is that of the examples, of so many Partitions.
	Partition, Partitions int32
	// Positions are those in the partitions of the outcomes.
	Positions []OutcomesPosition
	// Sums count the outcomes that are settled.
	Sums []OutcomeSum
	// Writers are the owners of the partition of examples so far, in the order of
	// their first records.
	Writers []Writer
	// Horizon is that of the labels, in milliseconds; 0 also where the marker does not say.
	Horizon int64
}

// OutcomesPosition is how far a partition of outcomes has been read.
type OutcomesPosition struct {
	Partition int32
	// Next is the offset of the next outcome to be read; what is before it is
	// settled, but for the offsets in Waiting, which are ascending.
	Next    int64
	Waiting []int64
}

// OutcomeSum counts outcomes of a label by what became of them.
type OutcomeSum struct {
	Result   string
	Churned  bool
	Outcomes int64
}

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
