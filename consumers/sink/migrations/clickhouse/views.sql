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

CREATE OR REPLACE VIEW training_set AS
SELECT *
FROM churn_examples FINAL;

CREATE OR REPLACE VIEW churn_examples_latest AS
SELECT *
FROM churn_examples FINAL
ORDER BY customer_id, observed_at DESC
LIMIT 1 BY customer_id;

{{- /* The figures are those of scoring/evaluation. Where one is not defined, as the
skill on a day with one kind of label, it is NULL. */}}

CREATE OR REPLACE VIEW model_accuracy_daily AS
SELECT
    day,
    model_version,
    horizon_seconds,
    examples,
    churned,
    accuracy,
    if(predicted = 0, NULL, hits / predicted) AS precision,
    if(churned = 0, NULL, hits / churned) AS recall,
    log_loss,
    if(churned = 0 OR churned = examples, NULL,
        1 + log_loss / (churned / examples * log(churned / examples) + (1 - churned / examples) * log(1 - churned / examples))) AS log_loss_skill,
    brier
FROM
(
    SELECT
        toDate(observed_at) AS day,
        assumeNotNull(model_version) AS model_version,
        horizon_seconds,
        count() AS examples,
        countIf(churned) AS churned,
        avg((p >= 0.5) = e.churned) AS accuracy,
        countIf(p >= 0.5) AS predicted,
        countIf(p >= 0.5 AND e.churned) AS hits,
        avg(-if(e.churned, log(least(greatest(p, exp2(-52)), 1 - exp2(-52))), greatest(log1p(-greatest(p, exp2(-52))), log(exp2(-52))))) AS log_loss,
        avg(pow(p - e.churned, 2)) AS brier
    FROM
    (
        SELECT observed_at, churned, model_version, horizon_seconds, assumeNotNull(churn_probability) AS p
        FROM churn_examples FINAL
        WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
    ) AS e
    GROUP BY day, model_version, horizon_seconds
)
ORDER BY day, model_version, horizon_seconds;

CREATE OR REPLACE VIEW model_calibration AS
SELECT
    assumeNotNull(model_version) AS model_version,
    horizon_seconds,
    toInt32((p > 1 * 0.1) + (p > 2 * 0.1) + (p > 3 * 0.1) + (p > 4 * 0.1) + (p > 5 * 0.1) + (p > 6 * 0.1) + (p > 7 * 0.1) + (p > 8 * 0.1) + (p > 9 * 0.1)) AS decile,
    count() AS examples,
    avg(p) AS predicted,
    avg(churned) AS observed
FROM
(
    SELECT churned, model_version, horizon_seconds, assumeNotNull(churn_probability) AS p
    FROM churn_examples FINAL
    WHERE model_version IS NOT NULL AND churn_probability IS NOT NULL
)
GROUP BY model_version, horizon_seconds, decile
ORDER BY model_version, horizon_seconds, decile;
