package intake_test

import (
	"math"
	"strconv"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
	"github.com/churnstream/churnstream/scoring"
)

// What outcomes nobody believes, by whatever role they are read.
func TestOutcomes(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	in := intake.New(intake.Config{})
	written := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		key, customer string
		at            time.Time
		skew          time.Duration
		written       time.Time
		tombstone     bool
		poison        schemas.Reason
	}{
		"now":                          {key: "ann", customer: "ann", at: written},
		"a day ahead":                  {key: "ann", customer: "ann", at: written.Add(24 * time.Hour)},
		"more than a day ahead":        {key: "ann", customer: "ann", at: written.Add(24*time.Hour + time.Millisecond), poison: schemas.ReasonAheadOfClock},
		"no end":                       {key: "ann", customer: "ann", at: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), poison: schemas.ReasonAheadOfClock},
		"no beginning":                 {key: "ann", customer: "ann", at: time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC)},
		"seconds for milliseconds":     {key: "ann", customer: "ann", at: time.UnixMilli(written.Unix())},
		"microseconds for them":        {key: "ann", customer: "ann", at: time.UnixMilli(written.UnixMilli() * 10), poison: schemas.ReasonAheadOfClock},
		"a skew that is allowed":       {key: "ann", customer: "ann", at: written.Add(time.Hour), skew: time.Hour},
		"one that is not":              {key: "ann", customer: "ann", at: written.Add(time.Hour + time.Second), skew: time.Hour, poison: schemas.ReasonAheadOfClock},
		"a record without a time":      {key: "ann", customer: "ann", at: written, written: time.UnixMilli(-1)},
		"a record at the end of time":  {key: "ann", customer: "ann", at: written, written: time.UnixMilli(math.MaxInt64)},
		"a record of 1970":             {key: "ann", customer: "ann", at: written, written: time.UnixMilli(1), poison: schemas.ReasonAheadOfClock},
		"another customer's key":       {key: "bob", customer: "ann", at: written, poison: schemas.ReasonKeyMismatch},
		"a reserved id":                {key: "\x00ann", customer: "\x00ann", at: written, poison: schemas.ReasonInvalidValue},
		"an erasure":                   {key: "ann", tombstone: true},
		"an erasure of nobody":         {tombstone: true, poison: schemas.ReasonNoCustomerID},
		"an erasure of a reserved key": {key: "\x00ann", tombstone: true, poison: schemas.ReasonInvalidValue},
	} {
		t.Run(name, func(t *testing.T) {
			r := kafka.Record{Topic: schemas.TopicOutcomes, Key: []byte(c.key), Time: written}
			if !c.written.IsZero() {
				r.Time = c.written
			}
			if !c.tombstone {
				r.Value = writer.AppendOutcome(nil, &schemas.ChurnOutcome{CustomerID: c.customer, ObservedAt: c.at.UnixMilli()})
			}
			codec.MaxClockSkew = c.skew
			kind, err := intake.NewReader(in, intake.Outcomes(codec)).Read(t.Context(), &r)
			expectPoison(t, kind, err, c.poison)
		})
	}
}

// What in churn.scores no role takes for a scorer's.
func TestScores(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	in := intake.New(intake.Config{})
	position := func(partition, offset string) []kafka.Header {
		return []kafka.Header{{Key: "other", Value: []byte("x")}, {Key: schemas.HeaderSourcePartition, Value: []byte(partition)},
			{Key: schemas.HeaderSourceOffset, Value: []byte(offset)}}
	}
	for name, c := range map[string]struct {
		headers []kafka.Header
		poison  schemas.Reason
	}{
		"a scorer's":               {headers: position("2", "1099511627776")},
		"of another partition":     {headers: position("7", "0")},
		"no headers":               {poison: schemas.ReasonForeign},
		"a partition alone":        {headers: position("2", "0")[:2], poison: schemas.ReasonForeign},
		"an offset alone":          {headers: position("2", "0")[2:], poison: schemas.ReasonForeign},
		"below zero":               {headers: position("2", "-1"), poison: schemas.ReasonForeign},
		"not a number":             {headers: position("2", "3x"), poison: schemas.ReasonForeign},
		"no such partition":        {headers: position("4294967298", "3"), poison: schemas.ReasonForeign},
		"an offset no log reaches": {headers: position("2", strconv.Itoa(math.MaxInt64)), poison: schemas.ReasonForeign},
		"too large an offset":      {headers: position("2", "9223372036854775808"), poison: schemas.ReasonForeign},
	} {
		r := kafka.Record{Topic: schemas.TopicScores, Partition: 2, Key: []byte("ann"), Headers: c.headers}
		kind, err := intake.NewReader(in, intake.Scores(codec, nil)).Read(t.Context(), &r)
		t.Run("a tombstone, "+name, func(t *testing.T) { expectPoison(t, kind, err, c.poison) })
	}
	for name, c := range map[string]struct {
		change func(*schemas.ChurnScore)
		poison schemas.Reason
	}{
		"a scorer's":             {change: func(*schemas.ChurnScore) {}},
		"certain":                {change: func(s *schemas.ChurnScore) { s.Probability = 1 }},
		"more than certain":      {change: func(s *schemas.ChurnScore) { s.Probability = 1.5 }, poison: schemas.ReasonForeign},
		"no model":               {change: func(s *schemas.ChurnScore) { s.ModelVersion = 0 }, poison: schemas.ReasonForeign},
		"the last model":         {change: func(s *schemas.ChurnScore) { s.ModelVersion = schemas.MaxModelVersion }},
		"a model no feed has":    {change: func(s *schemas.ChurnScore) { s.ModelVersion = math.MaxInt64 }, poison: schemas.ReasonForeign},
		"before the log":         {change: func(s *schemas.ChurnScore) { s.SourceOffset = -1 }, poison: schemas.ReasonForeign},
		"of no partition":        {change: func(s *schemas.ChurnScore) { s.SourcePartition = -1 }, poison: schemas.ReasonForeign},
		"another customer's key": {change: func(s *schemas.ChurnScore) { s.CustomerID = []byte("bob") }, poison: schemas.ReasonKeyMismatch},
	} {
		s := writer.NewScore()
		s.CustomerID, s.ModelVersion, s.Probability = []byte("ann"), 1, 0.5
		c.change(s)
		r := kafka.Record{Topic: schemas.TopicScores, Partition: 2, Key: []byte("ann"), Value: writer.AppendScore(nil, s)}
		kind, err := intake.NewReader(in, intake.Scores(codec, nil)).Read(t.Context(), &r)
		t.Run("a score, "+name, func(t *testing.T) { expectPoison(t, kind, err, c.poison) })
	}
}

