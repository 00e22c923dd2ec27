-- What version 4 of the tables was in SQLite, for the shipped customer schema. Never edited.
CREATE TABLE IF NOT EXISTS schema_migrations
(
    version INTEGER PRIMARY KEY,
    applied_at TEXT NOT NULL
);

CREATE TABLE churn_scores
(
    customer_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    occurred_at TEXT NOT NULL,
    scored_at TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    previous_probability REAL,
    risk TEXT NOT NULL,
    expected_probability REAL,
    explanations TEXT NOT NULL,
    missing TEXT NOT NULL,
    best_change_feature TEXT,
    best_change_value TEXT,
    best_change_probability REAL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    "gender" TEXT,
    "SeniorCitizen" TEXT,
    "Partner" TEXT,
    "Dependents" TEXT,
    "tenure" REAL,
    "PhoneService" TEXT,
    "MultipleLines" TEXT,
    "InternetService" TEXT,
    "OnlineSecurity" TEXT,
    "OnlineBackup" TEXT,
    "DeviceProtection" TEXT,
    "TechSupport" TEXT,
    "StreamingTV" TEXT,
    "StreamingMovies" TEXT,
    "Contract" TEXT,
    "PaperlessBilling" TEXT,
    "PaymentMethod" TEXT,
    "MonthlyCharges" REAL,
    "TotalCharges" REAL,
    PRIMARY KEY (source_partition, source_offset, model_version)
);

CREATE INDEX churn_scores_by_customer ON churn_scores (customer_id, source_offset, scored_at, model_version);

CREATE TABLE churn_outcomes
(
    customer_id TEXT NOT NULL,
    observed_at TEXT NOT NULL,
    churned INTEGER NOT NULL,
    source TEXT NOT NULL,
    PRIMARY KEY (customer_id, observed_at)
) WITHOUT ROWID;

CREATE TABLE model_versions
(
    version INTEGER PRIMARY KEY,
    created_at TEXT NOT NULL,
    stage TEXT NOT NULL,
    reason TEXT NOT NULL,
    payload TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    holdout_rows INTEGER NOT NULL,
    accuracy REAL,
    precision REAL,
    recall REAL,
    f1 REAL,
    roc_auc REAL,
    log_loss REAL,
    brier REAL,
    calibration_error REAL,
    top_decile_lift REAL,
    champion_accuracy REAL,
    champion_precision REAL,
    champion_recall REAL,
    champion_f1 REAL,
    champion_roc_auc REAL,
    champion_log_loss REAL,
    champion_brier REAL,
    champion_calibration_error REAL,
    champion_top_decile_lift REAL,
    training_start TEXT NOT NULL,
    training_end TEXT NOT NULL,
    training_rows INTEGER NOT NULL,
    labels_seen INTEGER NOT NULL,
    feature_fingerprint TEXT NOT NULL,
    medium_threshold REAL,
    high_threshold REAL,
    baseline TEXT NOT NULL,
    record_offset INTEGER NOT NULL
);

CREATE TABLE churn_scores_current
(
    customer_id TEXT PRIMARY KEY,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    risk TEXT NOT NULL
) WITHOUT ROWID;

CREATE INDEX churn_scores_current_at_risk ON churn_scores_current (churn_probability DESC, customer_id) WHERE risk = 'HIGH';

CREATE TABLE erasures
(
    customer_id TEXT NOT NULL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    erased_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (customer_id, source_partition, source_offset)
) WITHOUT ROWID;

CREATE TRIGGER churn_scores_erased BEFORE INSERT ON churn_scores
WHEN EXISTS (
    SELECT 1 FROM erasures
    WHERE customer_id = NEW.customer_id AND source_partition = NEW.source_partition AND source_offset > NEW.source_offset
)
BEGIN
    SELECT RAISE(IGNORE);
END;

DROP VIEW IF EXISTS churn_scores_latest;

DROP VIEW IF EXISTS customers_at_risk;

DROP VIEW IF EXISTS model_accuracy_daily;

CREATE TABLE churn_scores_moved
(
    customer_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    occurred_at TEXT NOT NULL,
    scored_at TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    churn_probability REAL,
    previous_probability REAL,
    risk TEXT NOT NULL,
    expected_probability REAL,
    explanations TEXT NOT NULL,
    missing TEXT NOT NULL,
    best_change_feature TEXT,
    best_change_value TEXT,
    best_change_probability REAL,
    source_partition INTEGER NOT NULL,
    source_offset INTEGER NOT NULL,
    as_of TEXT NOT NULL DEFAULT '',
    trigger TEXT NOT NULL DEFAULT 'EVENT',
    "Contract" TEXT,
    "Dependents" TEXT,
    "DeviceProtection" TEXT,
    "gender" TEXT,
    "InternetService" TEXT,
    "MonthlyCharges" REAL,
    "MultipleLines" TEXT,
    "OnlineBackup" TEXT,
    "OnlineSecurity" TEXT,
    "PaperlessBilling" TEXT,
    "Partner" TEXT,
    "PaymentMethod" TEXT,
    "PhoneService" TEXT,
    "SeniorCitizen" TEXT,
    "StreamingMovies" TEXT,
    "StreamingTV" TEXT,
    "TechSupport" TEXT,
    "tenure" REAL,
    "TotalCharges" REAL,
    PRIMARY KEY (source_partition, source_offset, model_version, as_of)
);

