package serving

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/problem"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/columns"
	"github.com/churnstream/churnstream/scoring"
)

const (
	// maxText bounds a search text: no id is longer.
	maxText      = schemas.MaxIDBytes
	defaultLimit = 50

	whatIfNote = "This is what the model would predict, not what would happen: " +
		"the model has learnt which customers leave, not what makes them stay."
)

// data shows attributes as a JSON object in feature order, null for a missing
// value.
func (s *Server) data(x scoring.Vector, levels scoring.Levels) object {
	o := make(object, len(x))
	for i := range o {
		o[i] = member{s.set.Spec().Feature(i).Name, s.jsonValue(i, x[i], levels)}
	}
	return o
}

// jsonValue shows one feature's value.
func (s *Server) jsonValue(feature int, x float64, levels scoring.Levels) any {
	cell := jsonCell{set: s.set}
	cell.Value(feature, x, levels)
	return cell.value
}

// byFeature shows one number per feature, in feature order.
func (s *Server) byFeature(weights []float64) object {
	o := make(object, len(weights))
	for i, weight := range weights {
		o[i] = member{s.set.Spec().Feature(i).Name, weight}
	}
	return o
}

// names turns positions into feature names; never nil, so that JSON has [].
func (s *Server) names(positions []int) []string {
	names := make([]string, len(positions))
	for i, f := range positions {
		names[i] = s.set.Spec().Feature(f).Name
	}
	return names
}

// prediction is what a model version says about a customer.
type prediction struct {
	*scoring.Explanation
	risk schemas.Risk
}

func predict(v *models.Version, x scoring.Vector, w *scoring.Workspace) *prediction {
	e := v.Predictor.Explain(x, w)
	return &prediction{e, v.Risk(e.Probability)}
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	v := s.models.Champion()
	if v == nil {
		s.problem(w, r, noModel())
		return
	}
	body, err := readJSON(w, r, s.limits.BodyBytes)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	var levels scoring.Levels
	x, err := s.set.AttributesFromJSON(body, &levels)
	if err != nil {
		s.problem(w, r, attributeProblem(err, ""))
		return
	}
	p := predict(v, x, v.Predictor.NewWorkspace())
	s.answer(w, r, struct {
		Data                object   `json:"data"`
		Probability         float64  `json:"probability"`
		ExpectedProbability float64  `json:"expected_probability"`
		Risk                string   `json:"risk"`
		ModelVersion        int64    `json:"model_version"`
		Explanation         object   `json:"explanation"`
		SHAP                object   `json:"shap"`
		LogOdds             object   `json:"log_odds"`
		Missing             []string `json:"missing"`
	}{s.data(x, levels), p.Probability, v.Predictor.ExpectedProbability(), p.risk.String(), v.Version,
		s.byFeature(p.LIME), s.byFeature(p.SHAP), s.byFeature(p.LogOdds), s.names(p.Missing)})
}

