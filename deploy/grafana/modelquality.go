package grafana

// Reasons why there may be nothing to show.
const (
	noExamples   = "until the version has enough examples of both classes."
	noChallenger = "while there is no challenger newer than the champion, or no example that is new to both."
	noTraining   = "until this trainer has trained."
)

// figure is a figure of the chosen versions, which every monitor says alike.
func figure(name string) string {
	return "max by (model_version) (" + name + `{model_version=~"$version"})`
}

// champion keeps the champion's series.
func champion(expr string) string {
	return expr + "\n  and on (model_version) churn_model_info{stage=\"champion\"}"
}

// against shows a figure of every version, and the champion's interval beside
// that of its holdout.
func against(name string) []Query {
	end := func(metric, end string) string {
		return champion(`max by (model_version) (` + metric + `_figure_` + end + `{figure="` + name + `"})`)
	}
	return []Query{
		{figure("churn_model_" + name), "{{model_version}}", ""},
		{end("churn_model", "lower"), "champion, lower end", ""},
		{end("churn_model", "upper"), "champion, upper end", ""},
		{end("churn_model_holdout", "lower"), "holdout, lower end", ""},
		{end("churn_model_holdout", "upper"), "holdout, upper end", ""},
	}
}

// estimated shows a figure beside what is expected of it before labels come.
func estimated(name string) []Query {
	return []Query{
		{champion("max by (model_version) (churn_model_" + name + ")"), "{{model_version}} measured", ""},
		{champion("max by (model_version) (churn_model_expected_" + name + ")"), "{{model_version}} expected", ""},
		{champion(`max by (model_version) (churn_model_expected_figure_lower{figure="` + name + `"})`), "{{model_version}} expected, lower end", ""},
		{champion(`max by (model_version) (churn_model_expected_figure_upper{figure="` + name + `"})`), "{{model_version}} expected, upper end", ""},
	}
}

const intervals = " Dashed: the ends of the 95 % intervals, live and on the rows held out at training. They alert when the live one lies beyond the other."

