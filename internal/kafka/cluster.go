package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/churnstream/churnstream/internal/retry"
	"github.com/churnstream/churnstream/internal/settings"
)

// ErrUnknownTopic is matched when the cluster has no topic of that name.
var ErrUnknownTopic = errors.New("unknown topic")

// metadataTTL bounds how long a write goes to a partition's former leader.
const metadataTTL = 2 * time.Second

// Config configures Connect. Brokers is required.
type Config struct {
	// Brokers are the host:port addresses to start from. One suffices; more
	// help when that one is down. Required.
	Brokers []string `name:"brokers" help:"Kafka brokers to start from." default:"localhost:9092" placeholder:"HOST:PORT,…"`
	// DialTimeout bounds connecting, TLS and authentication.
	DialTimeout time.Duration `name:"kafka-dial-timeout" help:"Longest that connecting to a broker may take, with TLS and login." default:"5s" advanced:""`
	// RequestTimeout bounds one attempt at one request, beyond the time the
	// broker is asked to wait.
	RequestTimeout time.Duration `name:"kafka-timeout" help:"Longest that one attempt at one request to Kafka may take; it is tried again." default:"10s" advanced:""`
	// RebalanceTimeout is the default of GroupConfig.RebalanceTimeout.
	RebalanceTimeout time.Duration `name:"kafka-rebalance-timeout" help:"How long the members of a consumer group wait for each other to hand over partitions." default:"1m" advanced:""`
	// InstanceID is the default of GroupConfig.InstanceID.
	InstanceID string `name:"instance-id" help:"Name of this process that outlives it, such as that of a pod of a StatefulSet: when it is killed or restarted and back within the session timeout, it has its partitions again at once and the others do not notice. Every process needs its own." placeholder:"NAME"`
	// FetchBytes is the default of FetcherConfig.MaxBytes.
	FetchBytes int `name:"kafka-fetch-bytes" help:"What is asked of a partition at a time." default:"1MiB" type:"bytes" advanced:""`
	// BatchBytes and Compression are the defaults of ProducerConfig and
	// FenceConfig. That of BatchBytes is below Kafka's default
	// message.max.bytes of 1,048,588.
	BatchBytes  int         `name:"kafka-batch-bytes" help:"Largest batch of records written, before compression; keep it below the topics' max.message.bytes." default:"1000000" type:"bytes" advanced:""`
	Compression Compression `name:"kafka-compression" help:"Compression of the batches written: none, gzip, snappy, lz4 or zstd. All are read." enum:"none,gzip,snappy,lz4,zstd" default:"none" advanced:""`
	// LargestBatch bounds in bytes what one batch may be in memory: when it is
	// read, decompressed; when a record is written that has one for itself.
	LargestBatch int `name:"kafka-largest-batch" help:"Largest batch in memory: one that is read, decompressed, or a single record that is written. What is larger is set aside." default:"64MiB" type:"bytes" advanced:""`
	// Memory bounds in bytes what large batches take together, those of all
	// partitions; it is never less than four times LargestBatch.
	Memory int `name:"kafka-memory" help:"Memory for batches of more than 2 MiB, decompressed, of all partitions together, at least four times --kafka-largest-batch. Their readers wait for it." default:"256MiB" type:"bytes" advanced:""`
	// StuckAfter is how long a reader may stand still in a partition that has
	// records for it; see Standstill.
	StuckAfter time.Duration `name:"stuck-after" help:"How long a partition may have records to read and its reader stand still, until that is reported as a fault. Keep it above --sink-delay." default:"1m" advanced:""`

	// ExpiryInterval is the time between two looks at which of the records
	// that wait retention will delete.
	ExpiryInterval time.Duration `kong:"-" default:"30s"`
	// ClientID names this process to the brokers.
	ClientID string `kong:"-" default:"churnstream"`
	// TLS switches to TLS. Default nil: plain text.
	TLS *tls.Config `kong:"-"`
	// SASL authenticates; see the function SASL. Default nil: no
	// authentication.
	SASL sasl.Mechanism `kong:"-"`
	// OnFailure is called with the error of every attempt that is going to be
	// tried again, by several goroutines at the same time. Default none.
	OnFailure func(error) `kong:"-"`
	// Logger receives what an operator should know. Default none.
	Logger *slog.Logger `kong:"-"`
	// Registerer receives the metrics. Clusters of one process may share
	// one; they then share the metrics. Default none.
	Registerer prometheus.Registerer `kong:"-"`
}

// SASL returns the mechanism of that name: "plain", "scram-sha-256" or
// "scram-sha-512", in any case.
func SASL(mechanism, username, password string) (sasl.Mechanism, error) {
	switch strings.ToLower(mechanism) {
	case "plain":
		return plain.Mechanism{Username: username, Password: password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, username, password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, username, password)
	}
	return nil, fmt.Errorf("SASL mechanism %q: not one of plain, scram-sha-256, scram-sha-512", mechanism)
}

