{{- /* What makes one score of a customer later than another, most significant
first, is the one number that the engine compares. Times before 1970 are
negative. Small granules: settle looks up some customers of many. */ -}}
CREATE TABLE IF NOT EXISTS churn_scores_current
(
    {{columns "churn_scores" "customer_id" "source_offset"}}{{features}},
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
    {{columns "churn_scores" "customer_id" "source_offset"}}{{features}},
    score_recency UInt256 MATERIALIZED bitOr(bitOr(
        bitShiftLeft(toUInt256(source_offset), 128),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1)),
    not_at_risk UInt8 MATERIALIZED risk != 'HIGH'
)
ENGINE = ReplacingMergeTree(score_recency, not_at_risk)
ORDER BY customer_id
SETTINGS allow_experimental_replacing_merge_with_cleanup = 1;
