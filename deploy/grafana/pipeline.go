package grafana

import "github.com/grafana/grafana-foundation-sdk/go/units"

const noEvents = "while no events come."

// Pipeline is for those who keep it running.
var Pipeline = Dashboard{
	File: "pipeline", Title: "Churnstream: pipeline", From: "now-6h",
	About: "Whether events are scored in time, what waits and why, and how the processes are.",
	Rows: []Row{
		{"Now", []Panel{
			{"Events", "Customer events processed per second.", Number, each, 0, []Query{{"sum(rate(churn_scorer_events_total[$__rate_interval]))", "", ""}}},
			{"Events that wait", "Records of churn.customer-events not processed yet.", Number, count, 0, []Query{{"sum(max by (partition) (churn_scorer_lag_records))", "", ""}}},
			{"Late scores", "Share of the last hour's events without a score 2.5 s after they occurred. The objective is 1 %.", Number, share, 0,
				[]Query{{"job:churn_event_to_score_seconds:late_ratio_rate1h", "", noEvents}}},
			{"Processes", "Processes that answer.", Number, count, 0, []Query{{`sum(up{job="churnstream"})`, "", ""}}},
			{"Standstill", "Longest time for which a reader has had records and not moved on.", Number, seconds, 0, []Query{{"max(churn_stuck_seconds)", "", ""}}},
			{"Alerts", "Alerts of all kinds that fire.", Number, count, 0, []Query{{`count(ALERTS{alertname=~"Churn.+",alertstate="firing"}) or vector(0)`, "", ""}}},
		}},
		{"Scoring", []Panel{
			{"Events", "Customer events per second, by what became of them.", Lines, each, 8, []Query{
				{"sum by (result) (rate(churn_scorer_events_total[$__rate_interval]))", "{{result}}", ""},
			}},
			{"From event to score", "Time from when an event occurred until its score was acknowledged.", Lines, seconds, 8, []Query{
				{"histogram_quantile(0.5, sum by (le) (rate(churn_event_to_score_seconds_bucket[$__rate_interval])))", "median", noEvents},
				{"histogram_quantile(0.99, sum by (le) (rate(churn_event_to_score_seconds_bucket[$__rate_interval])))", "99 %", noEvents},
				{"vector(2.5)", "objective for 99 %", ""},
			}},
			{"Share of late scores", "Events without a score 2.5 s after they occurred, over several windows. At 14.4 % in an hour, or 6 % in six, the budget of a month is spent within days.", Lines, share, 8, []Query{
				{"job:churn_event_to_score_seconds:late_ratio_rate5m", "5 minutes", noEvents},
				{"job:churn_event_to_score_seconds:late_ratio_rate1h", "1 hour", noEvents},
				{"job:churn_event_to_score_seconds:late_ratio_rate6h", "6 hours", noEvents},
				{"job:churn_event_to_score_seconds:late_ratio_rate3d", "3 days", noEvents},
				{"vector(0.01)", "objective", ""},
			}},
			{"Customers", "Customers whose state scorers hold, by partition.", Lines, count, 8, []Query{
				{"max by (partition) (churn_scorer_customers)", "{{partition}}", ""},
			}},
			{"States being rebuilt", "Records still to be read before a partition is scored.", Lines, count, 8, []Query{
				{"sum(max by (partition) (churn_scorer_restore_remaining_records))", "records", ""},
			}},
			{"Partitions that are refused", "1 while a partition is not scored until somebody decides.", Lines, count, 8, []Query{
				{"max by (reason) (churn_scorer_refused_partitions)", "{{reason}}", ""},
			}},
			{"Missing features", "Share of the scores in which a feature was missing or had a level that the model does not know.", Lines, share, 8, []Query{
				{`sum by (feature) (rate(churn_scorer_missing_features_total[$__rate_interval]))
  / on () group_left () (sum(rate(churn_scorer_events_total{result="scored"}[$__rate_interval])) > 0)`, "{{feature}}", noEvents},
			}},
			{"Dead letters", "Records set aside within 15 minutes, by role and reason.", Lines, count, 8, []Query{
				{"sum by (role, reason) (reason:churn_dead_letters:increase15m)", "{{role}} {{reason}}", "until there has been a dead letter."},
			}},
			{"Model in use", "Version that each scorer uses; they differ for seconds after a change.", Lines, none, 8, []Query{
				{"churn_scorer_model_version", "{{instance}}", ""},
			}},
		}},
		{"What waits", []Panel{
			{"Lag", "Records between a reader's position and the end of its topic.", Lines, count, 12, []Query{
				{"reader_topic:churn_lag_records:sum", "{{reader}}: {{topic}}", ""},
			}},
			{"Standstill", "Time for which a reader has had records and not moved on.", Lines, seconds, 12, []Query{
				{"max by (reader, topic) (churn_stuck_seconds)", "{{reader}}: {{topic}}", ""},
			}},
			{"Partitions read", "Partitions that have a reader. Fewer than there were alert.", Lines, count, 12, []Query{
				{"reader_topic:churn_lag_records:partitions", "{{reader}}: {{topic}}", ""},
			}},
			{"Waiting", "How long roles have been waiting for what they wait for longest. /readyz says what it is.", Lines, seconds, 12, []Query{
				{"max by (instance, role) (churn_waiting_seconds)", "{{instance}} {{role}}", ""},
			}},
			{"Near the end of retention", "Records still to be read that are older than three quarters of their topic's retention.", Lines, count, 12, []Query{
				{"sum by (reader, topic) (max by (reader, topic, partition) (churn_expiring_records))", "{{reader}}: {{topic}}", ""},
			}},
			{"Dependencies", "1 while Kafka and the registry answer the process, and the store its sink.", Lines, none, 12, []Query{
				{"min by (instance, dependency) (churn_dependency_up)", "{{instance}} {{dependency}}", ""},
				{"min by (instance, store) (churn_sink_store_up)", "{{instance}} {{store}}", ""},
			}},
		}},
		{"Labels, stores, questions", []Panel{
			{"Rows", "Rows that stores acknowledged per second.", Lines, each, 8, []Query{
				{"sum by (store, table) (rate(churn_sink_rows_total[$__rate_interval]))", "{{store}} {{table}}", ""},
			}},
			{"Time per batch", "Time that a store took for a batch, 95 %.", Lines, seconds, 8, []Query{
				{"histogram_quantile(0.95, sum by (le, store) (rate(churn_sink_write_duration_seconds_bucket[$__rate_interval])))", "{{store}}", "while nothing is written."},
			}},
			{"Labeler's store", "Bytes on disk of the scores that outcomes may still ask for.", Lines, octets, 8, []Query{
				{"sum by (instance) (churn_labeler_store_bytes)", "{{instance}}", ""},
			}},
			{"Scores kept for labels", "Scores that outcomes may still ask for.", Lines, count, 8, []Query{
				{"sum by (instance) (churn_labeler_kept_scores)", "{{instance}}", ""},
			}},
			{"Requests", "HTTP requests answered per second, by status.", Lines, units.RequestsPerSecond, 8, []Query{
				{"sum by (code) (rate(churn_http_requests_total[$__rate_interval]))", "{{code}}", "until somebody has asked."},
			}},
			{"Time to answer", "95 % of requests take at most so long.", Lines, seconds, 8, []Query{
				{"histogram_quantile(0.95, sum by (le, handler) (rate(churn_http_request_duration_seconds_bucket[$__rate_interval])))", "{{handler}}", "while nobody asks."},
			}},
		}},
		{"Kafka and processes", []Panel{
			{"Records read", "Per second, by topic.", Lines, each, 8, []Query{
				{"sum by (topic) (rate(churn_kafka_fetched_records_total[$__rate_interval]))", "{{topic}}", ""},
			}},
			{"Records written", "Per second and acknowledged, by topic.", Lines, each, 8, []Query{
				{"sum by (topic) (rate(churn_kafka_produced_records_total[$__rate_interval]))", "{{topic}}", ""},
			}},
			{"Requests to Kafka that fail", "Operations that failed and are being tried again.", Lines, count, 8, []Query{
				{"max by (instance) (churn_kafka_retrying)", "{{instance}}", ""},
			}},
			{"CPU", "CPUs that a process uses.", Lines, count, 8, []Query{
				{`rate(process_cpu_seconds_total{job="churnstream"}[$__rate_interval])`, "{{instance}}", ""},
			}},
			{"Memory", "Resident memory.", Lines, octets, 8, []Query{
				{`process_resident_memory_bytes{job="churnstream"}`, "{{instance}}", ""},
			}},
			{"Starts", "Starts of a process within 30 minutes. More than two alert.", Lines, count, 8, []Query{
				{`changes(process_start_time_seconds{job="churnstream"}[30m])`, "{{instance}}", ""},
			}},
		}},
	},
}
