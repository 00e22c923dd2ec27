//go:build integration

package integration

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	kafkago "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/churnstream/churnstream/internal/certificates"
	"github.com/churnstream/churnstream/internal/kafka"
)

// brokerStart is how long brokers may take to start on a machine that is busy.
const brokerStart = 2 * time.Minute

// KafkaConfig says what StartKafka starts. The zero value is one broker.
type KafkaConfig struct {
	// Brokers is their number, each a controller too. 0 means 1.
	Brokers int
	// Settings are added to the brokers' server.properties.
	Settings map[string]string
	// Proxied makes clients reach the brokers through a Proxy each.
	Proxied bool
	// Demands are what clients must show to be let in. Nil lets in everybody.
	Demands *Demands
}

// Demands has brokers let in only clients that speak TLS, have a certificate,
// log in, and that with what access lists allow them.
type Demands struct {
	Authority *certificates.Authority
	// Logins are who may log in. The first may do everything, the others
	// nothing until an access list says so.
	Logins []Login
}

// Login is a user and how it logs in: by plain, scram-sha-256 or scram-sha-512.
type Login struct{ Mechanism, User, Password string }

// settings returns what makes a broker demand all that, and the arguments that
// make its storage know the users.
func (d *Demands) settings(t testing.TB, dir string) (settings map[string]string, format []string) {
	t.Helper()
	if d == nil {
		return nil, nil
	}
	pair, err := d.Authority.Server("broker")
	if err != nil {
		t.Fatal(err)
	}
	var store []byte
	for _, file := range []string{pair.Key, pair.Cert} {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		store = append(store, data...)
	}
	keystore := filepath.Join(dir, "keystore.pem")
	if err := os.WriteFile(keystore, store, 0o600); err != nil {
		t.Fatal(err)
	}
	plain := "org.apache.kafka.common.security.plain.PlainLoginModule required"
	for _, l := range d.Logins {
		if l.Mechanism == "plain" {
			plain += fmt.Sprintf(" user_%s=%q", l.User, l.Password)
		} else {
			format = append(format, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", strings.ToUpper(l.Mechanism), l.User, l.Password))
		}
	}
	const scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
	return map[string]string{
		"listener.security.protocol.map":                       "CLIENTS:SASL_SSL,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"ssl.keystore.type":                                    "PEM",
		"ssl.keystore.location":                                keystore,
		"ssl.truststore.type":                                  "PEM",
		"ssl.truststore.location":                              d.Authority.File,
		"listener.name.clients.ssl.client.auth":                "required",
		"listener.name.clients.sasl.enabled.mechanisms":        "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
		"listener.name.clients.plain.sasl.jaas.config":         plain + ";",
		"listener.name.clients.scram-sha-256.sasl.jaas.config": scram,
		"listener.name.clients.scram-sha-512.sasl.jaas.config": scram,
		"authorizer.class.name":                                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
		"super.users":                                          "User:ANONYMOUS;User:" + d.Logins[0].User, // anonymous are the brokers among themselves
	}, format
}

// client returns how the first login reaches the brokers.
func (d *Demands) client(t testing.TB) (*tls.Config, sasl.Mechanism) {
	t.Helper()
	if d == nil {
		return nil, nil
	}
	pair, err := d.Authority.Client("test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	first := d.Logins[0]
	mechanism, err := kafka.SASL(first.Mechanism, first.User, first.Password)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{RootCAs: d.Authority.Pool(), Certificates: []tls.Certificate{cert}}, mechanism
}

// Kafka is a running cluster of Apache Kafka.
type Kafka struct {
	t       testing.TB
	brokers []*broker
	tls     *tls.Config
	sasl    sasl.Mechanism
}

type broker struct {
	process *Process
	dir     string
	addr    string // as clients reach it
	proxy   *Proxy
}

// StartKafka starts a cluster and returns when it takes requests.
func StartKafka(t testing.TB, cfg KafkaConfig) *Kafka {
	t.Helper()
	n := max(cfg.Brokers, 1)
	begin := time.Now()
	libs := filepath.Join(filepath.Dir(installed(t, "kafka-4.3.0", ".complete")), "*")
	ports := FreePorts(t, 3*n)
	addr := func(i, listener int) string { return fmt.Sprintf("127.0.0.1:%d", ports[3*i+listener]) }
	const clients, internal, controller = 0, 1, 2
	var voters []string
	for i := range n {
		voters = append(voters, fmt.Sprintf("%d@%s", i+1, addr(i, controller)))
	}
	k := &Kafka{t: t}
	k.tls, k.sasl = cfg.Demands.client(t)
	dir := t.TempDir()
	var formats sync.WaitGroup
	failures := make([]error, n)
	for i := range n {
		b := &broker{dir: filepath.Join(dir, strconv.Itoa(i)), addr: addr(i, clients)}
		if cfg.Proxied {
			b.proxy = newProxy(t, b.addr)
			b.addr = b.proxy.Addr()
		}
		settings := map[string]string{
			"process.roles":                            "broker,controller",
			"node.id":                                  strconv.Itoa(i + 1),
			"controller.quorum.voters":                 strings.Join(voters, ","),
			"controller.listener.names":                "CONTROLLER",
			"listeners":                                fmt.Sprintf("CLIENTS://%s,INTERNAL://%s,CONTROLLER://%s", addr(i, clients), addr(i, internal), addr(i, controller)),
			"advertised.listeners":                     fmt.Sprintf("CLIENTS://%s,INTERNAL://%s", b.addr, addr(i, internal)),
			"inter.broker.listener.name":               "INTERNAL",
			"listener.security.protocol.map":           "CLIENTS:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT",
			"log.dirs":                                 filepath.Join(b.dir, "data"),
			"auto.create.topics.enable":                "false",
			"default.replication.factor":               strconv.Itoa(n),
			"min.insync.replicas":                      strconv.Itoa((n + 1) / 2),
			"offsets.topic.replication.factor":         strconv.Itoa(n),
			"offsets.topic.num.partitions":             "4",
			"transaction.state.log.num.partitions":     "4",
			"transaction.state.log.replication.factor": strconv.Itoa(n),
			"transaction.state.log.min.isr":            strconv.Itoa((n + 1) / 2),
			"group.initial.rebalance.delay.ms":         "0",
			// A dead broker should be noticed within the patience of a test.
			"broker.session.timeout.ms":    "3000",
			"broker.heartbeat.interval.ms": "500",
		}
		if err := os.MkdirAll(b.dir, 0o700); err != nil {
			t.Fatal(err)
		}
		demanded, users := cfg.Demands.settings(t, b.dir)
		maps.Copy(settings, demanded)
		maps.Copy(settings, cfg.Settings)
		var properties strings.Builder
		for _, name := range slices.Sorted(maps.Keys(settings)) {
			fmt.Fprintf(&properties, "%s=%s\n", name, settings[name])
		}
		file := filepath.Join(b.dir, "server.properties")
		if err := os.WriteFile(file, []byte(properties.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		k.brokers = append(k.brokers, b)
		formats.Go(func() {
			_, failures[i] = output(t.Context(), nil, "java", append([]string{"-XX:TieredStopAtLevel=1", "-cp", libs,
				"kafka.tools.StorageTool", "format", "-t", "churnstreamIntegration", "-c", file}, users...)...)
		})
	}
	formats.Wait()
	for i, b := range k.brokers {
		if failures[i] != nil {
			t.Fatalf("formatting Kafka's storage: %v", failures[i])
		}
		b.process = StartProcess(t, fmt.Sprintf("Kafka broker %d", i), nil, "java",
			"-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC",
			"-Dlog4j2.configurationFile="+filepath.Join(repository(t), "deploy/local/kafka/log4j2.properties"),
			"-cp", libs, "kafka.Kafka", filepath.Join(b.dir, "server.properties"))
	}
	for i := range k.brokers {
		k.await(i, 0)
	}
	k.WaitBrokers(n)
	t.Logf("Kafka of %d brokers up after %v", n, time.Since(begin).Round(100*time.Millisecond))
	return k
}

// repository returns the root of the source tree.
func repository(t testing.TB) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// await waits until a broker says that it has started, after so many bytes of
// its log.
func (k *Kafka) await(i, from int) {
	k.t.Helper()
	k.brokers[i].process.waitFor(brokerStart, "Kafka Server started", from)
}

// WaitBrokers waits until n brokers take part in the cluster.
func (k *Kafka) WaitBrokers(n int) time.Duration {
	k.t.Helper()
	client, done := k.client(time.Second)
	defer done()
	return Eventually(k.t, brokerStart, fmt.Sprintf("a cluster of %d brokers", n), func() error {
		ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Second)
		defer cancel()
		res, err := client.Metadata(ctx, &kafkago.MetadataRequest{})
		if err != nil {
			return err
		}
		if len(res.Brokers) != n {
			return fmt.Errorf("there are %d", len(res.Brokers))
		}
		return nil
	})
}

// client returns a client of kafka-go, and what closes its connections.
func (k *Kafka) client(timeout time.Duration) (*kafkago.Client, func()) {
	transport := &kafkago.Transport{MetadataTTL: 100 * time.Millisecond, TLS: k.tls, SASL: k.sasl}
	return &kafkago.Client{Addr: kafkago.TCP(k.Addrs()...), Timeout: timeout, Transport: transport}, transport.CloseIdleConnections
}

// Addrs returns the addresses of all brokers, running or not.
func (k *Kafka) Addrs() []string {
	addrs := make([]string, len(k.brokers))
	for i, b := range k.brokers {
		addrs[i] = b.addr
	}
	return addrs
}

// Brokers returns the addresses as flags and clients take them.
func (k *Kafka) Brokers() string { return strings.Join(k.Addrs(), ",") }

// Proxy returns what stands between clients and a broker; nil unless Proxied.
func (k *Kafka) Proxy(i int) *Proxy { return k.brokers[i].proxy }

// PartitionDir returns the directory of a partition's segments on a broker.
func (k *Kafka) PartitionDir(i int, topic string, partition int) string {
	return filepath.Join(k.brokers[i].dir, "data", fmt.Sprintf("%s-%d", topic, partition))
}

// Kill9 kills a broker without a chance to tidy up.
func (k *Kafka) Kill9(i int) { k.t.Helper(); k.brokers[i].process.Kill9() }

// Stop shuts a broker down.
func (k *Kafka) Stop(i int) { k.t.Helper(); k.brokers[i].process.Stop() }

// Freeze stops a broker from running.
func (k *Kafka) Freeze(i int) { k.t.Helper(); k.brokers[i].process.Freeze() }

// Thaw lets a frozen broker go on.
func (k *Kafka) Thaw(i int) { k.t.Helper(); k.brokers[i].process.Thaw() }

// Start starts a broker again after Kill9 or Stop and waits until it is up.
func (k *Kafka) Start(i int) {
	k.t.Helper()
	p := k.brokers[i].process
	from := len(p.Log())
	p.Start()
	k.await(i, from)
}

// Leader returns which broker leads a partition.
func (k *Kafka) Leader(topic string, partition int) int {
	k.t.Helper()
	var leader int
	Eventually(k.t, brokerStart, fmt.Sprintf("a leader of %s/%d", topic, partition), func() error {
		var last error
		for _, addr := range k.Addrs() {
			ctx, cancel := context.WithTimeout(k.t.Context(), 2*time.Second)
			p, err := (&kafkago.Dialer{Timeout: time.Second}).LookupPartition(ctx, "tcp", addr, topic, partition)
			cancel()
			if err != nil {
				last = err
				continue
			}
			leader = slices.Index(k.Addrs(), net.JoinHostPort(p.Leader.Host, strconv.Itoa(p.Leader.Port)))
			if leader < 0 {
				last = fmt.Errorf("it is %s:%d", p.Leader.Host, p.Leader.Port)
				continue
			}
			return nil
		}
		return last
	})
	return leader
}

// Connect returns our client. Its metrics are in a registry of their own.
func (k *Kafka) Connect() (*kafka.Cluster, *prometheus.Registry) {
	k.t.Helper()
	metrics := prometheus.NewRegistry()
	c, err := kafka.Connect(kafka.Config{Brokers: k.Addrs(), TLS: k.tls, SASL: k.sasl, Registerer: metrics})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(c.Close)
	return c, metrics
}
