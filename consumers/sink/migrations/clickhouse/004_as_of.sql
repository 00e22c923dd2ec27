{{- define "copy" -}}
ALTER TABLE {{.}}
    ADD COLUMN IF NOT EXISTS {{columns "churn_scores" "as_of" "as_of"}},
    ADD COLUMN IF NOT EXISTS {{columns "churn_scores" "trigger" "trigger"}};

ALTER TABLE {{.}} MODIFY COLUMN as_of DEFAULT occurred_at;

ALTER TABLE {{.}} MODIFY COLUMN score_recency UInt256 MATERIALIZED bitOr(bitOr(bitOr(
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(as_of) + 9007199254740992), 192),
        bitShiftLeft(toUInt256(source_offset), 128)),
        bitShiftLeft(toUInt256(toUnixTimestamp64Milli(scored_at) + 9007199254740992), 64)),
        toUInt256(model_version)) CODEC(ZSTD(1));
{{- end -}}
{{- /* A sorting key can only take up columns that the same statement adds, and
only such without a default. The default comes after: parts that are there have
no such column, so their rows are read with it. Of those no two differ in
nothing but as_of, so their order holds. */ -}}
ALTER TABLE churn_scores
    ADD COLUMN IF NOT EXISTS {{columns "churn_scores" "as_of" "as_of"}},
    ADD COLUMN IF NOT EXISTS {{columns "churn_scores" "trigger" "trigger"}},
    MODIFY ORDER BY (customer_id, source_partition, source_offset, model_version, as_of);

ALTER TABLE churn_scores MODIFY COLUMN as_of DEFAULT occurred_at;

{{template "copy" "churn_scores_current"}}

{{template "copy" "churn_scores_at_risk"}}