// What in churn.examples no role takes for a labeler's.
func TestExamples(t *testing.T) {
	writer, codec := newCodecs(t, registrytest.New())
	in := intake.New(intake.Config{})
	for name, c := range map[string]struct {
		change func(*schemas.CustomerExamples)
		poison schemas.Reason
	}{
		"a labeler's": {change: func(*schemas.CustomerExamples) {}},
		"none":        {change: func(m *schemas.CustomerExamples) { m.Examples = nil }},
		"without a score": {change: func(m *schemas.CustomerExamples) {
			m.Examples[1].ModelVersion, m.Examples[1].Probability = 0, scoring.Missing
		}},
		"a score of no model":    {change: func(m *schemas.CustomerExamples) { m.Examples[1].ModelVersion = 0 }, poison: schemas.ReasonForeign},
		"no score of a model":    {change: func(m *schemas.CustomerExamples) { m.Examples[1].Probability = scoring.Missing }, poison: schemas.ReasonForeign},
		"more than certain":      {change: func(m *schemas.CustomerExamples) { m.Examples[1].Probability = 1.5 }, poison: schemas.ReasonForeign},
		"a model below zero":     {change: func(m *schemas.CustomerExamples) { m.Examples[1].ModelVersion = -1 }, poison: schemas.ReasonForeign},
		"a model no feed has":    {change: func(m *schemas.CustomerExamples) { m.Examples[1].ModelVersion = math.MaxInt64 }, poison: schemas.ReasonForeign},
		"twice the same":         {change: func(m *schemas.CustomerExamples) { m.Examples[1].ObservedAt = 10 }, poison: schemas.ReasonForeign},
		"out of order":           {change: func(m *schemas.CustomerExamples) { m.Examples[1].ObservedAt = 9 }, poison: schemas.ReasonForeign},
		"a horizon of before":    {change: func(m *schemas.CustomerExamples) { m.Examples[0].Horizon = -1 }, poison: schemas.ReasonForeign},
		"another customer's key": {change: func(m *schemas.CustomerExamples) { m.CustomerID = []byte("bob") }, poison: schemas.ReasonKeyMismatch},
	} {
		x := scoring.NewVector(codec.Set().Spec().Len())
		m := &schemas.CustomerExamples{CustomerID: []byte("ann"), Examples: []schemas.LabelledExample{
			{ObservedAt: 10, Horizon: 5, ModelVersion: 1, Probability: 0.5, Attributes: x},
			{ObservedAt: 20, Horizon: 5, ModelVersion: 1, Probability: 0.5, Attributes: x},
		}}
		c.change(m)
		r := kafka.Record{Topic: schemas.TopicExamples, Key: []byte("ann"), Value: writer.AppendExamples(nil, m)}
		kind, err := intake.NewReader(in, intake.Examples(codec)).Read(t.Context(), &r)
		t.Run(name, func(t *testing.T) { expectPoison(t, kind, err, c.poison) })
	}
}

func expectPoison(t *testing.T, kind intake.Kind, err error, want schemas.Reason) {
	t.Helper()
	why, poison := schemas.AsPoison(err)
	switch {
	case want == "" && (err != nil || kind == intake.Nothing):
		t.Errorf("kind %d, error %v", kind, err)
	case want != "" && (!poison || why.Reason != want):
		t.Errorf("kind %d, error %v, want reason %s", kind, err, want)
	}
}