// ModelQuality is for those who own the model.
var ModelQuality = Dashboard{
	File: "model-quality", Title: "Churnstream: model quality", From: "now-7d",
	About: "How good the models are, live and against their holdouts; what has changed; which features cost the loss; whether labels come.",
	Rows: []Row{
		{"Now", []Panel{
			{"Champion", "Version of the model in use.", Number, none, 0, []Query{{"max(churn_models_champion_version)", "", ""}}},
			{"Age of the champion", "Time since it was trained.", Number, seconds, 0, []Query{{"max(churn_model_age_seconds)", "", ""}}},
			{"Skill", "One minus the champion's log loss over that of giving everybody the churn rate. At 0 and below the scores say nothing.", Number, share, 0,
				[]Query{{champion("max by (model_version) (churn_model_log_loss_skill)"), "", ""}}},
			{"ROC AUC", "Probability that the champion gives a leaver a higher score than a stayer.", Number, none, 0,
				[]Query{{champion("max by (model_version) (churn_model_roc_auc)"), "", ""}}},
			{"Examples", "Labelled examples that the champion's figures are over.", Number, count, 0,
				[]Query{{champion("max by (model_version) (churn_model_window_outcomes)"), "", ""}}},
			{"Alerts", "Alerts on models and labels that fire.", Number, count, 0,
				[]Query{{`count(ALERTS{alertname=~"Churn(Model|NoModel|Challenger|HighRisk|Feature|Score|Reason|Label|Outcomes).*",alertstate="firing"}) or vector(0)`, "", ""}}},
		}},
		{"Figures over the newest examples", []Panel{
			{"Skill of the log loss", "Over giving everybody the churn rate: it survives imbalance, which accuracy does not." + intervals, Lines, share, 12, against("log_loss_skill")},
			{"ROC AUC", "How well leavers are told from stayers." + intervals, Lines, none, 12, against("roc_auc")},
			{"Calibration error", "Mean distance of the probability from the churn rate over ten bins." + intervals, Lines, share, 12, against("calibration_error")},
			{"Precision and recall", "Of those predicted to leave (probability 0.5), the share that left; of leavers, the share that was predicted.", Lines, share, 12, []Query{
				{figure("churn_model_precision"), "{{model_version}} precision", ""},
				{figure("churn_model_recall"), "{{model_version}} recall", ""},
			}},
			{"Average precision and lift", "Area under the precision-recall curve, and how many times the churn rate the tenth with the highest probability has.", Lines, none, 12, []Query{
				{figure("churn_model_pr_auc"), "{{model_version}} average precision", ""},
				{figure("churn_model_top_decile_lift"), "{{model_version}} lift", ""},
			}},
			{"Outcomes by prediction", "Outcomes of the last day by what the champion had predicted and what happened.", Lines, count, 12, []Query{
				{champion("model_version_predicted_actual:churn_outcomes:increase1d"), "predicted {{predicted}}, was {{actual}}", ""},
			}},
		}},
		{"Before labels arrive", []Panel{
			{"ROC AUC, expected", "What is expected of the newest scores if probabilities are calibrated. It cannot see a change in what makes customers leave.", Lines, none, 12, estimated("roc_auc")},
			{"Log loss, expected", "Natural logarithm. What is expected of the newest scores if probabilities are calibrated. It cannot see a change in what makes customers leave.", Lines, none, 12, estimated("log_loss")},
			{"Brier score, expected", "Mean squared error of the probability.", Lines, none, 12, estimated("brier")},
			{"Accuracy, expected", "Share of right predictions. Where few leave it says little; no alert rests on it.", Lines, share, 12, estimated("accuracy")},
		}},
		{"Calibration, gains, age of scores", []Panel{
			{"Observed less predicted, by bin", "Churn rate less mean probability of the champion's examples in each tenth of the range. Above 0, more leave than was said.", Lines, share, 8, []Query{
				{champion("max by (model_version, bin) (churn_model_calibration_observed)\n  - max by (model_version, bin) (churn_model_calibration_predicted)"), "bin {{bin}}", ""},
			}},
			{"Gains", "Share of all leavers among so many tenths of the customers with the highest probability.", Bars, share, 8, []Query{
				{"sort_desc(" + champion("max by (model_version, decile) (churn_model_gain)") + ")", "{{decile}} tenths", ""},
			}},
			{"Log loss by age of the score", "How much worse scores are that were old at the decision.", Lines, none, 8, []Query{
				{champion("max by (model_version, age) (churn_age_log_loss)"), "{{age}}", ""},
			}},
		}},
		{"Segments of the champion", []Panel{
			{"Least skill", "Segments with the least skill of the log loss; below 0, scores say less of them than their churn rate.", Bars, share, 8, []Query{
				{"bottomk(10, max by (feature, level) (churn_segment_log_loss_skill))", "{{feature}} {{level}}", noExamples},
			}},
			{"Lowest ROC AUC", "Segments in which leavers are told from stayers worst.", Bars, none, 8, []Query{
				{"bottomk(10, max by (feature, level) (churn_segment_roc_auc))", "{{feature}} {{level}}", noExamples},
			}},
			{"Highest churn", "Segments with the largest share of leavers.", Bars, share, 8, []Query{
				{"topk(10, max by (feature, level) (churn_segment_churn_share))", "{{feature}} {{level}}", noExamples},
			}},
		}},
		{"Drift", []Panel{
			{"Features", "Population stability index against training, over its threshold: above 1 it is more than chance makes, and enough to matter.", Lines, none, 8, []Query{
				{"topk(10, max by (feature) (churn_feature_psi) / max by (feature) (churn_feature_psi_threshold))", "{{feature}}", ""},
			}},
			{"Probabilities", "Population stability index of the probabilities, by model version.", Lines, none, 8, []Query{
				{figure("churn_score_psi"), "{{model_version}}", ""},
				{figure("churn_score_psi_threshold"), "{{model_version}} threshold", ""},
			}},
			{"Reasons", "Change of the mean contribution (SHAP) of a feature in standard deviations, over its threshold: beyond 1 or -1 it is more than chance makes.", Lines, none, 8, []Query{
				{"topk(10, abs(max by (feature) (churn_reason_drift)) / max by (feature) (churn_reason_drift_threshold))", "{{feature}}", ""},
			}},
			{"Scores that drift is measured on", "With few of them the thresholds are high.", Number, count, 8, []Query{{"max(churn_drift_window_scores)", "", ""}}},
		}},
		{"Which features cost the loss", []Panel{
			{"Change of the loss", "Log loss over the newest window less that over the one before.", Lines, none, 8, []Query{
				{"max(churn_loss_change)", "log loss", "until there are a hundred examples from before the window."},
			}},
			{"Rise by feature", "Exact Shapley values of the log loss, newest window less the one before: which features the loss rose by.", Bars, none, 8, []Query{
				{"topk(10, max by (feature) (churn_loss_shapley_change))", "{{feature}}", "until there are a hundred examples from before the window."},
			}},
			{"Share of features", "Mean Shapley value of the log loss; below 0, the feature lowers it.", Bars, none, 8, []Query{
				{"sort(max by (feature) (churn_loss_shapley))", "{{feature}}", ""},
			}},
		}},
		{"Challenger in the shadow", []Panel{
			{"Log loss", "What champion and challenger would have had on the examples that are new to both.", Lines, none, 12, []Query{
				{"max by (role, model_version) (churn_shadow_log_loss)", "{{role}} {{model_version}}", noChallenger},
			}},
			{"Challenger less champion", "With its 95 % interval: when its upper end is below 0 the challenger is better.", Lines, none, 12, []Query{
				{"max by (model_version) (churn_shadow_log_loss_difference)", "{{model_version}}", noChallenger},
				{"max by (model_version) (churn_shadow_log_loss_difference_lower)", "{{model_version}} lower end", noChallenger},
				{"max by (model_version) (churn_shadow_log_loss_difference_upper)", "{{model_version}} upper end", noChallenger},
			}},
		}},
		{"Labels and training", []Panel{
			{"Examples", "Labelled examples made per hour, by label.", Lines, count, 8, []Query{
				{"sum by (label) (rate(churn_labeler_examples_total[$__rate_interval])) * 3600", "{{label}}", ""},
			}},
			{"Outcomes without a score", "Share of the last day's outcomes that became no examples. Where it differs between the labels, the churn rate among examples is wrong.", Lines, share, 8, []Query{
				{"label:churn_labeler_unmatched:ratio_increase1d", "{{label}}", ""},
			}},
			{"Delay of labels", "Time from when an outcome was observed until it was written.", Lines, seconds, 8, []Query{
				{"histogram_quantile(0.5, sum by (le) (rate(churn_label_delay_seconds_bucket[$__rate_interval])))", "median", "while no outcomes come."},
				{"histogram_quantile(0.95, sum by (le) (rate(churn_label_delay_seconds_bucket[$__rate_interval])))", "95 %", "while no outcomes come."},
			}},
			{"Last outcome", "Time since the newest outcome came.", Number, seconds, 6, []Query{{"time() - max(churn_labeler_last_outcome_timestamp_seconds)", "", ""}}},
			{"Outcomes that wait", "Outcomes that wait for the score they belong to.", Number, count, 6, []Query{{"sum(churn_labeler_waiting_outcomes)", "", ""}}},
			{"New labels", "Examples that the trainer has and the newest model has not learnt from.", Number, count, 6, []Query{{"max(churn_trainer_new_labels)", "", ""}}},
			{"Last training", "Time since the last model version was published.", Number, seconds, 6, []Query{{"time() - (max(churn_trainer_last_training_timestamp_seconds) > 0)", "", noTraining}}},
			{"Trainings", "Trainings per day, by what came of them.", Lines, count, 12, []Query{
				{"sum by (result) (increase(churn_trainer_trainings_total[1d]))", "{{result}}", ""},
			}},
			{"Corrections and repetitions", "Labels per hour that replaced an earlier one of the same customer and moment, and such as said the same again.", Lines, count, 12, []Query{
				{"sum(rate(churn_labeler_corrections_total[$__rate_interval])) * 3600", "corrections", ""},
				{"sum(rate(churn_labeler_duplicates_total[$__rate_interval])) * 3600", "repetitions", ""},
			}},
		}},
	},
}
