-- Tables and views of churnstream in ClickHouse, for the shipped customer schema.
-- The sink creates them itself; this copy is for reading and for operators who
-- create tables on their own. It is generated: go test ./consumers/sink -run DDL -update

CREATE TABLE IF NOT EXISTS schema_migrations
(
    version Int32,
    applied_at DateTime64(3, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY version;

CREATE TABLE IF NOT EXISTS churn_scores
(
    customer_id String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    scored_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    model_version Int64 CODEC(ZSTD(1)),
    churn_probability Float64,
    previous_probability Nullable(Float64),
    risk Enum8('LOW' = 0, 'MEDIUM' = 1, 'HIGH' = 2),
    expected_probability Float64 CODEC(ZSTD(1)),
    explanations Array(Tuple(feature LowCardinality(String), value Nullable(String), lime Nullable(Float64), shap Nullable(Float64))),
    missing Array(LowCardinality(String)),
    best_change_feature LowCardinality(Nullable(String)),
    best_change_value Nullable(String),
    best_change_probability Nullable(Float64),
    source_partition Int32 CODEC(ZSTD(1)),
    source_offset Int64 CODEC(Delta, ZSTD(1)),
    `gender` LowCardinality(Nullable(String)),
    `SeniorCitizen` LowCardinality(Nullable(String)),
    `Partner` LowCardinality(Nullable(String)),
    `Dependents` LowCardinality(Nullable(String)),
    `tenure` Nullable(Float64),
    `PhoneService` LowCardinality(Nullable(String)),
    `MultipleLines` LowCardinality(Nullable(String)),
    `InternetService` LowCardinality(Nullable(String)),
    `OnlineSecurity` LowCardinality(Nullable(String)),
    `OnlineBackup` LowCardinality(Nullable(String)),
    `DeviceProtection` LowCardinality(Nullable(String)),
    `TechSupport` LowCardinality(Nullable(String)),
    `StreamingTV` LowCardinality(Nullable(String)),
    `StreamingMovies` LowCardinality(Nullable(String)),
    `Contract` LowCardinality(Nullable(String)),
    `PaperlessBilling` LowCardinality(Nullable(String)),
    `PaymentMethod` LowCardinality(Nullable(String)),
    `MonthlyCharges` Nullable(Float64),
    `TotalCharges` Nullable(Float64)
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, source_partition, source_offset, model_version);

CREATE TABLE IF NOT EXISTS churn_outcomes
(
    customer_id String CODEC(ZSTD(1)),
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    churned Bool,
    source LowCardinality(String)
)
ENGINE = ReplacingMergeTree
ORDER BY (customer_id, observed_at);

CREATE TABLE IF NOT EXISTS model_versions
(
    version Int64,
    created_at DateTime64(3, 'UTC'),
    stage Enum8('CHALLENGER' = 0, 'CHAMPION' = 1, 'RETIRED' = 2),
    reason String,
    payload String CODEC(ZSTD(3)),
    sha256 String,
    holdout_rows Int64,
    accuracy Nullable(Float64),
    precision Nullable(Float64),
    recall Nullable(Float64),
    f1 Nullable(Float64),
    roc_auc Nullable(Float64),
    log_loss Nullable(Float64),
    brier Nullable(Float64),
    calibration_error Nullable(Float64),
    top_decile_lift Nullable(Float64),
    champion_accuracy Nullable(Float64),
    champion_precision Nullable(Float64),
    champion_recall Nullable(Float64),
    champion_f1 Nullable(Float64),
    champion_roc_auc Nullable(Float64),
    champion_log_loss Nullable(Float64),
    champion_brier Nullable(Float64),
    champion_calibration_error Nullable(Float64),
    champion_top_decile_lift Nullable(Float64),
    training_start DateTime64(3, 'UTC'),
    training_end DateTime64(3, 'UTC'),
    training_rows Int64,
    labels_seen Int64,
    feature_fingerprint String,
    medium_threshold Float64,
    high_threshold Float64,
    baseline Array(Tuple(name String, bins Array(String), frequencies Array(Float64))),
    record_offset Int64
)
ENGINE = ReplacingMergeTree
ORDER BY version;

CREATE TABLE IF NOT EXISTS churn_scores_current
(
    customer_id String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    scored_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    model_version Int64 CODEC(ZSTD(1)),
    churn_probability Float64,
    previous_probability Nullable(Float64),
    risk Enum8('LOW' = 0, 'MEDIUM' = 1, 'HIGH' = 2),
    expected_probability Float64 CODEC(ZSTD(1)),
    explanations Array(Tuple(feature LowCardinality(String), value Nullable(String), lime Nullable(Float64), shap Nullable(Float64))),
    missing Array(LowCardinality(String)),
    best_change_feature LowCardinality(Nullable(String)),
    best_change_value Nullable(String),
    best_change_probability Nullable(Float64),
    source_partition Int32 CODEC(ZSTD(1)),
    source_offset Int64 CODEC(Delta, ZSTD(1)),
    `gender` LowCardinality(Nullable(String)),
    `SeniorCitizen` LowCardinality(Nullable(String)),
    `Partner` LowCardinality(Nullable(String)),
    `Dependents` LowCardinality(Nullable(String)),
    `tenure` Nullable(Float64),
    `PhoneService` LowCardinality(Nullable(String)),
    `MultipleLines` LowCardinality(Nullable(String)),
    `InternetService` LowCardinality(Nullable(String)),
    `OnlineSecurity` LowCardinality(Nullable(String)),
    `OnlineBackup` LowCardinality(Nullable(String)),
    `DeviceProtection` LowCardinality(Nullable(String)),
    `TechSupport` LowCardinality(Nullable(String)),
    `StreamingTV` LowCardinality(Nullable(String)),
    `StreamingMovies` LowCardinality(Nullable(String)),
    `Contract` LowCardinality(Nullable(String)),
    `PaperlessBilling` LowCardinality(Nullable(String)),
    `PaymentMethod` LowCardinality(Nullable(String)),
    `MonthlyCharges` Nullable(Float64),
    `TotalCharges` Nullable(Float64),
    score_recency UInt256 MATERIALIZED bitOr(bitOr(
        bitShiftLeft(toUInt256(source_offset), 128),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(score_recency)
ORDER BY customer_id
SETTINGS index_granularity = 512;

CREATE TABLE IF NOT EXISTS churn_scores_at_risk
(
    customer_id String CODEC(ZSTD(1)),
    event_id String CODEC(ZSTD(1)),
    occurred_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    scored_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    model_version Int64 CODEC(ZSTD(1)),
    churn_probability Float64,
    previous_probability Nullable(Float64),
    risk Enum8('LOW' = 0, 'MEDIUM' = 1, 'HIGH' = 2),
    expected_probability Float64 CODEC(ZSTD(1)),
    explanations Array(Tuple(feature LowCardinality(String), value Nullable(String), lime Nullable(Float64), shap Nullable(Float64))),
    missing Array(LowCardinality(String)),
    best_change_feature LowCardinality(Nullable(String)),
    best_change_value Nullable(String),
    best_change_probability Nullable(Float64),
    source_partition Int32 CODEC(ZSTD(1)),
    source_offset Int64 CODEC(Delta, ZSTD(1)),
    `gender` LowCardinality(Nullable(String)),
    `SeniorCitizen` LowCardinality(Nullable(String)),
    `Partner` LowCardinality(Nullable(String)),
    `Dependents` LowCardinality(Nullable(String)),
    `tenure` Nullable(Float64),
    `PhoneService` LowCardinality(Nullable(String)),
    `MultipleLines` LowCardinality(Nullable(String)),
    `InternetService` LowCardinality(Nullable(String)),
    `OnlineSecurity` LowCardinality(Nullable(String)),
    `OnlineBackup` LowCardinality(Nullable(String)),
    `DeviceProtection` LowCardinality(Nullable(String)),
    `TechSupport` LowCardinality(Nullable(String)),
    `StreamingTV` LowCardinality(Nullable(String)),
    `StreamingMovies` LowCardinality(Nullable(String)),
    `Contract` LowCardinality(Nullable(String)),
    `PaperlessBilling` LowCardinality(Nullable(String)),
    `PaymentMethod` LowCardinality(Nullable(String)),
    `MonthlyCharges` Nullable(Float64),
    `TotalCharges` Nullable(Float64),
    score_recency UInt256 MATERIALIZED bitOr(bitOr(
        bitShiftLeft(toUInt256(source_offset), 128),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1)),
    not_at_risk UInt8 MATERIALIZED risk != 'HIGH'
)
ENGINE = ReplacingMergeTree(score_recency, not_at_risk)
ORDER BY customer_id
SETTINGS allow_experimental_replacing_merge_with_cleanup = 1;

CREATE TABLE IF NOT EXISTS erasures
(
    customer_id String CODEC(ZSTD(1)),
    source_partition Int32,
    source_offset Int64,
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (source_partition, source_offset, customer_id)
TTL toDateTime(erased_at) + INTERVAL 90 DAY;

ALTER TABLE churn_scores
    ADD COLUMN IF NOT EXISTS as_of DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trigger Enum8('EVENT' = 0, 'MODEL' = 1, 'TIME' = 2, 'REPAIR' = 3),
    MODIFY ORDER BY (customer_id, source_partition, source_offset, model_version, as_of);

ALTER TABLE churn_scores MODIFY COLUMN as_of DEFAULT occurred_at;

ALTER TABLE churn_scores_current
    ADD COLUMN IF NOT EXISTS as_of DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trigger Enum8('EVENT' = 0, 'MODEL' = 1, 'TIME' = 2, 'REPAIR' = 3);

ALTER TABLE churn_scores_current MODIFY COLUMN as_of DEFAULT occurred_at;

ALTER TABLE churn_scores_current MODIFY COLUMN score_recency UInt256 MATERIALIZED bitOr(bitOr(bitOr(
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(as_of) + 9007199254740992), 192),
        bitShiftLeft(toUInt256(source_offset), 128)),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1));

ALTER TABLE churn_scores_at_risk
    ADD COLUMN IF NOT EXISTS as_of DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    ADD COLUMN IF NOT EXISTS trigger Enum8('EVENT' = 0, 'MODEL' = 1, 'TIME' = 2, 'REPAIR' = 3);

ALTER TABLE churn_scores_at_risk MODIFY COLUMN as_of DEFAULT occurred_at;

ALTER TABLE churn_scores_at_risk MODIFY COLUMN score_recency UInt256 MATERIALIZED bitOr(bitOr(bitOr(
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(as_of) + 9007199254740992), 192),
        bitShiftLeft(toUInt256(source_offset), 128)),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1));

CREATE TABLE IF NOT EXISTS churn_examples
(
    customer_id String CODEC(ZSTD(1)),
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    as_of DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    labelled_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    horizon_seconds Float64 CODEC(ZSTD(1)),
    churned Bool,
    corrections Int64 CODEC(ZSTD(1)),
    model_version Nullable(Int64) CODEC(ZSTD(1)),
    churn_probability Nullable(Float64),
    source_partition Nullable(Int32) CODEC(ZSTD(1)),
    source_offset Nullable(Int64) CODEC(Delta, ZSTD(1)),
    record_partition Int32 CODEC(ZSTD(1)),
    record_offset Int64 CODEC(Delta, ZSTD(1)),
    `gender` LowCardinality(Nullable(String)),
    `SeniorCitizen` LowCardinality(Nullable(String)),
    `Partner` LowCardinality(Nullable(String)),
    `Dependents` LowCardinality(Nullable(String)),
    `tenure` Nullable(Float64),
    `PhoneService` LowCardinality(Nullable(String)),
    `MultipleLines` LowCardinality(Nullable(String)),
    `InternetService` LowCardinality(Nullable(String)),
    `OnlineSecurity` LowCardinality(Nullable(String)),
    `OnlineBackup` LowCardinality(Nullable(String)),
    `DeviceProtection` LowCardinality(Nullable(String)),
    `TechSupport` LowCardinality(Nullable(String)),
    `StreamingTV` LowCardinality(Nullable(String)),
    `StreamingMovies` LowCardinality(Nullable(String)),
    `Contract` LowCardinality(Nullable(String)),
    `PaperlessBilling` LowCardinality(Nullable(String)),
    `PaymentMethod` LowCardinality(Nullable(String)),
    `MonthlyCharges` Nullable(Float64),
    `TotalCharges` Nullable(Float64)
)
ENGINE = ReplacingMergeTree(record_offset)
ORDER BY (customer_id, observed_at)
SETTINGS index_granularity = 512;

CREATE TABLE IF NOT EXISTS example_erasures
(
    customer_id String CODEC(ZSTD(1)),
    record_partition Int32,
    record_offset Int64,
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (record_partition, record_offset, customer_id)
TTL toDateTime(erased_at) + INTERVAL 90 DAY;

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `holdout_churners` Int64;

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `pr_auc` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `log_loss_skill` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `accuracy_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `accuracy_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `precision_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `precision_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `recall_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `recall_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `f1_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `f1_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `roc_auc_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `roc_auc_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `pr_auc_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `pr_auc_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `log_loss_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `log_loss_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `log_loss_skill_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `log_loss_skill_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `brier_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `brier_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `calibration_error_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `calibration_error_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `top_decile_lift_lower` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `top_decile_lift_upper` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `champion_pr_auc` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `champion_log_loss_skill` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `horizon_seconds` Nullable(Float64);

ALTER TABLE model_versions ADD COLUMN IF NOT EXISTS `labels_until` Nullable(DateTime64(3, 'UTC'));

CREATE MATERIALIZED VIEW IF NOT EXISTS churn_scores_current_feed TO churn_scores_current AS
SELECT * FROM churn_scores;

CREATE MATERIALIZED VIEW IF NOT EXISTS churn_scores_at_risk_feed TO churn_scores_at_risk AS
SELECT * FROM churn_scores WHERE risk = 'HIGH';

INSERT INTO schema_migrations (version, applied_at) SELECT 5, now64(3);

CREATE OR REPLACE VIEW churn_scores_latest AS
SELECT *
FROM churn_scores_current FINAL;

CREATE OR REPLACE VIEW customers_at_risk AS
SELECT
    customer_id,
    churn_probability,
    previous_probability,
    arrayStringConcat(
        arrayMap(
            e -> printf('%s: %s (%+.2f)', toString(e.feature), ifNull(e.value, 'missing'), coalesce(e.lime, e.shap, 0)),
            arrayFilter(e -> coalesce(e.lime, e.shap, 0) > 0, explanations)),
        '; ') AS reasons,
    best_change_feature,
    best_change_value,
    best_change_probability,
    occurred_at,
    scored_at,
    model_version,
    `gender`,
    `SeniorCitizen`,
    `Partner`,
    `Dependents`,
    `tenure`,
    `PhoneService`,
    `MultipleLines`,
    `InternetService`,
    `OnlineSecurity`,
    `OnlineBackup`,
    `DeviceProtection`,
    `TechSupport`,
    `StreamingTV`,
    `StreamingMovies`,
    `Contract`,
    `PaperlessBilling`,
    `PaymentMethod`,
    `MonthlyCharges`,
    `TotalCharges`
FROM churn_scores_at_risk FINAL
WHERE risk = 'HIGH'
ORDER BY churn_probability DESC, customer_id;

CREATE OR REPLACE VIEW training_set AS
SELECT *
FROM churn_examples FINAL;

CREATE OR REPLACE VIEW churn_examples_latest AS
SELECT *
FROM churn_examples FINAL
ORDER BY customer_id, observed_at DESC
LIMIT 1 BY customer_id;

CREATE OR REPLACE VIEW model_accuracy_daily AS
SELECT
    day,
    model_version,
    horizon_seconds,
    examples,
    churned,
    accuracy,
    if(predicted = 0, NULL, hits / predicted) AS precision,
    if(churned = 0, NULL, hits / churned) AS recall,
    log_loss,
    if(churned = 0 OR churned = examples, NULL,
        1 + log_loss / (churned / examples * log(churned / examples) + (1 - churned / examples) * log(1 - churned / examples))) AS log_loss_skill,
    brier
FROM
(
    SELECT
        toDate(observed_at) AS day,
        assumeNotNull(model_version) AS model_version,
        horizon_seconds,
        count() AS examples,
        countIf(churned) AS churned,
        avg((p >= 0.5) = e.churned) AS accuracy,
        countIf(p >= 0.5) AS predicted,
        countIf(p >= 0.5 AND e.churned) AS hits,
        avg(-if(e.churned, log(least(greatest(p, exp2(-52)), 1 - exp2(-52))), greatest(log1p(-greatest(p, exp2(-52))), log(exp2(-52))))) AS log_loss,
        avg(pow(p - e.churned, 2)) AS brier
    FROM
    (
        SELECT observed_at, churned, model_version, horizon_seconds, assumeNotNull(churn_probability) AS p
        FROM churn_examples FINAL
        WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
    ) AS e
    GROUP BY day, model_version, horizon_seconds
)
ORDER BY day, model_version, horizon_seconds;

CREATE OR REPLACE VIEW model_calibration AS
SELECT
    assumeNotNull(model_version) AS model_version,
    horizon_seconds,
    toInt32((p > 1 * 0.1) + (p > 2 * 0.1) + (p > 3 * 0.1) + (p > 4 * 0.1) + (p > 5 * 0.1) + (p > 6 * 0.1) + (p > 7 * 0.1) + (p > 8 * 0.1) + (p > 9 * 0.1)) AS decile,
    count() AS examples,
    avg(p) AS predicted,
    avg(churned) AS observed
FROM
(
    SELECT churned, model_version, horizon_seconds, assumeNotNull(churn_probability) AS p
    FROM churn_examples FINAL
    WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
)
GROUP BY model_version, horizon_seconds, decile
ORDER BY model_version, horizon_seconds, decile;