func (s *Server) score(w http.ResponseWriter, r *http.Request) {
	v := s.models.Champion()
	if v == nil {
		s.problem(w, r, noModel())
		return
	}
	batch, err := s.readBatch(w, r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	out := struct {
		ModelVersion  int64     `json:"model_version"`
		Probabilities []float64 `json:"probabilities"`
		Risks         []string  `json:"risks"`
	}{v.Version, make([]float64, len(batch)), make([]string, len(batch))}
	for i, x := range batch {
		out.Probabilities[i] = v.Predictor.Probability(x)
		out.Risks[i] = v.Risk(out.Probabilities[i]).String()
	}
	s.answer(w, r, out)
}

func (s *Server) readBatch(w http.ResponseWriter, r *http.Request) ([]scoring.Vector, error) {
	body, err := readJSON(w, r, s.limits.BatchBytes)
	if err != nil {
		return nil, err
	}
	fields, err := members(body, "", "customers")
	if err != nil {
		return nil, err
	}
	var list []json.RawMessage
	if err := json.Unmarshal(orNull(fields["customers"]), &list); err != nil || list == nil {
		return nil, problem.BadField("customers", "A list of customers is wanted here, each an object of attributes.")
	}
	if len(list) > s.limits.Batch {
		return nil, problem.BadField("customers", "%d customers are too many: at most %d at a time.", len(list), s.limits.Batch)
	}
	batch := make([]scoring.Vector, len(list))
	var levels scoring.Levels // which nobody wants to see
	for i, attributes := range list {
		levels = levels[:0]
		if batch[i], err = s.set.AttributesFromJSON(attributes, &levels); err != nil {
			return nil, attributeProblem(err, fmt.Sprintf("customers[%d]", i))
		}
	}
	return batch, nil
}

func orNull(raw json.RawMessage) []byte {
	if raw == nil {
		return []byte("null")
	}
	return raw
}

func (s *Server) whatIf(w http.ResponseWriter, r *http.Request) {
	v := s.models.Champion()
	if v == nil {
		s.problem(w, r, noModel())
		return
	}
	body, err := readJSON(w, r, s.limits.BodyBytes)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	before, changes, levels, err := s.readWhatIf(body)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	type side struct {
		Data        object   `json:"data"`
		Probability float64  `json:"probability"`
		Risk        string   `json:"risk"`
		Explanation object   `json:"explanation"`
		SHAP        object   `json:"shap"`
		LogOdds     object   `json:"log_odds"`
		Missing     []string `json:"missing"`
	}
	ws := v.Predictor.NewWorkspace()
	show := func(p *scoring.Explanation) side {
		return side{s.data(p.Attributes, levels), p.Probability, v.Risk(p.Probability).String(), s.byFeature(p.LIME), s.byFeature(p.SHAP),
			s.byFeature(p.LogOdds), s.names(p.Missing)}
	}
	now, then := v.Predictor.WhatIf(before, changes, ws)
	out := struct {
		ModelVersion        int64       `json:"model_version"`
		ExpectedProbability float64     `json:"expected_probability"`
		Before              side        `json:"before"`
		After               side        `json:"after"`
		Difference          float64     `json:"difference"`
		BestChange          *changeJSON `json:"best_change"`
		Note                string      `json:"note"`
	}{
		ModelVersion:        v.Version,
		ExpectedProbability: v.Predictor.ExpectedProbability(),
		Before:              show(now),
		After:               show(then),
		Note:                whatIfNote,
	}
	out.Difference = out.After.Probability - out.Before.Probability
	out.BestChange = s.changeJSON(bestChange(v, before, ws), nil)
	s.answer(w, r, out)
}

// bestChange returns the single actionable change after which a version would
// predict the lowest probability, nil if there is none.
func bestChange(v *models.Version, x scoring.Vector, w *scoring.Workspace) *schemas.BestChange {
	if f, value, probability, ok := v.Predictor.BestChange(x, w); ok {
		return &schemas.BestChange{Feature: f, Value: value, Probability: probability}
	}
	return nil
}

// bestChangeOf is the bestChange of a customer at high risk, by the version
// that the score is from, so that the probabilities can be compared. It is nil
// for others, and where that version is not known any more.
func (s *Server) bestChangeOf(c *Customer) *schemas.BestChange {
	switch {
	case c.HasBestChange:
		return &c.BestChange
	case c.Risk != schemas.RiskHigh:
		return nil
	}
	v := s.models.Get(c.ModelVersion)
	if v == nil {
		return nil
	}
	return bestChange(v, s.current(c).Attributes, v.Predictor.NewWorkspace())
}

// readWhatIf returns the attributes to start from, and the new values by
// position: scoring.Missing for a change to null. The levels go with both.
func (s *Server) readWhatIf(body []byte) (before scoring.Vector, changes map[int]float64, levels scoring.Levels, err error) {
	fields, err := members(body, "", "attributes", "customer_id", "changes")
	if err != nil {
		return nil, nil, nil, err
	}
	attributes, hasAttributes := fields["attributes"]
	id, hasID := fields["customer_id"]
	switch {
	case hasAttributes && hasID:
		return nil, nil, nil, problem.BadField("customer_id", "Send either attributes or customer_id, not both.")
	case hasAttributes:
		if before, err = s.set.AttributesFromJSON(attributes, &levels); err != nil {
			return nil, nil, nil, attributeProblem(err, "attributes")
		}
	case hasID:
		var text *string
		if err := json.Unmarshal(id, &text); err != nil || text == nil {
			return nil, nil, nil, problem.BadField("customer_id", "The id of a customer is a string.")
		}
		c, _ := s.customers.Get(*text)
		if c == nil {
			p := unknownCustomer(*text)
			p.Field = "customer_id"
			return nil, nil, nil, p
		}
		c = s.current(c)
		before, levels = c.Attributes, slices.Clone(c.Levels)
	default:
		return nil, nil, nil, problem.BadField("attributes", "Send the attributes to start from, or the customer_id of a known customer.")
	}

	raw, ok := fields["changes"]
	if !ok {
		return nil, nil, nil, problem.BadField("changes", "Send the changes to try, an object of attributes.")
	}
	x, err := s.set.AttributesFromJSON(raw, &levels)
	if err != nil {
		return nil, nil, nil, attributeProblem(err, "changes")
	}
	var named map[string]json.RawMessage
	if err := json.Unmarshal(raw, &named); err != nil {
		return nil, nil, nil, problem.BadField("changes", "A JSON object is wanted here.")
	}
	changes = make(map[int]float64, len(named))
	for name := range named {
		// Null is a change as well: to not knowing the value.
		if i, ok := s.set.Spec().Index(name); ok {
			changes[i] = x[i]
		}
	}
	return before, changes, levels, nil
}

// current returns a customer whose attributes have the levels that a model has
// brought since the score was read, so that it knows them.
func (s *Server) current(c *Customer) *Customer {
	if len(c.Levels) == 0 {
		return c
	}
	now := *c
	now.Attributes, now.Levels = slices.Clone(c.Attributes), nil
	s.set.Vocabulary().Renumber(now.Attributes, s.set.Vocabulary(), c.Levels, &now.Levels)
	if b := &now.BestChange; c.HasBestChange && s.set.Spec().Feature(b.Feature).Kind == scoring.Categorical {
		if level, ok := c.Levels.At(b.Value); ok {
			b.Value = now.Levels.Add(level)
		}
	}
	return &now
}

func unknownCustomer(id string) *problem.Details {
	return &problem.Details{Status: http.StatusNotFound, Detail: fmt.Sprintf("No customer %q is known.", id)}
}

type changeJSON struct {
	Feature     string  `json:"feature"`
	Value       any     `json:"value"`
	Probability float64 `json:"probability"`
	Note        string  `json:"note"`
}

// changeJSON shows a change; the levels are those that go with it.
func (s *Server) changeJSON(c *schemas.BestChange, levels scoring.Levels) *changeJSON {
	if c == nil {
		return nil
	}
	return &changeJSON{s.set.Spec().Feature(c.Feature).Name, s.jsonValue(c.Feature, c.Value, levels), c.Probability, whatIfNote}
}

// listed are the members that a customer has in a list.
var listed = []string{
	"customer_id", "probability", "previous_probability", "risk", "model_version", "occurred_at", "scored_at", "explanations", "as_of", "trigger",
}

var listColumns = slices.DeleteFunc(slices.Clone(columns.Score), func(c columns.Column[schemas.ChurnScore]) bool {
	return c.Object != "" || !slices.Contains(listed, c.Member)
})

// complete has a request about customers wait until all that is known of them
// has been read. Before that, a customer who has been erased may seem to be there
// still.
func (s *Server) complete(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !s.customers.isCaughtUp() {
			s.problem(w, r, &problem.Details{Status: http.StatusServiceUnavailable,
				Detail:     fmt.Sprintf("The scores there are have not all been read yet; %d customers so far.", s.customers.Known()),
				RetryAfter: 5})
			return
		}
		h(w, r)
	}
}

