CREATE TABLE churn_scores
(
    {{columns "churn_scores" "customer_id" "source_offset"}}{{features}},
    PRIMARY KEY (source_partition, source_offset, model_version)
);

CREATE INDEX churn_scores_by_customer ON churn_scores (customer_id, source_offset, scored_at, model_version);

CREATE TABLE churn_outcomes
(
    {{columns "churn_outcomes" "customer_id" "source"}},
    PRIMARY KEY (customer_id, observed_at)
) WITHOUT ROWID;

CREATE TABLE model_versions
(
    version INTEGER PRIMARY KEY,
    {{columns "model_versions" "created_at" "record_offset"}}
);
