{{- /* The newer label is the one that stays; of equal ones the row written last. A
time before 1970 is negative, none is before 1900. Small granules: withdraw looks
up some customers of many. */ -}}
CREATE TABLE IF NOT EXISTS churn_examples
(
    {{columns "churn_examples" "customer_id" "record_offset"}}{{features "churn_examples"}},
    label_recency UInt64 MATERIALIZED bitOr(
        bitShiftLeft(toUInt64(toUnixTimestamp64Milli(labelled_at) + 2208988800000), 16),
        toUInt64(least(greatest(corrections, 0), 65535))) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(label_recency)
ORDER BY (customer_id, observed_at)
SETTINGS index_granularity = 512;

CREATE TABLE IF NOT EXISTS example_erasures
(
    {{columns "example_erasures" "customer_id" "record_offset"}},
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (record_partition, record_offset, customer_id)
TTL toDateTime(erased_at) + INTERVAL 90 DAY;
