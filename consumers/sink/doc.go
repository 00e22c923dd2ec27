// Package sink writes scores, outcomes, labelled examples and model versions from
// their topics to tables that people and reports query; docs/tables.md is for
// these.
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
//	churn_examples        every labelled example; one column per feature
//	training_set          the same without doubles
//	churn_examples_latest the newest example of each customer
//	model_accuracy_daily  figures on the examples, by day of observed_at,
//	                      model version and horizon of the labels
//	model_calibration     what was predicted and what came of it, by model
//	                      version, horizon and tenth of the range of
//	                      probabilities
//	erasures              whose scores were erased in the last 90 days, and
//	                      from before which place among the customer events
//	example_erasures      whose examples were, and from before which place in
//	                      churn.examples
//	schema_migrations     which numbered changes the tables have had
//
// What the views of the latest scores need is kept ready in tables derived
// from churn_scores, so that they answer in milliseconds however many scores
// there are. Read the views; the derived tables may change:
//
//	churn_scores_current  the latest score of each customer; in SQLite only
//	                      which one it is
//	churn_scores_at_risk  in ClickHouse: the latest scores with risk HIGH, and
//	                      until it is tidied others that read FINAL hides
//
// They follow churn_scores by themselves, through triggers or materialised
// views, whoever writes to it, with two exceptions in ClickHouse. Who must
// leave customers_at_risk because of a score that something else than the sink
// inserted, leaves it with the sink's next batch that has a score of that
// customer, or at its next start. And what is deleted from churn_scores by
// hand must be deleted from the derived tables as well. In ClickHouse the
// sink's user needs CREATE, DROP VIEW, ALTER, OPTIMIZE, SELECT and INSERT in its
// database: views are made anew at every start.
//
// Rows have identities: a score is (source_partition, source_offset,
// model_version, as_of), an outcome and an example (customer_id, observed_at), a
// model its version. as_of is the moment the score speaks of; in rows of before version 4
// it is occurred_at.
// A row written again replaces the one before it, so a batch that is written
// twice leaves no doubles. In ClickHouse rows are replaced when parts are
// merged: read its tables with FINAL. The views do what they need themselves.
//
// The latest score of a customer is the one with the latest as_of, and of those
// the highest source_offset; of several under different models, the one
// computed last. It does not matter in which order rows are written: a customer
// whose latest score is not HIGH is not in customers_at_risk.
//
// An example's row is replaced by that of a later record, or the same, never by one
// of an earlier, as a sink may write that was held up. The table is the history:
// examples that a customer's record in churn.examples drops because they are many
// stay. What it leaves out among those it has, from its oldest on, is deleted.
//
// Times are UTC with milliseconds: DateTime64(3, 'UTC') in ClickHouse, text
// such as "2026-01-31 23:59:59.999" in SQLite.
//
// # Erasures
//
// A tombstone in churn.scores erases the customer's scores of events before its
// place among the customer events, which stands in its headers, in the
// partition that it names. A tombstone in churn.outcomes erases the customer's
// outcomes, one in churn.examples the customer's examples of records before it.
// None does another's work: the topics are read at different speeds, and what is
// written after an erasure stays.
//
// An erasure of scores or examples is remembered for 90 days, as a sink that was
// held up, one of an older version, or a migration that began before may write
// such a row late. SQLite then does not take it. In ClickHouse the sink deletes it
// in the same Write. What others leave there, or a sink that ends in the middle,
// is deleted at the next start or tidying: with the first scores or examples that
// are written more than ten minutes after the one before. So the customer's id
// stays in erasures and example_erasures, and there alone, for 90 days. Remembered
// are neither
// erasures of outcomes, nor tombstones without a place, nor those that a sink
// of version 1 or 2 took: have the customer erased again.
//
// Places count anew when the topic of customer events, or that of examples, is
// made anew. Then the tables with its rows must be emptied too, and their
// erasures.
//
// # Feature columns
//
// A feature's column has the feature's name. Characters other than letters,
// digits and the underscore become underscores. Where that name is one of the
// table's own columns or an earlier feature's, whatever the case of letters,
// it gets the prefix "feature_", as often as needed. In churn_examples it has the
// same name, or the prefix where that is an own column there. Numbers are
// Nullable(Float64) or REAL, levels LowCardinality(Nullable(String)) or TEXT;
// a missing value is NULL.
//
// Own columns are described in schemas/columns. One that a later version of
// this program adds becomes a new column in all tables that have it, at the next
// start and without a numbered change; NULL, or in ClickHouse the type's zero,
// in rows that are there.
//
// A feature that a later schema adds becomes a new column; a feature that it
// drops keeps its column, which is NULL from then on. A feature cannot change
// from number to level or back under the same name: Migrate refuses it.
package sink
