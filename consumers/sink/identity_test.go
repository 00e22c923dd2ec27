package sink

import (
	"testing"

	"github.com/churnstream/churnstream/schemas"
)

// Scores of one event that speak of different moments are different scores: one
// made because time passed leaves that by the event in the tables, and takes its
// place in the views of the latest, in whatever order they are written.
func testScoreByTimeIsAnotherScore(t *testing.T, open opener) {
	c := threeFeatures(t)
	s := open(t, c)
	s.mustMigrate(t)
	scores := func(customer string, offset int64) (byEvent, byTime *schemas.ChurnScore) {
		byEvent = score(t, c, customer, 0, offset, 1, 0.25, "2026-01-01 00:00:00.000")
		later := *byEvent
		later.AsOf, later.Trigger = byEvent.AsOf+86_400_000, schemas.TriggerTime
		later.Probability, later.Risk = 0.75, schemas.RiskHigh
		// It speaks of a later moment even where it was computed before.
		later.ScoredAt -= 1000
		return byEvent, &later
	}
	a, aLater := scores("in order", 1)
	b, bLater := scores("late", 2)
	both, bothLater := scores("together", 3)
	write := func(list ...*schemas.ChurnScore) {
		t.Helper()
		s.mustWrite(t, &Batch{Scores: list})
	}
	write(a)
	write(aLater)
	write(bLater)
	write(b)
	write(bothLater, both)
	write(a, bLater, both) // again, as after a crash
	expectRows(t, s.ask(t, "SELECT customer_id, source_offset, as_of, `trigger`, churn_probability FROM "+s.table("churn_scores")+" ORDER BY source_offset, as_of"),
		"in order | 1 | 2026-01-01 00:00:00.000 | EVENT | 0.25", "in order | 1 | 2026-01-02 00:00:00.000 | TIME | 0.75",
		"late | 2 | 2026-01-01 00:00:00.000 | EVENT | 0.25", "late | 2 | 2026-01-02 00:00:00.000 | TIME | 0.75",
		"together | 3 | 2026-01-01 00:00:00.000 | EVENT | 0.25", "together | 3 | 2026-01-02 00:00:00.000 | TIME | 0.75")
	expectRows(t, s.ask(t, "SELECT customer_id, as_of, churn_probability FROM churn_scores_latest ORDER BY customer_id"),
		"in order | 2026-01-02 00:00:00.000 | 0.75", "late | 2026-01-02 00:00:00.000 | 0.75", "together | 2026-01-02 00:00:00.000 | 0.75")
	expectRows(t, s.ask(t, "SELECT customer_id, model_version FROM customers_at_risk ORDER BY 1"), "in order | 1", "late | 1", "together | 1")

	// The next event's score, of a moment later still, is the latest again.
	next := score(t, c, "late", 0, 9, 1, 0.5, "2026-01-05 00:00:00.000")
	write(next)
	expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk ORDER BY 1"), "in order", "together")

	// An erasure takes both kinds.
	s.mustWrite(t, &Batch{Erased: []Erasure{{"in order", 0, 5}}})
	expectRows(t, s.ask(t, "SELECT DISTINCT customer_id FROM "+s.table("churn_scores")+" ORDER BY 1"), "late", "together")
	expectRows(t, s.ask(t, "SELECT customer_id FROM customers_at_risk"), "together")
}
