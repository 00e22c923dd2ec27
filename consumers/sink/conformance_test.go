package sink

import (
	"database/sql"
	"testing"
)

// stores are the kinds of store that there are. A new one is one more line, and
// an opener that says how its SQL differs; TestStores then shows whether it is
// one.
var stores = []struct {
	name string
	open opener
}{
	{"sqlite", openTestSQLite},
	{"clickhouse", openTestClickHouse},
	{"clickhouse over HTTP", openTestClickHouseHTTP},
}

// conformance is what every store must do.
var conformance = []struct {
	name string
	test func(*testing.T, opener)
}{
	{"keeps every column", testStoreKeepsEveryColumn},
	{"keeps outcomes and models", testStoreKeepsOutcomesAndModels},
	{"has no doubles of what is written again", testStoreWrittenAgainHasNoDoubles},
	{"keeps scores of different moments", testScoreByTimeIsAnotherScore},
	{"erases", testStoreErases},
	{"keeps erased what comes late", testErasedStayErased},
	{"has views", testViews},
	{"has views that follow any order of writes", testViewsFollowAnyOrderOfWrites},
	{"has nobody at risk for an old score", testNobodyStaysAtRiskForAnOldScore},
	{"keeps examples", testExamples},
	{"has the examples that records say", testExamplesFollowTheirRecords},
	{"has examples that follow any order of writes", testExamplesFollowAnyOrderOfWrites},
	{"keeps erased examples that come late", testErasedExamplesStayErased},
	{"has the figures of examples", testExampleViews},
	{"names columns by features", testFeatureColumns},
	{"migrates again and adds features", testMigrateIsRepeatableAndAddsFeatures},
	{"refuses a feature that has an own column's name", testMigrateRefusesAFeatureOfAnOwnName},
	{"migrates from older versions", testMigrateFromOlderVersions},
}

func TestStores(t *testing.T) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			for _, c := range conformance {
				t.Run(c.name, func(t *testing.T) { c.test(t, store.open) })
			}
		})
	}
}

// eachStore runs a test on a store of each kind.
func eachStore(t *testing.T, attributes Attributes, test func(t *testing.T, s *opened)) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) { test(t, store.open(t, attributes)) })
	}
}

// opener returns an empty store, or skips the test where there is none.
type opener func(testing.TB, Attributes) *opened

// opened is a store under test, and a connection of its own to look inside.
type opened struct {
	Store
	db *sql.DB
	// reopen opens the same data for another feature specification.
	reopen func(Attributes) Store
	// file is SQLite's, cfg what ClickHouse was opened with.
	file string
	cfg  ClickHouseConfig
	peculiarities
}

// peculiarities are what tests must know of a kind of store.
type peculiarities struct {
	// table returns a table's name as its rows are read without doubles, json
	// an expression for a column of lists as JSON.
	table, json func(name string) string
	// emptyList is a literal for such a column.
	emptyList string
	// scores are the tables that have scores.
	scores []string
	// atomic reports whether a migration and a Write are one transaction each:
	// nobody sees the middle of it.
	atomic bool
	// dueTidy has the next Write begin to tidy, tidied waits until it is done.
	dueTidy, tidied func()
	// older makes the tables of an older version, with a column "dropped one"
	// for a feature that there is no more.
	older func(t *testing.T, version int)
	// oldErasure remembers an erasure of customer "old" as of 91 days ago and
	// returns when it is forgotten.
	oldErasure func(t *testing.T)
}
