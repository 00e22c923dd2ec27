CREATE TABLE erasures
(
    {{columns "erasures" "customer_id" "source_offset"}},
    erased_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (customer_id, source_partition, source_offset)
) WITHOUT ROWID;

{{- /* The trigger keeps out scores of before an erasure that come late, whoever
writes them. */}}

CREATE TRIGGER churn_scores_erased BEFORE INSERT ON churn_scores
WHEN EXISTS (
    SELECT 1 FROM erasures
    WHERE customer_id = NEW.customer_id AND source_partition = NEW.source_partition AND source_offset > NEW.source_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END;
