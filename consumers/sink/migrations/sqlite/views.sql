DROP VIEW IF EXISTS churn_scores_latest;

CREATE VIEW churn_scores_latest AS
SELECT s.*
FROM churn_scores_current AS c
JOIN churn_scores AS s ON s.source_partition = c.source_partition AND s.source_offset = c.source_offset
    AND s.model_version = c.model_version AND s.as_of = c.as_of AND s.customer_id = c.customer_id;

DROP VIEW IF EXISTS customers_at_risk;

CREATE VIEW customers_at_risk AS
SELECT
    s.customer_id AS customer_id,
    s.churn_probability AS churn_probability,
    previous_probability,
    coalesce((
        SELECT group_concat(reason, '; ')
        FROM (
            SELECT printf('%s: %s (%+.2f)', e.value ->> 'feature', coalesce(e.value ->> 'value', 'missing'),
                coalesce(e.value ->> 'lime', e.value ->> 'shap')) AS reason
            FROM json_each(explanations) AS e
            WHERE coalesce(e.value ->> 'lime', e.value ->> 'shap', 0) > 0
            ORDER BY e.key
        )
    ), '') AS reasons,
    best_change_feature,
    best_change_value,
    best_change_probability,
    occurred_at,
    scored_at,
    s.model_version AS model_version{{names}}
FROM churn_scores_current AS c
CROSS JOIN churn_scores AS s ON s.source_partition = c.source_partition AND s.source_offset = c.source_offset
    AND s.model_version = c.model_version AND s.as_of = c.as_of AND s.customer_id = c.customer_id
WHERE c.risk = 'HIGH'
ORDER BY c.churn_probability DESC, c.customer_id;

DROP VIEW IF EXISTS training_set;

CREATE VIEW training_set AS
SELECT *
FROM churn_examples;

DROP VIEW IF EXISTS churn_examples_latest;

CREATE VIEW churn_examples_latest AS
SELECT e.*
FROM (SELECT customer_id, max(observed_at) AS observed_at FROM churn_examples GROUP BY customer_id) AS l
JOIN churn_examples AS e ON e.customer_id = l.customer_id AND e.observed_at = l.observed_at;

DROP VIEW IF EXISTS model_accuracy_daily;

{{- /* The same figures as in ClickHouse. */}}

CREATE VIEW model_accuracy_daily AS
SELECT
    day,
    model_version,
    horizon_seconds,
    examples,
    churned,
    accuracy,
    CAST(hits AS REAL) / nullif(predicted, 0) AS precision,
    CAST(hits AS REAL) / nullif(churned, 0) AS recall,
    log_loss,
    CASE WHEN share > 0 AND share < 1 THEN 1 + log_loss / (share * ln(share) + (1 - share) * ln(1 - share)) END AS log_loss_skill,
    brier
FROM (
    SELECT
        date(observed_at) AS day,
        model_version,
        horizon_seconds,
        count(*) AS examples,
        sum(churned) AS churned,
        avg(churned) AS share,
        avg((churn_probability >= 0.5) = churned) AS accuracy,
        sum(churn_probability >= 0.5) AS predicted,
        sum(churn_probability >= 0.5 AND churned) AS hits,
        avg(-ln(CASE
            WHEN churned THEN min(max(churn_probability, pow(2, -52)), 1 - pow(2, -52))
            ELSE max(1 - max(churn_probability, pow(2, -52)), pow(2, -52))
        END)) AS log_loss,
        avg((churn_probability - churned) * (churn_probability - churned)) AS brier
    FROM churn_examples
    WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
    GROUP BY day, model_version, horizon_seconds
)
ORDER BY day, model_version, horizon_seconds;

DROP VIEW IF EXISTS model_calibration;

CREATE VIEW model_calibration AS
SELECT
    model_version,
    horizon_seconds,
    (p > 1 * 0.1) + (p > 2 * 0.1) + (p > 3 * 0.1) + (p > 4 * 0.1) + (p > 5 * 0.1) + (p > 6 * 0.1) + (p > 7 * 0.1) + (p > 8 * 0.1) + (p > 9 * 0.1) AS decile,
    count(*) AS examples,
    avg(p) AS predicted,
    avg(churned) AS observed
FROM (
    SELECT churned, model_version, horizon_seconds, churn_probability AS p
    FROM churn_examples
    WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
)
GROUP BY model_version, horizon_seconds, decile
ORDER BY model_version, horizon_seconds, decile;
