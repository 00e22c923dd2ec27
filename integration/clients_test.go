//go:build integration

package integration

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/linkedin/goavro/v2"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
)

// python runs a script of testdata with Debian's Python and the packages that
// deploy/local/stack install has fetched.
func python(t testing.TB, script string, args ...string) []string {
	t.Helper()
	env := []string{"PYTHONPATH=" + installed(t, "python"), "PYTHONDONTWRITEBYTECODE=1"}
	out := run(t, env, "/usr/bin/python3", append([]string{filepath.Join("testdata", script)}, args...)...)
	return strings.Split(strings.TrimSpace(out), "\n")
}

// java runs Clients of testdata with the libraries that deploy/local/stack install
// has fetched.
func java(t testing.TB, args ...string) []string {
	t.Helper()
	all := append([]string{"-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", installed(t, "java") + "/*", filepath.Join("testdata", "Clients.java")}, args...)
	return strings.Split(strings.TrimSpace(run(t, nil, "java", all...)), "\n")
}

// delivered is where a client says that its event came to stand.
type delivered struct {
	EventID     string `json:"event_id"`
	CustomerID  string `json:"customer_id"`
	Partition   int    `json:"partition"`
	Offset      int64  `json:"offset"`
	Compression string `json:"compression"`
}

// produceFranz writes events with franz-go, some with each compression.
func produceFranz(t testing.TB, brokers []string, codec *schemas.Codec, each int, codecs ...string) (sent []delivered) {
	t.Helper()
	ctx := testContext(t)
	set := codec.Set()
	contract, _ := set.Spec().Index("Contract")
	monthly, err := set.ParseText(contract, "Month-to-month")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range codecs {
		compression := map[string]kgo.CompressionCodec{"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(),
			"lz4": kgo.Lz4Compression(), "snappy": kgo.SnappyCompression(), "zstd": kgo.ZstdCompression()}[name]
		client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ProducerBatchCompression(compression),
			kgo.ProducerLinger(200*time.Millisecond), kgo.DefaultProduceTopic(schemas.TopicEvents))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var records []*kgo.Record
		for i := range each {
			e := codec.NewEvent()
			e.EventID, e.CustomerID = []byte(uuid.NewString()), fmt.Appendf(nil, "franz-go-%s-%d", name, i)
			e.OccurredAt, e.Source = time.Now().UnixMilli(), []byte("franz-go")
			e.Changes[contract] = monthly
			records = append(records, &kgo.Record{Key: e.CustomerID, Value: codec.AppendEvent(nil, e), Context: context.WithValue(ctx, franzEvent{}, string(e.EventID))})
		}
		for _, result := range client.ProduceSync(ctx, records...) {
			if result.Err != nil {
				t.Fatal(result.Err)
			}
			r := result.Record
			sent = append(sent, delivered{r.Context.Value(franzEvent{}).(string), string(r.Key), int(r.Partition), r.Offset, name})
		}
	}
	return sent
}

// franzEvent is the key of an event's id in its context.
type franzEvent struct{}

// unmarshal reads a line that a client printed.
func unmarshal[T any](t testing.TB, line string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(line), &v); err != nil {
		t.Fatalf("%v: %s", err, tail(line, 500))
	}
	return v
}

