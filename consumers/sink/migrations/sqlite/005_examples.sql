CREATE TABLE churn_examples
(
    {{columns "churn_examples" "customer_id" "record_offset"}}{{features "churn_examples"}},
    PRIMARY KEY (customer_id, observed_at)
);

CREATE TABLE example_erasures
(
    {{columns "example_erasures" "customer_id" "record_offset"}},
    erased_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (customer_id, record_partition, record_offset)
) WITHOUT ROWID;

{{- /* The triggers keep out what comes late, whoever writes it: examples of
before an erasure, and those of an earlier record. */}}

CREATE TRIGGER churn_examples_erased BEFORE INSERT ON churn_examples
WHEN EXISTS (
    SELECT 1 FROM example_erasures
    WHERE customer_id = NEW.customer_id AND record_partition = NEW.record_partition AND record_offset > NEW.record_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END;

CREATE TRIGGER churn_examples_replaced BEFORE INSERT ON churn_examples
WHEN EXISTS (
    SELECT 1 FROM churn_examples
    WHERE customer_id = NEW.customer_id AND observed_at = NEW.observed_at AND record_offset > NEW.record_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END;
