CREATE OR REPLACE VIEW churn_scores_latest AS
SELECT *
FROM churn_scores_current FINAL;

CREATE OR REPLACE VIEW customers_at_risk AS
SELECT
    customer_id,
    churn_probability,
    previous_probability,
    arrayStringConcat(
        arrayMap(
            e -> printf('%s: %s (%+.2f)', toString(e.feature), ifNull(e.value, 'missing'), coalesce(e.lime, e.shap, 0)),
            arrayFilter(e -> coalesce(e.lime, e.shap, 0) > 0, explanations)),
        '; ') AS reasons,
    best_change_feature,
    best_change_value,
    best_change_probability,
    occurred_at,
    scored_at,
    model_version{{names}}
FROM churn_scores_at_risk FINAL
WHERE risk = 'HIGH'
ORDER BY churn_probability DESC, customer_id;

{{- /* In force is the score that spoke of the latest moment up to that at which
the outcome was observed. An event scored again by a later model has several:
the one computed last before the outcome, or, in history that was scored
afterwards, the first. */}}

CREATE OR REPLACE VIEW model_accuracy_daily AS
SELECT
    toDate(observed_at) AS day,
    in_force.1 AS model_version,
    count() AS n,
    avg((in_force.2 >= 0.5) = churned) AS accuracy
FROM
(
    SELECT
        o.observed_at AS observed_at,
        any(o.churned) AS churned,
        argMax(
            (s.model_version, s.churn_probability),
            (s.as_of, s.source_offset,
             -abs(toUnixTimestamp64Milli(s.scored_at) - toUnixTimestamp64Milli(o.observed_at)), s.model_version)) AS in_force
    FROM churn_scores AS s
    INNER JOIN (SELECT customer_id, observed_at, churned FROM churn_outcomes FINAL) AS o ON s.customer_id = o.customer_id
    WHERE s.as_of <= o.observed_at
    GROUP BY o.customer_id, o.observed_at
)
GROUP BY day, model_version
ORDER BY day, model_version;
