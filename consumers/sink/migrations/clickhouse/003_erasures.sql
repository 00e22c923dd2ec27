{{- /* The order is eraseLate's. */ -}}
CREATE TABLE IF NOT EXISTS erasures
(
    {{columns "erasures" "customer_id" "source_offset"}},
    erased_at DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree
ORDER BY (source_partition, source_offset, customer_id)
TTL toDateTime(erased_at) + INTERVAL 90 DAY;