// Cluster is a Kafka cluster as seen from this process. It is safe for
// concurrent use.
type Cluster struct {
	cfg       Config
	log       *slog.Logger
	metrics   *counters
	transport *kafkago.Transport
	client    *kafkago.Client
	conns     *connPool
	memory    *memory

	positionsMu    sync.Mutex
	positions      map[*Position]struct{}
	lookedAtExpiry time.Time
}

// Connect prepares to talk to a cluster. It does no I/O, so it succeeds while
// the cluster is down; it fails when cfg makes no sense.
func Connect(cfg Config) (*Cluster, error) {
	if len(cfg.Brokers) == 0 {
		return nil, errors.New("connecting to Kafka: no brokers given")
	}
	for _, b := range cfg.Brokers {
		if _, port, err := net.SplitHostPort(b); err != nil {
			return nil, fmt.Errorf("connecting to Kafka: broker %q: %w", b, err)
		} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return nil, fmt.Errorf("connecting to Kafka: broker %q: port is not a number", b)
		}
	}
	cfg.Brokers = slices.Clone(cfg.Brokers)
	if err := settings.Complete(&cfg); err != nil {
		return nil, fmt.Errorf("connecting to Kafka: %w", err)
	}
	c := &Cluster{cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer), positions: map[*Position]struct{}{}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.memory = newMemory(int64(max(cfg.Memory, 4*cfg.LargestBatch)), c.metrics.memory, c.metrics.waiting)
	c.metrics.memoryLimit.Set(float64(c.memory.limit))
	dialer := &net.Dialer{Timeout: cfg.DialTimeout}
	c.transport = &kafkago.Transport{
		Dial:        dialer.DialContext,
		DialTimeout: cfg.DialTimeout,
		MetadataTTL: metadataTTL,
		ClientID:    cfg.ClientID,
		TLS:         cfg.TLS,
		SASL:        cfg.SASL,
	}
	c.client = &kafkago.Client{
		Addr:      kafkago.TCP(cfg.Brokers...),
		Timeout:   cfg.RequestTimeout,
		Transport: c.transport,
	}
	c.conns = newConnPool(cfg)
	return c, nil
}

// Close closes the connections that are idle and, when they become so, those
// that are in use.
func (c *Cluster) Close() {
	c.transport.CloseIdleConnections()
	c.conns.close()
}

// retry is retry.Do, with the failures in the metrics and with answers of
// brokers that will not pass counted as permanent.
func (c *Cluster) retry(ctx context.Context, operation, what string, fn func(context.Context) error) error {
	return retry.Loop{
		Log: c.log, Doing: what,
		Failing: func(error) { c.metrics.retrying.Inc() },
		Failed: func(err error) {
			c.metrics.retries.WithLabelValues(operation).Inc()
			if c.cfg.OnFailure != nil {
				c.cfg.OnFailure(err)
			}
		},
		Recovered: c.metrics.retrying.Dec,
	}.Run(ctx, func(ctx context.Context) error {
		err := fn(ctx)
		if err != nil && !passing(err) {
			return retry.Permanent(err)
		}
		return err
	})
}

// TopicConfig describes a topic for EnsureTopics.
type TopicConfig struct {
	Name string
	// Partitions is the number of partitions. Default 0: the cluster's own
	// default.
	Partitions int
	// Replication is the number of replicas. Default 0: the cluster's own
	// default.
	Replication int
	// Configs are the topic's settings by Kafka's names, for instance
	// "cleanup.policy". Those not named keep the cluster's defaults.
	Configs map[string]string
}

