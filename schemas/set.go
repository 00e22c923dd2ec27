package schemas

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/churnstream/churnstream/schemas/avro"
	"github.com/churnstream/churnstream/scoring"
)

//go:embed customer_event.avsc
var customerEventSchema []byte

//go:embed churn_score.avsc
var churnScoreSchema []byte

//go:embed churn_outcome.avsc
var churnOutcomeSchema []byte

//go:embed churn_examples.avsc
var churnExamplesSchema []byte

//go:embed model_version.avsc
var modelVersionSchema []byte

//go:embed dead_letter.avsc
var deadLetterSchema []byte

//go:embed scorer_progress.avsc
var progressSchema []byte

//go:embed labeler_progress.avsc
var labelerProgressSchema []byte

// ErrSchema is matched by every error about a schema given to Parse or
// FromFile.
var ErrSchema = errors.New("customer schema")

// maxSchemaFile bounds the size of a schema file in bytes.
const maxSchemaFile = 4 << 20

// Set is the schemas for one company's customer attributes, with the
// feature specification that they carry. It is safe for concurrent use.
type Set struct {
	spec       *scoring.Spec
	vocabulary *scoring.Vocabulary
	columns    []column
	numeric    []int // features of CustomerIncrements' fields
	messages   [messageKinds]message
}

// message is one schema of a Set.
type message struct {
	text string
	typ  *avro.Type
}

// messageKind numbers the messages.
type messageKind uint8

const (
	eventMessage messageKind = iota
	scoreMessage
	outcomeMessage
	examplesMessage
	modelMessage
	deadLetterMessage
	progressMessage
	labelerProgressMessage
	messageKinds
)

// These stand for a topic of the messages that are not alone in theirs.
const (
	progressName        = TopicScores + "-progress"
	labelerProgressName = TopicExamples + "-progress"
)

var messageTopics = [messageKinds]string{
	TopicEvents, TopicScores, TopicOutcomes, TopicExamples, TopicModels, TopicDeadLetters, progressName, labelerProgressName,
}

// column is how a feature stands in the CustomerAttributes record: a union of
// null and one other type.
type column struct {
	typ *avro.Type // the other type
	// null and value are the branches' positions, encoded.
	null, value byte
	categorical bool
}

var telco = sync.OnceValue(func() *Set {
	s, err := Parse(customerEventSchema)
	if err != nil {
		panic(fmt.Sprintf("schemas: the shipped schema: %v", err))
	}
	return s
})

// Telco returns the shipped schemas. Every call returns the same Set.
func Telco() *Set { return telco() }

