{{- /* The order starts as the table's does, so the server streams instead of
sorting. */ -}}
INSERT INTO churn_scores_current ({{stored}})
SELECT {{stored}}
FROM churn_scores
ORDER BY customer_id, source_offset DESC, scored_at DESC, model_version DESC
LIMIT 1 BY customer_id;

INSERT INTO churn_scores_at_risk ({{stored}})
SELECT {{stored}}
FROM churn_scores_current FINAL
WHERE risk = 'HIGH';
