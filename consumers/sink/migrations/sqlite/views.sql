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

DROP VIEW IF EXISTS model_accuracy_daily;

{{- /* The same rule for the score in force as in ClickHouse. The query within is
for older SQLite programs, in which ORDER BY cannot name what is outside. */}}

CREATE VIEW model_accuracy_daily AS
SELECT
    date(o.observed_at) AS day,
    s.model_version AS model_version,
    count(*) AS n,
    avg((s.churn_probability >= 0.5) = o.churned) AS accuracy
FROM churn_outcomes AS o
JOIN churn_scores AS s ON s.rowid =
(
    SELECT score
    FROM (
        SELECT i.rowid AS score, i.as_of, i.source_offset, i.model_version,
            abs(julianday(i.scored_at) - julianday(o.observed_at)) AS away
        FROM churn_scores AS i
        WHERE i.customer_id = o.customer_id AND i.as_of <= o.observed_at
    )
    ORDER BY as_of DESC, source_offset DESC, away, model_version DESC
    LIMIT 1
)
GROUP BY day, s.model_version
ORDER BY day, s.model_version;
