{{- /* A primary key cannot be changed, so the rows move. Views must not name a
table that is gone while another gets its name. */ -}}
DROP VIEW IF EXISTS churn_scores_latest;

DROP VIEW IF EXISTS customers_at_risk;

DROP VIEW IF EXISTS model_accuracy_daily;

CREATE TABLE churn_scores_moved
(
    {{columns "churn_scores" "customer_id" "source_offset"}},
    as_of TEXT NOT NULL DEFAULT '',
    trigger TEXT NOT NULL DEFAULT 'EVENT'{{others}},
    PRIMARY KEY (source_partition, source_offset, model_version, as_of)
);

INSERT INTO churn_scores_moved ({{stored}}, as_of)
SELECT {{stored}}, occurred_at
FROM churn_scores;

DROP TABLE churn_scores;

ALTER TABLE churn_scores_moved RENAME TO churn_scores;

CREATE INDEX churn_scores_by_customer ON churn_scores (customer_id, as_of, source_offset, scored_at, model_version);

CREATE TRIGGER churn_scores_erased BEFORE INSERT ON churn_scores
WHEN EXISTS (
    SELECT 1 FROM erasures
    WHERE customer_id = NEW.customer_id AND source_partition = NEW.source_partition AND source_offset > NEW.source_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END;

ALTER TABLE churn_scores_current ADD COLUMN as_of TEXT NOT NULL DEFAULT '';
