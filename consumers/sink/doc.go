// Package sink writes scores, outcomes and model versions from their topics
// to tables that people and reports query.
//
// There is one interface for "write these rows", Store, with two
// implementations that have the same tables and views: ClickHouse, and SQLite
// for a single machine. A Sink feeds one store as one consumer group; several
// stores are several sinks, which progress independently.
//
// # Tables and views
//
//	churn_scores          every score; one column per feature
//	churn_outcomes        what became of customers
//	model_versions        every model, as its latest record says
//	churn_scores_latest   the latest score of each customer
//	customers_at_risk     the latest scores with risk HIGH, most probable first,
//	                      with the reasons as text
//	model_accuracy_daily  outcomes against the score in force at observed_at,
//	                      by day and model version
//	schema_migrations     which numbered changes the tables have had
//
// Rows have identities: a score is (source_partition, source_offset,
// model_version), an outcome (customer_id, observed_at), a model its version.
// A row written again replaces the one before it, so a batch that is written
// twice leaves no doubles. In ClickHouse rows are replaced when parts are
// merged: read its tables with FINAL. The views do what they need themselves.
//
// Times are UTC with milliseconds: DateTime64(3, 'UTC') in ClickHouse, text
// such as "2026-01-31 23:59:59.999" in SQLite.
//
// # Feature columns
//
// A feature's column has the feature's name. Characters other than letters,
// digits and the underscore become underscores. Where that name is one of the
// table's own columns or an earlier feature's, whatever the case of letters,
// it gets the prefix "feature_", as often as needed. Numbers are
// Nullable(Float64) or REAL, levels LowCardinality(Nullable(String)) or TEXT;
// a missing value is NULL.
//
// A feature that a later schema adds becomes a new column; a feature that it
// drops keeps its column, which is NULL from then on. A feature cannot change
// from number to level or back under the same name: Migrate refuses it.
package sink
