package grafana

// Business is for those who keep customers.
var Business = Dashboard{
	File: "business", Title: "Churnstream: customers", From: "now-30d",
	About: "How many customers are at risk, what they pay, how many leave, and how much of that the scores find.",
	Rows: []Row{
		{"Now", []Panel{
			{"Customers", "Customers with a score. Here and below those who have left since count too, until they are erased.", Number, count, 6, []Query{{"sum(max by (risk) (churn_customers_by_risk))", "", ""}}},
			{"At high risk", "Customers at high risk by the thresholds of the model in use, also those who have left since.", Number, count, 6, []Query{{`max(churn_customers_by_risk{risk="HIGH"})`, "", ""}}},
			{"Share at high risk", "Of all customers with a score.", Number, share, 6, []Query{{"job:churn_customers_high_risk:ratio", "", ""}}},
			{"Money at risk", "What the customers at high risk pay in sum, in the unit of the feature that says so (churn_money_feature_info); those who have left since are among them.", Number, count, 6, []Query{{"max(churn_money_at_risk)", "", "if the schema has no feature that says what customers pay."}}},
		}},
		{"Risk", []Panel{
			{"Customers by risk", "By their newest scores, also of customers who have left since and are not erased.", Lines, count, 12, []Query{
				{"max by (risk) (churn_customers_by_risk)", "{{risk}}", ""},
			}},
			{"Money at risk", "What the customers at high risk pay in sum.", Lines, count, 12, []Query{
				{"max(churn_money_at_risk)", "at high risk", "if the schema has no feature that says what customers pay."},
			}},
			{"Share at high risk", "A jump alerts: retention teams will see more or fewer customers than they can call.", Lines, share, 12, []Query{
				{"job:churn_customers_high_risk:ratio", "now", ""},
				{"avg_over_time(job:churn_customers_high_risk:ratio[7d] offset 1d)", "the week before", "until there is a day of history."},
			}},
			{"Customers known", "Customers that the web page can show.", Lines, count, 12, []Query{
				{"max(churn_customers_known)", "customers", ""},
			}},
		}},
		{"Who left", []Panel{
			{"Churn rate", "Share of leavers among the outcomes of the last day.", Lines, share, 8, []Query{
				{`sum(label:churn_labeler_outcomes:increase1d{label="churn"}) / (sum(label:churn_labeler_outcomes:increase1d) > 0)`, "of the last day", "while no outcomes come."},
			}},
			{"Outcomes", "Outcomes of the last day.", Lines, count, 8, []Query{
				{"label:churn_labeler_outcomes:increase1d", "{{label}}", ""},
			}},
			{"Found in time", "Share of the leavers that are among the tenth of the customers with the highest probability, and among the three highest.", Lines, share, 8, []Query{
				{champion(`max by (model_version) (churn_model_gain{decile="1"})`), "highest tenth", ""},
				{champion(`max by (model_version) (churn_model_gain{decile="3"})`), "highest three tenths", ""},
			}},
			{"Segments that leave most", "Share of leavers among the customers with a level of a feature.", Bars, share, 12, []Query{
				{"topk(10, max by (feature, level) (churn_segment_churn_share))", "{{feature}} {{level}}", noExamples},
			}},
			{"What has changed", "Features in which customers differ most from those the model was trained on, over what matters: above 1 it does.", Bars, none, 12, []Query{
				{"topk(10, max by (feature) (churn_feature_psi) / max by (feature) (churn_feature_psi_threshold))", "{{feature}}", ""},
			}},
		}},
	},
}

// Dashboards are all there are.
var Dashboards = []Dashboard{ModelQuality, Pipeline, Business}
