INSERT INTO churn_scores_current (customer_id, source_partition, source_offset, model_version, churn_probability, risk)
SELECT customer_id, source_partition, source_offset, model_version, churn_probability, risk
FROM (
    SELECT *, row_number() OVER (PARTITION BY customer_id ORDER BY source_offset DESC, scored_at DESC, model_version DESC) AS n
    FROM churn_scores
)
WHERE n = 1;