// FromFile is Parse on the contents of a file.
func FromFile(path string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	defer f.Close()
	avsc, err := io.ReadAll(io.LimitReader(f, maxSchemaFile+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", ErrSchema, path, err)
	}
	if len(avsc) > maxSchemaFile {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", ErrSchema, path, maxSchemaFile)
	}
	s, err := Parse(avsc)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Parse returns the schemas for a company's customer attributes. avsc is
// either the record of the attributes itself, or a whole event whose field
// "changes" has that record as its type. The record's fields are the features,
// in their order; each must be a union of null and one of
//
//   - double, float, long or int, read as a numeric feature;
//   - string or enum, read as a categorical feature;
//   - long or int with kind "categorical" in the field's "feature" property.
//
// A field's default, where given, must be null. The property "feature" is an
// object with any of "kind" ("numeric" or "categorical"), "label", "unit" and
// "actionable" (false by default).
//
// Numbers are held as float64 whatever the type; those of an int, long or
// float attribute are written as the nearest value that the type holds.
//
// Errors match ErrSchema and name the field.
func Parse(avsc []byte) (*Set, error) {
	s, err := parseSet(avsc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSchema, err)
	}
	return s, nil
}

func parseSet(avsc []byte) (*Set, error) {
	record, err := attributesRecord(avsc)
	if err != nil {
		return nil, err
	}
	typ, err := avro.Parse(record, featureProperty)
	if err != nil {
		return nil, err
	}
	s := &Set{}
	features := make([]scoring.Feature, len(typ.Fields))
	for i := range typ.Fields {
		feature, col, err := parseFeature(&typ.Fields[i])
		if err != nil {
			return nil, fmt.Errorf("field %s: %w", typ.Fields[i].Name, err)
		}
		features[i] = feature
		s.columns = append(s.columns, col)
	}
	if s.spec, err = scoring.NewSpec(features); err != nil {
		return nil, err
	}
	for i := range s.columns {
		if !s.columns[i].categorical {
			s.numeric = append(s.numeric, i)
		}
	}
	s.vocabulary = scoring.NewVocabulary(s.spec)
	for i, c := range s.columns {
		// An enum's symbols are known beforehand and in their order, so that
		// the vocabulary's number of a level is its position in the enum.
		for position, symbol := range c.typ.Symbols {
			code, err := s.vocabulary.CodeString(i, symbol)
			if err != nil {
				return nil, err
			}
			if code != float64(position) {
				return nil, fmt.Errorf("field %s: symbol %s is numbered %v, not %d",
					features[i].Name, symbol, code, position)
			}
		}
	}
	return s, s.derive(record)
}

// featureProperty is the property of a field that says what feature it is.
const featureProperty = "feature"

// parseFeature reads a field of the attributes record as a feature.
func parseFeature(f *avro.Field) (scoring.Feature, column, error) {
	feature := scoring.Feature{Name: f.Name}
	var c column
	branches := f.Type.Branches
	if f.Type.Kind != avro.Union || len(branches) != 2 || !f.Type.Nullable() {
		return feature, c, errors.New(`its type must be a union of null and one other type, such as ["null", "double"]`)
	}
	c.typ, c.value = branches[1], 2
	if branches[1].Kind == avro.Null {
		c.typ, c.null, c.value = branches[0], 2, 0
	}
	if f.Default != nil && string(f.Default) != "null" {
		return feature, c, errors.New("its default must be null: a change that does not mention an attribute leaves it as it is")
	}
	var property struct {
		Kind       string `json:"kind"`
		Label      string `json:"label"`
		Unit       string `json:"unit"`
		Actionable bool   `json:"actionable"`
	}
	if text := f.Properties[featureProperty]; text != nil {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&property); err != nil {
			return feature, c, fmt.Errorf("property feature: %w", err)
		}
	}
	feature.Label, feature.Unit, feature.Actionable = property.Label, property.Unit, property.Actionable
	var numeric, categorical bool // what the type can be, the default first
	switch c.typ.Kind {
	case avro.Double, avro.Float:
		numeric = true
	case avro.Long, avro.Int:
		numeric, categorical = true, true
	case avro.String, avro.Enum:
		categorical = true
	default:
		return feature, c, fmt.Errorf("type %s cannot be a feature: use string, enum, double, float, long or int", c.typ.Kind)
	}
	switch property.Kind {
	case "":
		c.categorical = !numeric
	case "numeric":
		if !numeric {
			return feature, c, fmt.Errorf("type %s cannot be numeric", c.typ.Kind)
		}
	case "categorical":
		if !categorical {
			return feature, c, fmt.Errorf("type %s cannot be categorical", c.typ.Kind)
		}
		c.categorical = true
	default:
		return feature, c, fmt.Errorf(`property feature: kind %q is neither "numeric" nor "categorical"`, property.Kind)
	}
	if c.categorical {
		feature.Kind = scoring.Categorical
		if n := len(c.typ.Symbols); n > scoring.MaxLevels {
			return feature, c, fmt.Errorf("its enum has %d symbols, at most %d are allowed", n, scoring.MaxLevels)
		}
		for _, s := range c.typ.Symbols {
			if len(s) > scoring.MaxLevelBytes {
				return feature, c, fmt.Errorf("symbol %.40s… is longer than %d bytes", s, scoring.MaxLevelBytes)
			}
		}
	}
	return feature, c, nil
}

// Spec returns the feature specification.
func (s *Set) Spec() *scoring.Spec { return s.spec }

// Vocabulary returns the vocabulary of the vectors that the Set and its Codecs
// deal in.
func (s *Set) Vocabulary() *scoring.Vocabulary { return s.vocabulary }

// Schema returns the schema that is written to a topic, as JSON; "" for a
// topic that is none of ours.
func (s *Set) Schema(topic string) string {
	for k, t := range messageTopics {
		if t == topic {
			return s.messages[k].text
		}
	}
	return ""
}

// Subject returns the registry's name for the schemas of a topic's values.
func Subject(topic string) string { return topic + subjectSuffix }
