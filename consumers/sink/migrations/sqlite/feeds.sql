{{- define "current"}}
    INSERT OR REPLACE INTO churn_scores_current (customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk)
    SELECT customer_id, source_partition, source_offset, model_version, as_of, churn_probability, risk
    FROM churn_scores
    WHERE customer_id = {{.}}.customer_id
    ORDER BY as_of DESC, source_offset DESC, scored_at DESC, model_version DESC
    LIMIT 1;
END{{end -}}
{{- /* The latest is looked up anew instead of compared with the row written: a
row written again, or out of order, or deleted then needs no thought. A program
of version 1 to 3 knows no as_of. */ -}}
DROP TRIGGER IF EXISTS churn_scores_inserted;

CREATE TRIGGER churn_scores_inserted AFTER INSERT ON churn_scores WHEN NEW.as_of != '' BEGIN
{{- template "current" "NEW"}};

DROP TRIGGER IF EXISTS churn_scores_without_as_of;

CREATE TRIGGER churn_scores_without_as_of AFTER INSERT ON churn_scores WHEN NEW.as_of = '' BEGIN
    UPDATE OR REPLACE churn_scores SET as_of = occurred_at WHERE rowid = NEW.rowid;
{{- template "current" "NEW"}};

DROP TRIGGER IF EXISTS churn_scores_deleted;

CREATE TRIGGER churn_scores_deleted AFTER DELETE ON churn_scores BEGIN
    DELETE FROM churn_scores_current WHERE customer_id = OLD.customer_id;
{{- template "current" "OLD"}};
