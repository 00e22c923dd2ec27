{{- /* Rows that are there have the recency of before, which is lower than any of
after. */ -}}
ALTER TABLE churn_scores_current MATERIALIZE COLUMN score_recency SETTINGS mutations_sync = 2;

ALTER TABLE churn_scores_at_risk MATERIALIZE COLUMN score_recency SETTINGS mutations_sync = 2;

INSERT INTO churn_scores_current ({{stored}})
SELECT {{stored}}
FROM churn_scores
ORDER BY customer_id, as_of DESC, source_offset DESC, scored_at DESC, model_version DESC
LIMIT 1 BY customer_id;

INSERT INTO churn_scores_at_risk ({{stored}})
SELECT {{stored}}
FROM churn_scores_current FINAL
WHERE risk = 'HIGH';
