{{- /* The row of the latest record is the one that stays. Small granules: withdraw
looks up some customers of many. */ -}}
CREATE TABLE IF NOT EXISTS churn_examples
(
    {{columns "churn_examples" "customer_id" "record_offset"}}{{features "churn_examples"}}
)
ENGINE = ReplacingMergeTree(record_offset)
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
