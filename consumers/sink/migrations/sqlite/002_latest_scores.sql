{{- /* Which score of a customer is the latest. The index on it is the list of
those at risk, in its order. */ -}}
CREATE TABLE churn_scores_current
(
    customer_id TEXT PRIMARY KEY,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    risk TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX churn_scores_current_at_risk ON churn_scores_current (churn_probability DESC, customer_id) WHERE risk = 'HIGH';
