package intake

import (
	"fmt"
	"math"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// Events returns how churn.customer-events is read: whatever upstream writes is
// an event, an erasure, or poison.
func Events(codec *schemas.Codec) Topic[schemas.CustomerEvent] {
	return Topic[schemas.CustomerEvent]{
		Decode: codec.DecodeEvent, New: codec.NewEvent, Keys: codec.Keys, Reserved: true,
		Check: func(r *kafka.Record, e *schemas.CustomerEvent) *schemas.PoisonError {
			if e == nil {
				return checkErasure(CustomerID(codec.Keys, r))
			}
			if why := checkCustomer(codec.Keys, r, e.CustomerID); why != nil {
				return why
			}
			return codec.CheckClock("occurred_at", e.OccurredAt, r.Time.UnixMilli())
		},
	}
}

// Outcomes returns how churn.outcomes is read, by every role alike, so that none
// believes what is a dead letter to another.
func Outcomes(codec *schemas.Codec) Topic[schemas.ChurnOutcome] {
	return Topic[schemas.ChurnOutcome]{
		Decode: codec.DecodeOutcome, Keys: codec.Keys, Reserved: true,
		Check: func(r *kafka.Record, o *schemas.ChurnOutcome) *schemas.PoisonError {
			if o == nil {
				return checkErasure(CustomerID(codec.Keys, r))
			}
			if why := checkCustomer(codec.Keys, r, o.CustomerID); why != nil {
				return why
			}
			return codec.CheckClock("observed_at", o.ObservedAt, r.Time.UnixMilli())
		},
	}
}

// Scores returns how churn.scores is read by every role but the scorer, alike.
// What cannot be a scorer's is poison: what owners, which may be nil, say is not
// theirs, a tombstone without the source position that the scorer's have, or a
// score with figures that no scorer gives.
func Scores(codec *schemas.Codec, owners *Owners) Topic[schemas.ChurnScore] {
	return Topic[schemas.ChurnScore]{
		Decode: codec.DecodeScore, New: codec.NewScore, Owners: owners,
		Check: func(r *kafka.Record, s *schemas.ChurnScore) *schemas.PoisonError {
			if s == nil {
				if why := checkErasure(r.Key); why != nil {
					return why
				}
				if _, _, ok := SourcePosition(r); !ok {
					return foreign("a tombstone without the source position that a scorer's has")
				}
				return nil
			}
			switch {
			case s.SourcePartition < 0 || s.SourceOffset < 0:
				return foreign("source position %d, %d", s.SourcePartition, s.SourceOffset)
			case !(s.Probability >= 0 && s.Probability <= 1):
				return foreign("probability %g", s.Probability)
			case s.ModelVersion < 1 || s.ModelVersion > schemas.MaxModelVersion:
				return foreign("model version %d, not from 1 to %d", s.ModelVersion, schemas.MaxModelVersion)
			}
			return CheckKey(schemas.KeyPlain, r, s.CustomerID)
		},
	}
}

// Examples returns how churn.examples is read by every role. What cannot be a
// labeler's is poison: a record under another customer's key, figures that no
// labeler gives, examples out of order, or two of one identity.
func Examples(codec *schemas.Codec) Topic[schemas.CustomerExamples] {
	return Topic[schemas.CustomerExamples]{
		Decode: codec.DecodeExamples,
		Check: func(r *kafka.Record, m *schemas.CustomerExamples) *schemas.PoisonError {
			if m == nil {
				return checkErasure(r.Key)
			}
			for i := range m.Examples {
				e := &m.Examples[i]
				switch {
				case i > 0 && e.ObservedAt <= m.Examples[i-1].ObservedAt:
					return foreign("example %d is not observed after the one before it", i)
				case e.Horizon < 0 || e.Corrections < 0:
					return foreign("horizon %d, %d corrections", e.Horizon, e.Corrections)
				case e.ModelVersion < 0 || e.ModelVersion > schemas.MaxModelVersion:
					return foreign("model version %d, not from 1 to %d", e.ModelVersion, schemas.MaxModelVersion)
				case e.Scored() == scoring.IsMissing(e.Probability):
					return foreign("model version %d with probability %g", e.ModelVersion, e.Probability)
				case e.Scored() && !(e.Probability >= 0 && e.Probability <= 1):
					return foreign("probability %g", e.Probability)
				}
			}
			return CheckKey(schemas.KeyPlain, r, m.CustomerID)
		},
	}
}

// SourcePosition returns the position of the event that a record of churn.scores
// rests on, from its headers; ok is false where they give none.
func SourcePosition(r *kafka.Record) (partition int32, offset int64, ok bool) {
	p, ok1 := r.HeaderNumber(schemas.HeaderSourcePartition)
	offset, ok2 := r.HeaderNumber(schemas.HeaderSourceOffset)
	if !ok1 || !ok2 || p > math.MaxInt32 || offset == math.MaxInt64 {
		return 0, 0, false
	}
	return int32(p), offset, true
}

func foreign(format string, args ...any) *schemas.PoisonError {
	return &schemas.PoisonError{Reason: schemas.ReasonForeign, Detail: fmt.Sprintf(format, args...)}
}

// checkErasure checks the key of a record without a value, which names the
// customer to forget.
func checkErasure(key []byte) *schemas.PoisonError {
	switch {
	case len(key) == 0:
		return &schemas.PoisonError{Reason: schemas.ReasonNoCustomerID, Detail: "neither a value nor a key"}
	case schemas.IsReservedKey(key):
		return &schemas.PoisonError{Reason: schemas.ReasonInvalidValue, Detail: "no value, and a key that starts with a zero byte"}
	case len(key) > schemas.MaxIDBytes:
		return &schemas.PoisonError{Reason: schemas.ReasonTooLarge,
			Detail: fmt.Sprintf("no value, and a key of %d bytes, at most %d are allowed", len(key), schemas.MaxIDBytes)}
	}
	return nil
}

// checkCustomer checks the customer of a message that others send.
func checkCustomer[ID ~string | ~[]byte](keys schemas.KeyFormat, r *kafka.Record, id ID) *schemas.PoisonError {
	if len(id) > 0 && id[0] == 0 {
		return &schemas.PoisonError{Reason: schemas.ReasonInvalidValue, Detail: "customer_id starts with a zero byte"}
	}
	return CheckKey(keys, r, id)
}
