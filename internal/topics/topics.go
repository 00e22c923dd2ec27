// Package topics says what topics there are, with which settings they are
// created, and which of these settings the guarantees rest on.
package topics

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// Severity is what follows from a setting that is not as it should be.
type Severity uint8

const (
	// Advice: something works less well than it could.
	Advice Severity = iota
	// Loss: state or events would be lost, or nothing could be written.
	Loss
)

// rule is what one setting of a topic has to be.
type rule struct {
	setting string
	// create is what the topic is created with, "" for the broker's default.
	create   string
	should   string // for people
	ok       func(value string) bool
	severity Severity
	// why says what happens otherwise.
	why string
}

// topic is one of the topics there are.
type topic struct {
	name string
	// single is true of a topic that has one partition.
	single bool
	rules  []rule
}

const (
	day  = 24 * time.Hour
	week = 7 * day
	// joinable is for how long scores of the past are looked up.
	joinable = 45 * day
)

// Of the names of settings.
const (
	cleanupPolicy  = "cleanup.policy"
	retention      = "retention.ms"
	compactionLag  = "min.compaction.lag.ms"
	deleteAfter    = "delete.retention.ms"
	timestampType  = "message.timestamp.type"
	uncleanElected = "unclean.leader.election.enable"
	messageBytes   = "max.message.bytes"
)

// all lists the topics. Scores are the scorer's state, examples what models are
// trained and measured on, and models the history of decisions, so these are
// compacted; compaction leaves the last 45 days of scores alone, which is how far
// back one is joined with its outcome. Tombstones stay for a week after compaction,
// which is for how long a sink may be away and still learn of every erasure.
// Outcomes are kept until they surely are examples, and no longer. Events and
// outcomes carry the broker's time: whether their own is too far ahead, and which
// score was there when an outcome was written, is asked of it.
func all() []topic {
	return []topic{
		{name: schemas.TopicEvents, rules: []rule{
			policy("delete", "compaction would remove events that have not been scored, with the amounts they add"),
			atLeast(retention, week, day, Advice, "events that wait longer than this are deleted before they are scored"),
			brokerTime("what is too far ahead to be true is judged by the producer's clock, and retention goes by it too"),
			unclean("acknowledged events can be lost"),
			writable,
		}},
		{name: schemas.TopicScores, rules: []rule{
			policy("compact", "the state of every customer without a recent event would be deleted"),
			atLeast(compactionLag, joinable, joinable, Advice, "outcomes that arrive later than this find no score to be joined with"),
			atLeast(deleteAfter, week, day, Loss, "a scorer that restores from a snapshot, or a sink that was away, may miss the erasure of a customer"),
			unclean("acknowledged scores, which are the state, can be lost"),
			writable,
		}},
		{name: schemas.TopicOutcomes, rules: []rule{
			policy("delete", "compaction would remove labels"),
			within(retention, 2*joinable, joinable, "labels that have still to become examples are deleted, or else labels of erased customers stay on disk"),
			brokerTime("which score was in force when an outcome was written is judged by the producer's clock"),
			unclean("acknowledged labels can be lost"),
			writable,
		}},
		{name: schemas.TopicExamples, rules: []rule{
			policy("compact", "the examples that models are trained and measured on would be deleted"),
			atLeast(deleteAfter, week, day, Advice, "a labeler or sink that was away may miss the erasure of a customer"),
			unclean("acknowledged examples can be lost"),
			writable,
		}},
		{name: schemas.TopicModels, single: true, rules: []rule{
			policy("compact", "the model in use would be deleted after a while, and scorers could not start"),
			unclean("acknowledged model versions can be lost"),
			writable,
		}},
		{name: schemas.TopicDeadLetters, rules: []rule{
			policy("delete", "dead letters have no key, and a compacted topic does not take records without one"),
			atLeast(retention, joinable, week, Advice, "dead letters are deleted before somebody has looked at them"),
			writable,
		}},
	}
}

// brokerTime asks for records to carry the broker's time.
func brokerTime(otherwise string) rule {
	const want = "LogAppendTime"
	return rule{setting: timestampType, create: want, should: want, severity: Advice, why: otherwise, ok: func(v string) bool { return v == want }}
}

func policy(want, otherwise string) rule {
	return rule{setting: cleanupPolicy, create: want, should: want, severity: Loss, why: otherwise, ok: func(v string) bool {
		return strings.ReplaceAll(v, " ", "") == want
	}}
}

// atLeast asks for a time in milliseconds, of which −1 is without end. A create
// of 0 leaves the broker's default.
func atLeast(setting string, create, least time.Duration, severity Severity, otherwise string) rule {
	r := rule{setting: setting, should: fmt.Sprintf("≥ %d", least.Milliseconds()), severity: severity, why: otherwise}
	switch {
	case create < 0:
		r.create = "-1"
	case create > 0:
		r.create = strconv.FormatInt(create.Milliseconds(), 10)
	}
	r.ok = func(v string) bool {
		ms, err := strconv.ParseInt(v, 10, 64)
		return err == nil && (ms < 0 || ms >= least.Milliseconds())
	}
	return r
}

// within is atLeast, of a time that has an end too.
func within(setting string, create, least time.Duration, otherwise string) rule {
	r := atLeast(setting, create, least, Advice, otherwise)
	enough := r.ok
	r.should += ", not without end"
	r.ok = func(v string) bool { return enough(v) && !strings.HasPrefix(v, "-") }
	return r
}

func unclean(otherwise string) rule {
	return rule{setting: uncleanElected, should: "false", severity: Advice, why: "when a replica that lags becomes the leader, " + otherwise,
		ok: func(v string) bool { return v != "true" }}
}

// writable is that batches of the size that is written by default are taken.
var writable = rule{
	setting: messageBytes, should: "≥ 1048588", severity: Loss, why: "batches of --kafka-batch-bytes would be refused for ever",
	ok: func(v string) bool {
		n, err := strconv.ParseInt(v, 10, 64)
		return err == nil && n >= 1048588
	},
}

// Names returns the topics' names.
func Names() []string {
	var names []string
	for _, t := range all() {
		names = append(names, t.name)
	}
	return names
}

// Configs returns the topics as they are to be created.
func Configs(partitions, replication int) []kafka.TopicConfig {
	var configs []kafka.TopicConfig
	for _, t := range all() {
		c := kafka.TopicConfig{Name: t.name, Partitions: partitions, Replication: replication, Configs: map[string]string{}}
		if t.single {
			c.Partitions = 1
		}
		for _, r := range t.rules {
			if r.create != "" {
				c.Configs[r.setting] = r.create
			}
		}
		configs = append(configs, c)
	}
	return configs
}

// EmbeddedConfigs returns the topics as the embedded broker can have them: it
// knows no min.compaction.lag.ms.
func EmbeddedConfigs(partitions int) []kafka.TopicConfig {
	configs := Configs(partitions, 1)
	for _, c := range configs {
		delete(c.Configs, compactionLag)
	}
	return configs
}
