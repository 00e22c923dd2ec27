package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

//go:embed data/telco_customer_churn.csv.gz
var telcoTable []byte

// ErrTable is matched by every error about a table's contents.
var ErrTable = errors.New("customer table")

// Columns names the columns of a table that are no features.
type Columns struct {
	// ID is the column of the customer's identity.
	ID string
	// Label is the column that says whether the customer left.
	Label string
	// Positive is the label's text for a customer who left. Labels may have
	// one other text besides.
	Positive string
	// Source is what the examples give as their source.
	Source string
}

// Load returns the embedded table, 7,043 labelled customers in table order. It
// fails, matching ErrTable, when a feature of the set is not among the table's
// columns: only the shipped schema, or a part of it, can be replayed from it.
func Load(set *schemas.Set) ([]schemas.ChurnOutcome, error) {
	table, err := gzip.NewReader(bytes.NewReader(telcoTable))
	if err != nil {
		return nil, fmt.Errorf("reading the embedded table: %w", err)
	}
	examples, err := LoadCSV(set, table, Columns{ID: "customerID", Label: "Churn", Positive: "Yes", Source: "telco"})
	if err != nil {
		return nil, fmt.Errorf("reading the embedded table: %w", err)
	}
	return examples, nil
}

// LoadCSV reads a table of labelled customers: comma-separated values after a
// line of column names. Every feature of the set needs the column of its name;
// further columns are ignored. An empty cell is a missing attribute. The
// examples' ObservedAt is 0, for a table has no dates.
//
// Errors about the contents match ErrTable and name line, column or feature.
func LoadCSV(set *schemas.Set, r io.Reader, columns Columns) ([]schemas.ChurnOutcome, error) {
	buffered := bufio.NewReader(r)
	if mark, _ := buffered.Peek(3); string(mark) == "\ufeff" { // spreadsheets put a byte order mark first
		_, _ = buffered.Discard(3)
	}
	rows := csv.NewReader(buffered)
	rows.ReuseRecord = true
	header, err := rows.Read()
	if err == io.EOF {
		return nil, fmt.Errorf("%w: it is empty", ErrTable)
	}
	if err != nil {
		return nil, tableError(err)
	}
	position := make(map[string]int, len(header))
	for i, name := range header {
		if _, twice := position[name]; twice {
			return nil, fmt.Errorf("%w: column %q occurs twice", ErrTable, name)
		}
		position[strings.Clone(name)] = i
	}
	find := func(what, name string) (int, error) {
		i, ok := position[name]
		if !ok {
			return 0, fmt.Errorf("%w: no column for %s %q", ErrTable, what, name)
		}
		return i, nil
	}
	id, err := find("the customer id", columns.ID)
	if err != nil {
		return nil, err
	}
	label, err := find("the label", columns.Label)
	if err != nil {
		return nil, err
	}
	spec := set.Spec()
	of := make([]int, spec.Len()) // column of each feature
	for f := range of {
		if of[f], err = find("feature", spec.Feature(f).Name); err != nil {
			return nil, err
		}
		if of[f] == label || of[f] == id {
			return nil, fmt.Errorf("%w: column %q cannot be a feature and the customer id or label",
				ErrTable, spec.Feature(f).Name)
		}
	}

	var examples []schemas.ChurnOutcome
	negative := "" // the one other text of the label
	lineOf := map[string]int{}
	for {
		row, err := rows.Read()
		if err == io.EOF {
			return examples, nil
		}
		if err != nil {
			return nil, tableError(err)
		}
		line, _ := rows.FieldPos(0)
		example := schemas.ChurnOutcome{
			CustomerID: strings.Clone(row[id]),
			Churned:    row[label] == columns.Positive,
			Attributes: scoring.NewVector(spec.Len()),
			Source:     columns.Source,
		}
		if example.CustomerID == "" {
			return nil, fmt.Errorf("%w: line %d: no customer id", ErrTable, line)
		}
		if len(example.CustomerID) > schemas.MaxIDBytes {
			return nil, fmt.Errorf("%w: line %d: a customer id of %d bytes, at most %d are allowed",
				ErrTable, line, len(example.CustomerID), schemas.MaxIDBytes)
		}
		if first, twice := lineOf[example.CustomerID]; twice {
			return nil, fmt.Errorf("%w: line %d: the same customer id as line %d", ErrTable, line, first)
		}
		lineOf[example.CustomerID] = line
		switch text := row[label]; {
		case text == "":
			return nil, fmt.Errorf("%w: line %d: no label", ErrTable, line)
		case text == columns.Positive, text == negative:
		case negative == "":
			negative = strings.Clone(text)
		default:
			return nil, fmt.Errorf("%w: line %d: label %q, which is neither %q nor %q",
				ErrTable, line, text, columns.Positive, negative)
		}
		for f, column := range of {
			if row[column] == "" {
				continue
			}
			if example.Attributes[f], err = set.ParseText(f, row[column]); err != nil {
				return nil, fmt.Errorf("%w: line %d: column %q: %w", ErrTable, line, spec.Feature(f).Name, err)
			}
		}
		examples = append(examples, example)
	}
}

// tableError distinguishes bytes that are no table from a reader that failed.
func tableError(err error) error {
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		return fmt.Errorf("%w: %w", ErrTable, err)
	}
	return fmt.Errorf("reading a customer table: %w", err)
}
