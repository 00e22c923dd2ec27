package sink

import (
	"slices"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas"
)

// A released migration is never edited: what it says today is what the tables
// of its version were made with.
func TestReleasedMigrationsStayAsTheyAre(t *testing.T) {
	spec := schemas.Telco().Spec()
	for store, d := range map[string]*dialect{"sqlite": sqliteDialect(spec), "clickhouse": clickhouseDialect(spec)} {
		for version := 1; version < len(d.migrations); version++ {
			made := strings.Join(strings.Fields(olderTables(t, store, version)), " ")
			for i, m := range d.migrations[:version] {
				for _, statement := range d.statements(m.tables, storedBefore(d, i)) {
					if !strings.Contains(made, strings.Join(strings.Fields(statement), " ")) {
						t.Errorf("%s, migration %d is not what made the tables of version %d:\n%s", store, i+1, version, statement)
					}
				}
			}
		}
	}
}

// storedBefore returns the columns of churn_scores after the first n changes.
func storedBefore(d *dialect, n int) map[string]definition {
	stored := map[string]definition{}
	if n == 0 {
		return stored
	}
	for _, f := range d.features["churn_scores"] {
		stored[d.fold(f.name)] = f
	}
	for _, m := range d.migrations[:n] {
		_, defined := d.render(m.tables, stored)
		for _, c := range d.own["churn_scores"] {
			if slices.Contains(defined, "churn_scores."+c.name) {
				stored[c.name] = c
			}
		}
	}
	return stored
}