// EnsureTopics creates the topics that do not exist and returns when every
// one of topics can be read and written. Topics that exist are left as they
// are; a warning is logged when the number of partitions differs from what
// was asked for. It retries until ctx ends while the cluster is down and
// fails at once when the cluster refuses a topic.
func (c *Cluster) EnsureTopics(ctx context.Context, topics ...TopicConfig) error {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	asked := map[string]bool{}
	return c.retry(ctx, "create_topics", "creating topics", func(ctx context.Context) error {
		meta, err := c.metadata(ctx, names...)
		if err != nil {
			return err
		}
		var missing []kafkago.TopicConfig
		var waiting error
		for _, t := range topics {
			partitions, err := topicPartitions(meta, t.Name)
			switch {
			case errors.Is(err, ErrUnknownTopic):
				missing = append(missing, t.request())
			case err != nil:
				waiting = err
			case asked[t.Name]:
				// Creation is asynchronous: a topic of ours is there when every
				// partition has a leader. One that was there before is taken as
				// it is, also while some of its brokers are down.
				if err := led(t.Name, partitions); err != nil {
					waiting = err
				}
			case t.Partitions > 0 && t.Partitions != len(partitions):
				c.log.Warn("topic has another number of partitions than asked for",
					"topic", t.Name, "partitions", len(partitions), "asked", t.Partitions)
			}
		}
		if len(missing) == 0 {
			return waiting
		}
		for _, t := range missing {
			asked[t.Topic] = true
		}
		res, err := c.client.CreateTopics(ctx, &kafkago.CreateTopicsRequest{Topics: missing})
		if err != nil {
			return err
		}
		for name, err := range res.Errors {
			switch {
			case errors.Is(err, kafkago.TopicAlreadyExists):
			case err != nil:
				return fmt.Errorf("topic %q: %w", name, err)
			default:
				c.log.Info("created topic", "topic", name)
			}
		}
		meta, err = c.metadata(ctx, names...)
		if err != nil {
			return err
		}
		for name := range asked {
			partitions, err := topicPartitions(meta, name)
			if err == nil {
				err = led(name, partitions)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// led returns an error while a partition of a topic has no leader.
func led(topic string, partitions []metadata.ResponsePartition) error {
	for _, p := range partitions {
		if p.LeaderID < 0 {
			return fmt.Errorf("topic %q partition %d: %w", topic, p.PartitionIndex, kafkago.LeaderNotAvailable)
		}
	}
	return nil
}

func (t TopicConfig) request() kafkago.TopicConfig {
	out := kafkago.TopicConfig{Topic: t.Name, NumPartitions: -1, ReplicationFactor: -1}
	if t.Partitions > 0 {
		out.NumPartitions = t.Partitions
	}
	if t.Replication > 0 {
		out.ReplicationFactor = t.Replication
	}
	for name, value := range t.Configs {
		out.ConfigEntries = append(out.ConfigEntries, kafkago.ConfigEntry{ConfigName: name, ConfigValue: value})
	}
	return out
}

// Partitions returns the number of partitions of a topic. It waits while the
// cluster is down and fails with ErrUnknownTopic when the cluster has no such
// topic.
func (c *Cluster) Partitions(ctx context.Context, topic string) (int, error) {
	var n int
	err := c.retry(ctx, "metadata", fmt.Sprintf("counting partitions of topic %q", topic), func(ctx context.Context) error {
		meta, err := c.metadata(ctx, topic)
		if err != nil {
			return err
		}
		partitions, err := topicPartitions(meta, topic)
		if errors.Is(err, ErrUnknownTopic) {
			return retry.Permanent(err)
		}
		n = len(partitions)
		return err
	})
	return n, err
}

// Offsets returns the offset of the first record a partition holds and the
// offset after its last committed one, before which everything is readable.
// The two are equal when there is nothing to read. It waits while the cluster
// is down.
func (c *Cluster) Offsets(ctx context.Context, topic string, partition int) (first, end int64, err error) {
	return c.offsets(ctx, topic, partition, kafkago.ReadCommitted)
}

func (c *Cluster) offsets(ctx context.Context, topic string, partition int, level kafkago.IsolationLevel) (first, end int64, err error) {
	what := fmt.Sprintf("listing offsets of %s/%d", topic, partition)
	err = c.retry(ctx, "list_offsets", what, func(ctx context.Context) error {
		first, end, err = c.listOffsets(ctx, topic, partition, level)
		return err
	})
	return first, end, err
}

// leader returns the address of a partition's leader, from the cluster's
// metadata of this moment.
func (c *Cluster) leader(ctx context.Context, topic string, partition int) (string, error) {
	meta, err := c.metadata(ctx, topic)
	if err != nil {
		return "", err
	}
	partitions, err := topicPartitions(meta, topic)
	if err != nil {
		return "", err
	}
	for _, p := range partitions {
		if int(p.PartitionIndex) != partition {
			continue
		}
		for _, b := range meta.Brokers {
			if b.NodeID == p.LeaderID {
				return net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port))), nil
			}
		}
		return "", fmt.Errorf("topic %q partition %d: %w", topic, partition, kafkago.LeaderNotAvailable)
	}
	return "", fmt.Errorf("topic %q has no partition %d: %w", topic, partition, ErrUnknownTopic)
}

// topicPartitions returns the partitions of a topic, with or without leaders.
func topicPartitions(meta *metadata.Response, topic string) ([]metadata.ResponsePartition, error) {
	for _, t := range meta.Topics {
		if t.Name != topic {
			continue
		}
		switch code := kafkago.Error(t.ErrorCode); code {
		case 0:
		case kafkago.UnknownTopicOrPartition:
			return nil, fmt.Errorf("topic %q: %w", topic, ErrUnknownTopic)
		default:
			return nil, fmt.Errorf("topic %q: %w", topic, code)
		}
		return t.Partitions, nil
	}
	return nil, fmt.Errorf("topic %q: %w", topic, ErrUnknownTopic)
}
