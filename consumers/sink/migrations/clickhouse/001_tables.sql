CREATE TABLE IF NOT EXISTS churn_scores
(
    {{columns "churn_scores" "customer_id" "source_offset"}}{{features}}
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, source_partition, source_offset, model_version);

CREATE TABLE IF NOT EXISTS churn_outcomes
(
    {{columns "churn_outcomes" "customer_id" "source"}}
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, observed_at);

CREATE TABLE IF NOT EXISTS model_versions
(
    {{columns "model_versions" "version" "record_offset"}}
)
ENGINE = ReplacingMergeTree
ORDER BY version;