func (s *Server) listCustomers(w http.ResponseWriter, r *http.Request) {
	q, err := readQuery(r.URL.RawQuery, true, s.limits.Page)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	page, counts := s.customers.List(q), s.customers.Counts()
	out := struct {
		Total     int      `json:"total"`
		Limit     int      `json:"limit"`
		Offset    int      `json:"offset"`
		Risks     object   `json:"risks"`
		Customers []object `json:"customers"`
	}{page.Total, q.Limit, q.Offset, nil, make([]object, len(page.Customers))}
	for risk, n := range counts {
		out.Risks = append(out.Risks, member{schemas.Risk(risk).String(), n})
	}
	for i, c := range page.Customers {
		out.Customers[i] = show(s.set, listColumns, &c.ChurnScore)
	}
	s.answer(w, r, out)
}

// readQuery reads what customers to list. Strictly, a parameter that is
// unknown or wrong is an error; else it is as if it were not there, as suits a
// page whose address somebody edits. A page has limit customers at most.
func readQuery(raw string, strict bool, limit int) (Query, error) {
	q := Query{Risk: AnyRisk, Limit: min(defaultLimit, limit)}
	values, err := url.ParseQuery(raw)
	if err != nil && strict {
		return q, problem.BadField("", "The query of the address is not well formed.")
	}
	// In order, so that of several faults it is always the same one that is reported.
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range values {
			if !yield(name) {
				return
			}
		}
	}) {
		if err := q.set(name, values[name][0], limit); err != nil && strict {
			return q, err
		}
		if strict && len(values[name]) > 1 {
			return q, problem.BadField(name, "%s is given more than once.", name)
		}
	}
	if q.Offset+q.Limit > maxDepth {
		if strict {
			return q, problem.BadField("offset", "The list ends at position %d; use risk or q to narrow it.", maxDepth)
		}
		q.Offset = maxDepth - q.Limit
	}
	return q, nil
}

