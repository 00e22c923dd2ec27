package sink

import (
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
				for _, statement := range d.statements(m.tables, nil) {
					if !strings.Contains(made, strings.Join(strings.Fields(statement), " ")) {
						t.Errorf("%s, migration %d is not what made the tables of version %d:\n%s", store, i+1, version, statement)
					}
				}
			}
		}
	}
}
