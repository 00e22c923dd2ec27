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
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

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
	// Missing are the texts, besides none, that mark a missing attribute, in
	// capital or small letters. nil means NA, N/A, #N/A, NaN and null.
	Missing []string
}

// missingMarks are what spreadsheets, statistics packages and databases write
// for a value that is not there.
var missingMarks = []string{"NA", "N/A", "#N/A", "NaN", "null"}

// missing says whether a trimmed cell marks a missing attribute.
func (c *Columns) missing(cell string) bool {
	marks := c.Missing
	if marks == nil {
		marks = missingMarks
	}
	return cell == "" || slices.ContainsFunc(marks, func(mark string) bool { return strings.EqualFold(cell, mark) })
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
// further columns are ignored. White space around a cell does not count. An empty
// cell is a missing attribute, and so is one of columns.Missing. The examples'
// ObservedAt is 0, for a table has no dates.
//
// Errors about the contents match ErrTable and name line, column and value.
func LoadCSV(set *schemas.Set, r io.Reader, columns Columns) ([]schemas.ChurnOutcome, error) {
	buffered := bufio.NewReader(r)
	if mark, _ := buffered.Peek(3); string(mark) == "\ufeff" { // spreadsheets put a byte order mark first
		_, _ = buffered.Discard(3)
	}
	rows := csv.NewReader(buffered)
	rows.ReuseRecord = true
	rows.TrimLeadingSpace = true // before a quote, too
	header, err := rows.Read()
	if err == io.EOF {
		return nil, fmt.Errorf("%w: it is empty", ErrTable)
	}
	if err != nil {
		return nil, tableError(err)
	}
	position := make(map[string]int, len(header))
	for i, name := range header {
		name = strings.TrimSpace(name)
		if _, twice := position[name]; twice {
			return nil, fmt.Errorf("%w: column %q occurs twice", ErrTable, name)
		}
		position[strings.Clone(name)] = i
	}
	columns.Positive = strings.TrimSpace(columns.Positive)
	find := func(what, name string) (int, error) {
		name = strings.TrimSpace(name)
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
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		line := func(column int) int { // a quoted cell may go over several
			line, _ := rows.FieldPos(column)
			return line
		}
		refuse := func(column int, name, format string, args ...any) error {
			return fmt.Errorf("%w: line %d: column %q: value %s: %s", ErrTable, line(column), name,
				shown(row[column]), fmt.Sprintf(format, args...))
		}
		example := schemas.ChurnOutcome{
			CustomerID: strings.Clone(row[id]),
			Churned:    row[label] == columns.Positive,
			Attributes: scoring.NewVector(spec.Len()),
			Source:     columns.Source,
		}
		switch first, twice := lineOf[example.CustomerID]; {
		case example.CustomerID == "":
			return nil, refuse(id, columns.ID, "no customer id")
		case len(example.CustomerID) > schemas.MaxIDBytes:
			return nil, refuse(id, columns.ID, "a customer id of %d bytes, at most %d are allowed",
				len(example.CustomerID), schemas.MaxIDBytes)
		case !utf8.ValidString(example.CustomerID):
			return nil, refuse(id, columns.ID, "is not UTF-8 text")
		case twice:
			return nil, refuse(id, columns.ID, "the same customer id as line %d", first)
		}
		lineOf[example.CustomerID] = line(id)
		switch text := row[label]; {
		case text != columns.Positive && columns.missing(text):
			return nil, refuse(label, columns.Label, "no label")
		case text == columns.Positive, text == negative:
		case negative == "":
			negative = strings.Clone(text)
		default:
			return nil, refuse(label, columns.Label, "neither %q nor %q", columns.Positive, negative)
		}
		for f, column := range of {
			if columns.missing(row[column]) {
				continue
			}
			if example.Attributes[f], err = set.ParseText(f, row[column]); err != nil {
				problem := err.Error()
				if field := (*schemas.FieldError)(nil); errors.As(err, &field) {
					problem = field.Problem // the column is its name
				}
				return nil, refuse(column, spec.Feature(f).Name, "%s", problem)
			}
		}
		examples = append(examples, example)
	}
}

// maxShown bounds what an error shows of a cell, in bytes.
const maxShown = 64

// shown returns a cell as an error shows it.
func shown(cell string) string {
	if len(cell) > maxShown {
		return fmt.Sprintf("%q…", cell[:maxShown])
	}
	return strconv.Quote(cell)
}

// tableError distinguishes bytes that are no table from a reader that failed.
func tableError(err error) error {
	if parse := (*csv.ParseError)(nil); errors.As(err, &parse) {
		return fmt.Errorf("%w: %w", ErrTable, err)
	}
	return fmt.Errorf("reading a customer table: %w", err)
}