INSERT INTO churn_scores_moved ("best_change_feature", "best_change_probability", "best_change_value", "churn_probability", "Contract", "customer_id", "Dependents", "DeviceProtection", "event_id", "expected_probability", "explanations", "gender", "InternetService", "missing", "model_version", "MonthlyCharges", "MultipleLines", "occurred_at", "OnlineBackup", "OnlineSecurity", "PaperlessBilling", "Partner", "PaymentMethod", "PhoneService", "previous_probability", "risk", "scored_at", "SeniorCitizen", "source_offset", "source_partition", "StreamingMovies", "StreamingTV", "TechSupport", "tenure", "TotalCharges", as_of)
SELECT "best_change_feature", "best_change_probability", "best_change_value", "churn_probability", "Contract", "customer_id", "Dependents", "DeviceProtection", "event_id", "expected_probability", "explanations", "gender", "InternetService", "missing", "model_version", "MonthlyCharges", "MultipleLines", "occurred_at", "OnlineBackup", "OnlineSecurity", "PaperlessBilling", "Partner", "PaymentMethod", "PhoneService", "previous_probability", "risk", "scored_at", "SeniorCitizen", "source_offset", "source_partition", "StreamingMovies", "StreamingTV", "TechSupport", "tenure", "TotalCharges", occurred_at
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

DROP TRIGGER IF EXISTS churn_scores_inserted;

CREATE TRIGGER churn_scores_inserted AFTER INSERT ON churn_scores WHEN NEW.as_of != '' BEGIN
    INSERT OR REPLACE INTO churn_scores_current (customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk)
    SELECT customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk
    FROM churn_scores
    WHERE customer_id = NEW.customer_id
    ORDER BY as_of DESC, source_offset DESC, scored_at DESC, model_version DESC
    LIMIT 1;
END;

DROP TRIGGER IF EXISTS churn_scores_without_as_of;

CREATE TRIGGER churn_scores_without_as_of AFTER INSERT ON churn_scores WHEN NEW.as_of = '' BEGIN
    UPDATE OR REPLACE churn_scores SET as_of = occurred_at WHERE rowid = NEW.rowid;
    INSERT OR REPLACE INTO churn_scores_current (customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk)
    SELECT customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk
    FROM churn_scores
    WHERE customer_id = NEW.customer_id
    ORDER BY as_of DESC, source_offset DESC, scored_at DESC, model_version DESC
    LIMIT 1;
END;

DROP TRIGGER IF EXISTS churn_scores_deleted;

CREATE TRIGGER churn_scores_deleted AFTER DELETE ON churn_scores BEGIN
    DELETE FROM churn_scores_current WHERE customer_id = OLD.customer_id;
    INSERT OR REPLACE INTO churn_scores_current (customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk)
    SELECT customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk
    FROM churn_scores
    WHERE customer_id = OLD.customer_id
    ORDER BY as_of DESC, source_offset DESC, scored_at DESC, model_version DESC
    LIMIT 1;
END;

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
    s.model_version AS model_version,
    "gender",
    "SeniorCitizen",
    "Partner",
    "Dependents",
    "tenure",
    "PhoneService",
    "MultipleLines",
    "InternetService",
    "OnlineSecurity",
    "OnlineBackup",
    "DeviceProtection",
    "TechSupport",
    "StreamingTV",
    "StreamingMovies",
    "Contract",
    "PaperlessBilling",
    "PaymentMethod",
    "MonthlyCharges",
    "TotalCharges"
FROM churn_scores_current AS c
CROSS JOIN churn_scores AS s ON s.source_partition = c.source_partition AND s.source_offset = c.source_offset
    AND s.model_version = c.model_version AND s.as_of = c.as_of AND s.customer_id = c.customer_id
WHERE c.risk = 'HIGH'
ORDER BY c.churn_probability DESC, c.customer_id;

DROP VIEW IF EXISTS model_accuracy_daily;

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

INSERT INTO schema_migrations (version, applied_at) VALUES (1, '2026-01-01 00:00:00.000'), (2, '2026-01-01 00:00:00.000'), (3, '2026-01-01 00:00:00.000'), (4, '2026-01-01 00:00:00.000');
