package main

import (
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// topics lists what the roles need. Scores are the scorer's state and models
// the history of decisions, so both are compacted; compaction leaves the last
// 45 days alone, which the trainer and the monitor join over. Outcomes carry
// the broker's time: the monitor asks which score was there when one was
// written.
func topics(partitions, replication int) []kafka.TopicConfig {
	const (
		week       = "604800000"
		days45     = "3888000000"
		compaction = "cleanup.policy"
		lag        = "min.compaction.lag.ms"
		keep       = "retention.ms"
	)
	topic := func(name string, partitions int, configs map[string]string) kafka.TopicConfig {
		return kafka.TopicConfig{Name: name, Partitions: partitions, Replication: replication, Configs: configs}
	}
	return []kafka.TopicConfig{
		topic(schemas.TopicEvents, partitions, map[string]string{keep: week}),
		topic(schemas.TopicScores, partitions, map[string]string{compaction: "compact", lag: days45}),
		topic(schemas.TopicOutcomes, partitions, map[string]string{keep: "-1", "message.timestamp.type": "LogAppendTime"}),
		topic(schemas.TopicModels, 1, map[string]string{compaction: "compact"}),
		topic(schemas.TopicDeadLetters, partitions, map[string]string{keep: days45}),
	}
}

// embeddedTopics are the topics as the embedded broker can have them: it knows
// no min.compaction.lag.ms.
func embeddedTopics(partitions int) []kafka.TopicConfig {
	all := topics(partitions, 1)
	for _, t := range all {
		delete(t.Configs, "min.compaction.lag.ms")
	}
	return all
}