// compressions reads from the segments on the broker's disk how the batches of
// a topic are compressed.
func compressions(t testing.TB, k *Kafka, topic string, partitions int) []string {
	t.Helper()
	seen := map[string]bool{}
	for partition := range partitions {
		segments, err := filepath.Glob(filepath.Join(k.PartitionDir(0, topic, partition), "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		for _, segment := range segments {
			data, err := os.ReadFile(segment)
			if err != nil {
				t.Fatal(err)
			}
			for len(data) >= 61 { // a batch's header
				code := binary.BigEndian.Uint16(data[21:]) & 7
				seen[[]string{"none", "gzip", "snappy", "lz4", "zstd", "5", "6", "7"}[code]] = true
				data = data[min(len(data), 12+int(binary.BigEndian.Uint32(data[8:]))):]
			}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

// registered returns a decoder for the schema that a registry knows by an id.
func registered(t testing.TB, registry string, id uint32) *goavro.Codec {
	t.Helper()
	res, err := http.Get(fmt.Sprintf("%s/schemas/ids/%d", registry, id))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var schema struct{ Schema string }
	if err := json.NewDecoder(res.Body).Decode(&schema); err != nil {
		t.Fatalf("asking the registry for schema %d: %s, %v", id, res.Status, err)
	}
	codec, err := goavro.NewCodec(schema.Schema)
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// TestRealClients has librdkafka, kafka-python, Kafka's own Java client and
// franz-go write events with every compression, and kcat, confluent-kafka and Java
// read the scores, with scorer and trainer as processes.
func TestRealClients(t *testing.T) {
	p := StartPlatform(t, KafkaConfig{})
	c, _ := p.Connect()
	codec := p.Codec(schemas.Telco())
	ctx := testContext(t)

	roles := p.StartRole("run", "--roles", "score,label,train", "--horizon", "0s", "--score-interval", "0s")
	replay := p.StartRole("replay", "--rate", "0", "--history-share", "0.9", "--outcome-delay", "0s")
	if code := replay.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	took := roles.WaitReady(time.Minute)
	t.Logf("a model was there %v after the table", took.Round(10*time.Millisecond))
	partitions, err := c.Partitions(ctx, schemas.TopicEvents)
	if err != nil {
		t.Fatal(err)
	}

	const each = 40
	codecs := []string{"none", "gzip", "lz4", "snappy", "zstd"}
	sent := map[Position]delivered{}
	clients := map[string]string{} // by event
	take := func(client string, all ...delivered) (misplaced int) {
		for _, d := range all {
			sent[Position{d.Partition, d.Offset}] = d
			clients[d.EventID] = client
			if d.Partition != kafka.PartitionOf([]byte(d.CustomerID), partitions) {
				misplaced++
			}
		}
		return misplaced
	}
	lines := func(lines []string) (all []delivered) {
		for _, line := range lines {
			all = append(all, unmarshal[delivered](t, line))
		}
		return all
	}
	produce := func(partitioner string, codecs ...string) (misplaced int) {
		args := append([]string{p.Brokers(), p.Registry.URL(), partitioner, strconv.Itoa(each)}, codecs...)
		return take("confluent-kafka", lines(python(t, "produce_events.py", args...))...)
	}
	where := append([]string{p.Brokers(), p.Registry.URL(), strconv.Itoa(each)}, codecs...)
	for i, c := range []struct {
		client  string
		produce func() int
	}{
		{"confluent-kafka, murmur2_random", func() int { return produce("murmur2_random", codecs...) }},
		{"kafka-python", func() int {
			return take("kafka-python", lines(python(t, "produce_kafka_python.py", where...))...)
		}},
		{"java", func() int { return take("java", lines(java(t, append([]string{"produce"}, where...)...))...) }},
		{"franz-go", func() int { return take("franz-go", produceFranz(t, p.Addrs(), codec, each, codecs...)...) }},
	} {
		if n := c.produce(); n > 0 || len(sent) != (i+1)*each*len(codecs) {
			t.Errorf("%s: %d events of all so far, %d of them not where our producers put them", c.client, len(sent), n)
		}
	}
	if got := compressions(t, p.Kafka, schemas.TopicEvents, partitions); !slices.Equal(got, slices.Sorted(slices.Values(codecs))) {
		t.Errorf("batches on the broker's disk are compressed with %v, want %v", got, codecs)
	}
	misplaced := produce("default", "none")
	if misplaced == 0 {
		t.Error("librdkafka's default partitioner agrees with murmur2 now: the guide for upstream teams can be shorter")
	}

	var scores []Score
	events := Events(t, c, codec)
	Eventually(t, time.Minute, "scores of all events", func() error {
		if scores = Scores(t, c, codec); len(scores) < len(events) {
			return fmt.Errorf("%d of %d", len(scores), len(events))
		}
		return nil
	})
	CheckScores(t, events, scores)
	bySource := map[Position]Score{}
	byEvent := map[string]Score{}
	for _, s := range scores {
		bySource[s.Source] = s
		byEvent[s.EventID] = s
	}
	scored := map[string]int{}
	for at, d := range sent {
		if s, ok := bySource[at]; !ok || s.EventID != d.EventID || s.Customer != d.CustomerID || !(s.Probability > 0 && s.Probability < 1) {
			t.Errorf("the score of %+v: %+v", d, s)
			continue
		}
		scored[clients[d.EventID]+" "+d.Compression]++
	}
	t.Logf("events scored once each, by client and compression: %v", scored)
	t.Logf("with librdkafka's default partitioner %d of %d customers land in another partition than with murmur2", misplaced, each)
	counted, err := roles.Metric("churn_scorer_misplaced_events_total")
	if err != nil || int(counted) != misplaced {
		t.Errorf("the scorer counts %v misplaced events, %v; there are %d", counted, err, misplaced)
	}
	if !strings.Contains(roles.Log(), "source=python") {
		t.Error("the scorer does not name in its log who sends misplaced events")
	}
	letters := 0
	for partition := range partitions {
		first, end, err := c.Offsets(ctx, schemas.TopicDeadLetters, partition)
		if err != nil {
			t.Fatal(err)
		}
		letters += int(end - first)
	}
	if letters > 0 {
		t.Errorf("%d dead letters", letters)
	}

	// agree compares what a client read with what our codec reads.
	agree := func(client string, read map[string]float64) {
		t.Helper()
		wrong := 0
		for id, s := range byEvent {
			if got, ok := read[id]; !ok || math.Abs(got-s.Probability) > 1e-12 {
				if wrong++; wrong <= 3 {
					t.Errorf("%s reads the score of event %s as %v (%v), we as %v", client, id, got, ok, s.Probability)
				}
			}
		}
		if len(read) != len(byEvent) || wrong > 0 {
			t.Errorf("%s reads %d scores, %d wrong; there are %d", client, len(read), wrong, len(byEvent))
		}
		t.Logf("%s reads all %d scores through the registry", client, len(read))
	}

	t.Run("kcat", func(t *testing.T) {
		// Debian's kcat is built without Avro, so it hands the values over as
		// they are: each with its size before it.
		out := run(t, nil, "kcat", "-b", p.Brokers(), "-t", schemas.TopicScores, "-C", "-o", "beginning", "-e", "-q", "-f", `%k\n%R%s`)
		decoders := map[uint32]*goavro.Codec{}
		read := map[string]float64{}
		markers := 0
		for len(out) > 0 {
			key, rest, _ := strings.Cut(out, "\n")
			size := int(int32(binary.BigEndian.Uint32([]byte(rest[:4]))))
			if out = rest[4:]; size < 0 {
				markers++
				continue
			}
			value := []byte(out[:size])
			if out = out[size:]; schemas.IsReservedKey(key) {
				continue
			}
			if value[0] != 0 {
				t.Fatalf("a value starts with byte %d", value[0])
			}
			id := binary.BigEndian.Uint32(value[1:])
			if decoders[id] == nil {
				decoders[id] = registered(t, p.Registry.URL(), id)
			}
			native, left, err := decoders[id].NativeFromBinary(value[5:])
			if err != nil || len(left) > 0 {
				t.Fatalf("value of key %q: %v, %d bytes left", key, err, len(left))
			}
			s := native.(map[string]any)
			if s["customer_id"] != key {
				t.Fatalf("key %s has customer %s", key, s["customer_id"])
			}
			read[fmt.Sprint(s["event_id"])] = s["churn_probability"].(float64)
		}
		agree("kcat", read)
		if markers == 0 {
			t.Error("kcat saw no marker, so this does not show that it gets along with them")
		}
	})

	t.Run("confluent-kafka", func(t *testing.T) {
		read := map[string]float64{}
		for _, line := range python(t, "read_scores.py", p.Brokers(), p.Registry.URL(), strconv.Itoa(len(scores))) {
			s := unmarshal[struct {
				Key       string `json:"key"`
				Partition int    `json:"partition"`
				Value     struct {
					CustomerID  string  `json:"customer_id"`
					EventID     string  `json:"event_id"`
					Probability float64 `json:"churn_probability"`
					Partition   int     `json:"source_partition"`
				} `json:"value"`
			}](t, line)
			if s.Key != s.Value.CustomerID || s.Partition != s.Value.Partition {
				t.Fatalf("%+v", s)
			}
			read[s.Value.EventID] = s.Value.Probability
		}
		agree("Python's confluent-kafka", read)
	})
	t.Run("java", func(t *testing.T) {
		for _, line := range java(t, "read", p.Brokers(), p.Registry.URL(), schemas.TopicScores) {
			got := unmarshal[decoded](t, line)
			if got.Error != "" || got.Values < len(scores) { // markers have values, too
				t.Errorf("%+v, there are %d scores", got, len(scores))
			}
		}
	})
	if !roles.Running() {
		t.Error("scorer and trainer ended")
	}
}