func (q *Query) set(name, value string, limit int) error {
	switch name {
	case "risk":
		for risk := schemas.RiskLow; risk <= schemas.RiskHigh; risk++ {
			if strings.EqualFold(value, risk.String()) {
				q.Risk = risk
				return nil
			}
		}
		if value != "" {
			return problem.BadField(name, "The risk is LOW, MEDIUM or HIGH, not %q.", value)
		}
	case "sort":
		switch value {
		case "recent":
			q.Order = ByRecency
		case "probability", "":
			q.Order = ByProbability
		default:
			return problem.BadField(name, "The order is probability or recent, not %q.", value)
		}
	case "q":
		if len(value) > maxText {
			return problem.BadField(name, "The text to search for has %d bytes; ids have %d at most.", len(value), maxText)
		}
		q.Text = strings.TrimSpace(value)
	case "limit":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > limit {
			return problem.BadField(name, "The limit is a number from 1 to %d, not %q.", limit, value)
		}
		q.Limit = n
	case "offset":
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 || n > maxDepth {
			return problem.BadField(name, "The offset is a number from 0 to %d, not %q.", maxDepth, value)
		}
		q.Offset = n
	default:
		return problem.BadField(name, "There is no parameter %q.", name)
	}
	return nil
}

func (s *Server) getCustomer(w http.ResponseWriter, r *http.Request) {
	c, history := s.customers.Get(r.PathValue("id"))
	if c == nil {
		s.problem(w, r, unknownCustomer(r.PathValue("id")))
		return
	}
	type pointJSON struct {
		At          time.Time `json:"at"`
		Probability float64   `json:"probability"`
	}
	points := make([]pointJSON, len(history))
	for i, p := range history {
		points[i] = pointJSON{p.At(), p.Probability()}
	}
	out := show(s.set, columns.Score, &c.ChurnScore)
	out.set("data", s.data(c.Attributes, c.Levels))
	out.set("best_change", s.changeJSON(s.bestChangeOf(c), c.Levels))
	out.set("history", points)
	s.answer(w, r, out)
}

func (s *Server) modelJSON(v *models.Version) object {
	champion := s.models.Champion()
	shown := v.ModelVersion
	shown.Stage = v.StageNow(champion)
	out := show(s.set, columns.Model, &shown)
	out.set("in_force", champion != nil && champion.Version == v.Version)
	out.set("label", schemas.Label(v.Horizon))
	out.set("horizon_seconds", float64(v.Horizon)/1000)
	var until *time.Time // versions of before examples do not say
	if v.LabelsUntil > 0 {
		until = new(time.Time)
		*until = time.UnixMilli(v.LabelsUntil).UTC()
	}
	out.set("labels_until", until)
	return out
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) {
	list := s.models.List()
	out := struct {
		Models []object `json:"models"`
	}{make([]object, len(list))}
	for i, v := range list {
		out.Models[i] = s.modelJSON(v)
	}
	s.answer(w, r, out)
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) {
	v, err := s.pathVersion(r)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	out := s.modelJSON(v)
	out.set("model", v.Model)
	s.answer(w, r, out)
}

func (s *Server) getOpenAPI(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(s.openapi)
}

// openAPIDocument fills the attributes of spec and the limits into the
// description.
func openAPIDocument(spec *scoring.Spec, limits Limits) ([]byte, error) {
	var properties object
	for i := range spec.Len() {
		f := spec.Feature(i)
		schema := object{{"type", []string{"string", "null"}}, {"description", f.Label}}
		if f.Kind == scoring.Numeric {
			schema[0].value = []string{"number", "null"}
			if f.Unit != "" {
				schema[1].value = f.Label + ", in " + f.Unit
			}
		}
		properties = append(properties, member{f.Name, schema})
	}
	filled, err := json.Marshal(properties)
	if err != nil {
		return nil, fmt.Errorf("describing the attributes: %w", err)
	}
	const placeholder = `{"@attributes": {}}`
	if bytes.Count(openAPITemplate, []byte(placeholder)) != 1 {
		return nil, errors.New("openapi.json has no place for the attributes")
	}
	document := bytes.Replace(openAPITemplate, []byte(placeholder), filled, 1)
	for name, limit := range map[string]int64{
		"@bodyBytes": limits.BodyBytes, "@batchBytes": limits.BatchBytes, "@batchSize": int64(limits.Batch),
		"@pageSize": int64(limits.Page), "@pageDefault": int64(min(defaultLimit, limits.Page)), "@listDepth": maxDepth,
	} {
		number := strconv.FormatInt(limit, 10)
		document = bytes.ReplaceAll(document, []byte(`"`+name+`"`), []byte(number))
		document = bytes.ReplaceAll(document, []byte(name), []byte(number))
	}
	if !json.Valid(document) {
		return nil, errors.New("openapi.json is not valid once it is filled in")
	}
	return document, nil
}

func (s *Server) notFound(w http.ResponseWriter, r *http.Request) {
	s.problem(w, r, &problem.Details{Status: http.StatusNotFound, Detail: fmt.Sprintf("There is nothing at %s.", r.URL.Path)})
}
