package embedded_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sr"

	"github.com/churnstream/churnstream/internal/embedded"
)

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func startBroker(t *testing.T, cfg embedded.BrokerConfig) *embedded.Broker {
	t.Helper()
	b, err := embedded.StartBroker(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func newClient(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(addr), kgo.FetchMaxWait(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

func createTopic(t *testing.T, cl *kgo.Client, name string, configs map[string]string) {
	t.Helper()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 2, 1
	for k, v := range configs {
		topic.Configs = append(topic.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: k, Value: &v})
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Topics = append(req.Topics, topic)
	res, err := req.RequestWith(testContext(t), cl)
	if err != nil || res.Topics[0].ErrorCode != 0 {
		t.Fatalf("creating topic: %v, %+v", err, res)
	}
}

// read returns the values of the next n records.
func read(t *testing.T, cl *kgo.Client, n int) []string {
	t.Helper()
	var values []string
	for len(values) < n {
		fetches := cl.PollRecords(testContext(t), n-len(values))
		if err := fetches.Err0(); err != nil {
			t.Fatalf("after %q: %v", values, err)
		}
		for _, r := range fetches.Records() {
			values = append(values, string(r.Value))
		}
	}
	return values
}

func TestBrokerKeepsRecordsAndOffsetsAcrossRestarts(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(t.TempDir(), "kafka")
	broker := startBroker(t, embedded.BrokerConfig{Dir: dir})
	addr := broker.Addr()

	cl := newClient(t, addr)
	createTopic(t, cl, "events", nil)
	for i := range 10 {
		r := &kgo.Record{Topic: "events", Key: []byte("k"), Value: fmt.Append(nil, i)}
		if err := cl.ProduceSync(ctx, r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	group := []kgo.Opt{kgo.ConsumerGroup("g"), kgo.ConsumeTopics("events"), kgo.DisableAutoCommit()}
	consumer := newClient(t, addr, group...)
	read(t, consumer, 4)
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		t.Fatal(err)
	}
	consumer.Close()
	cl.Close()
	broker.Close()

	// The same address too, as a demo that is started again would use.
	startBroker(t, embedded.BrokerConfig{Addr: addr, Dir: dir})
	all := read(t, newClient(t, addr, kgo.ConsumeTopics("events"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 10)
	if got := strings.Join(all, ""); got != "0123456789" {
		t.Errorf("records after the restart: %s", got)
	}
	rest := read(t, newClient(t, addr, group...), 6)
	if got := strings.Join(rest, ""); got != "456789" {
		t.Errorf("records after the committed offset: %s", got)
	}
}

func TestBrokerCompacts(t *testing.T) {
	ctx := testContext(t)
	broker := startBroker(t, embedded.BrokerConfig{CompactionInterval: 20 * time.Millisecond})
	cl := newClient(t, broker.Addr(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	createTopic(t, cl, "models", map[string]string{"cleanup.policy": "compact", "min.compaction.lag.ms": "0"})
	for i := range 5 {
		if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "models", Key: []byte("k"), Value: fmt.Append(nil, i)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	for {
		reader := newClient(t, broker.Addr(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"models": {0: kgo.NewOffset().AtStart()}}))
		fetches := reader.PollFetches(ctx)
		reader.Close()
		if err := fetches.Err0(); err != nil {
			t.Fatalf("waiting for compaction: %v", err)
		}
		// The last batch counts as the active segment: it is neither
		// compacted nor does it supersede what is.
		if records := fetches.Records(); len(records) == 2 && string(records[0].Value) == "3" {
			return
		}
	}
}

func TestBrokerDoesNotCreateTopicsOnItsOwn(t *testing.T) {
	broker := startBroker(t, embedded.BrokerConfig{})
	cl := newClient(t, broker.Addr(), kgo.UnknownTopicRetries(0))
	if err := cl.ProduceSync(testContext(t), &kgo.Record{Topic: "typo", Value: []byte("x")}).FirstErr(); err == nil {
		t.Error("a record for a topic that does not exist was taken")
	}
}

func TestBrokerRefuses(t *testing.T) {
	taken := startBroker(t, embedded.BrokerConfig{Dir: t.TempDir()})
	locked := t.TempDir()
	startBroker(t, embedded.BrokerConfig{Dir: locked})
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cfg  embedded.BrokerConfig
		want error
	}{
		{"port taken", embedded.BrokerConfig{Addr: taken.Addr()}, embedded.ErrAddressInUse},
		{"directory in use", embedded.BrokerConfig{Dir: locked}, embedded.ErrDirectoryInUse},
		{"foreign directory", embedded.BrokerConfig{Dir: foreign}, embedded.ErrForeignDirectory},
		{"no host", embedded.BrokerConfig{Addr: ":0"}, nil},
		{"no port", embedded.BrokerConfig{Addr: "127.0.0.1"}, nil},
		{"all hosts", embedded.BrokerConfig{Addr: "0.0.0.0:0"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := embedded.StartBroker(tt.cfg)
			if err == nil {
				b.Close()
				t.Fatal("started")
			}
			if tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("directory is free again after Close", func(t *testing.T) {
		dir := t.TempDir()
		first := startBroker(t, embedded.BrokerConfig{Dir: dir})
		first.Close()
		first.Close()
		startBroker(t, embedded.BrokerConfig{Dir: dir})
	})
	t.Run("a failed start leaves the directory free", func(t *testing.T) {
		dir := t.TempDir()
		if _, err := embedded.StartBroker(embedded.BrokerConfig{Addr: taken.Addr(), Dir: dir}); err == nil {
			t.Fatal("started")
		}
		startBroker(t, embedded.BrokerConfig{Dir: dir})
	})
}

func startRegistry(t *testing.T, cfg embedded.RegistryConfig) (*embedded.Registry, *sr.Client) {
	t.Helper()
	r, err := embedded.StartRegistry(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	cl, err := sr.NewClient(sr.URLs(r.URL()))
	if err != nil {
		t.Fatal(err)
	}
	return r, cl
}

func schema(field string) sr.Schema {
	return sr.Schema{Type: sr.TypeAvro, Schema: `{"type":"record","name":"R","fields":[{"name":"` + field + `","type":"string","default":""}]}`}
}

func TestRegistryKeepsIDsAcrossRestarts(t *testing.T) {
	ctx := testContext(t)
	dir := filepath.Join(t.TempDir(), "registry")
	type entry struct {
		subject string
		schema  sr.Schema
	}
	// The second and the last share the first's schema and so its id; one
	// is registered twice.
	entries := []entry{
		{"a-value", schema("x")}, {"b-value", schema("x")}, {"a-value", schema("y")},
		{"c-value", schema("z")}, {"a-value", schema("y")}, {"c-value", schema("x")},
	}
	register := func(cl *sr.Client) (ids []string) {
		for _, e := range entries {
			s, err := cl.CreateSchema(ctx, e.subject, e.schema)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, fmt.Sprintf("%s/%d=%d", s.Subject, s.Version, s.ID))
		}
		return ids
	}
	first, cl := startRegistry(t, embedded.RegistryConfig{Dir: dir})
	before := fmt.Sprint(register(cl))
	first.Close()

	for range 2 {
		again, cl := startRegistry(t, embedded.RegistryConfig{Dir: dir})
		for id, want := range map[int]string{1: "x", 2: "y", 3: "z"} {
			s, err := cl.SchemaByID(ctx, id)
			if err != nil || s.Schema != schema(want).Schema {
				t.Errorf("schema %d after the restart: %v, %v", id, s.Schema, err)
			}
		}
		if after := fmt.Sprint(register(cl)); after != before {
			t.Errorf("ids after the restart %s, before %s", after, before)
		}
		again.Close()
	}

	_, cl = startRegistry(t, embedded.RegistryConfig{Dir: dir})
	s, err := cl.CreateSchema(ctx, "d-value", schema("new"))
	if err != nil || s.ID != 4 {
		t.Errorf("a new schema got id %d, %v; want 4", s.ID, err)
	}
}

func TestRegistryRefuses(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	r, cl := startRegistry(t, embedded.RegistryConfig{Dir: dir})
	if _, err := cl.CreateSchema(ctx, "s", schema("x")); err != nil {
		t.Fatal(err)
	}
	t.Run("deleting", func(t *testing.T) {
		if _, err := cl.DeleteSubject(ctx, "s", sr.SoftDelete); err == nil {
			t.Error("deleted")
		}
		if _, err := cl.SchemaByID(ctx, 1); err != nil {
			t.Error(err)
		}
	})
	t.Run("large bodies", func(t *testing.T) {
		body := bytes.NewReader(make([]byte, 2<<20))
		res, err := http.Post(r.URL()+"/subjects/s/versions", "application/json", body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("status %s", res.Status)
		}
	})
	t.Run("a schema that is none", func(t *testing.T) {
		if _, err := cl.CreateSchema(ctx, "s", sr.Schema{Schema: "{"}); err == nil {
			t.Error("registered")
		}
	})
	for name, tt := range map[string]struct {
		cfg  embedded.RegistryConfig
		want error
	}{
		"address in use":   {embedded.RegistryConfig{Addr: strings.TrimPrefix(r.URL(), "http://")}, embedded.ErrAddressInUse},
		"directory in use": {embedded.RegistryConfig{Dir: dir}, embedded.ErrDirectoryInUse},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := embedded.StartRegistry(tt.cfg); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("damaged file", func(t *testing.T) {
		for _, content := range []string{"[{", `[{"subject":"s","version":1,"id":1,"schema":{"schema":"{"}}]`} {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "registry.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := embedded.StartRegistry(embedded.RegistryConfig{Dir: dir}); err == nil {
				t.Errorf("started on %s", content)
			}
		}
	})
}

// While a schema cannot be stored, nobody learns its id.
func TestRegistryAnswersNoIDThatIsNotStored(t *testing.T) {
	ctx := testContext(t)
	dir := t.TempDir()
	r, cl := startRegistry(t, embedded.RegistryConfig{Dir: dir})
	if _, err := cl.CreateSchema(ctx, "s", schema("x")); err != nil {
		t.Fatal(err)
	}
	// A directory in the file's place, with something in it, cannot be replaced.
	file := filepath.Join(dir, "registry.json")
	if err := os.Rename(file, file+".aside"); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if s, err := cl.CreateSchema(ctx, "s", schema("y")); err == nil {
			t.Errorf("registered as %d", s.ID)
		}
		if s, err := cl.LookupSchema(ctx, "s", schema("y")); err == nil {
			t.Errorf("found as %d", s.ID)
		}
	}
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	before, err := cl.CreateSchema(ctx, "s", schema("y"))
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	_, cl = startRegistry(t, embedded.RegistryConfig{Dir: dir})
	if after, err := cl.LookupSchema(ctx, "s", schema("y")); err != nil || after.ID != before.ID || after.Version != 2 {
		t.Errorf("after the restart: %+v, %v; before %+v", after, err, before)
	}
}

func TestRegistryLetsIn(t *testing.T) {
	r, _ := startRegistry(t, embedded.RegistryConfig{Username: "me", Password: "secret"})
	body, err := json.Marshal(schema("x"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		user, password, host string
		header               [2]string
		want                 int
	}{
		"a client":             {"me", "secret", "", [2]string{}, 200},
		"nobody":               {"", "", "", [2]string{}, 401},
		"wrong user":           {"you", "secret", "", [2]string{}, 401},
		"wrong password":       {"me", "secret2", "", [2]string{}, 401},
		"page of another site": {"me", "secret", "", [2]string{"Origin", "https://evil.example"}, 403},
		"rebound name":         {"me", "secret", "evil.example", [2]string{"Origin", "http://evil.example"}, 403},
	} {
		req, err := http.NewRequestWithContext(testContext(t), "POST", r.URL()+"/subjects/s/versions", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if c.user != "" {
			req.SetBasicAuth(c.user, c.password)
		}
		if c.header[0] != "" {
			req.Header.Set(c.header[0], c.header[1])
		}
		req.Header.Set("Content-Type", "text/plain")
		req.Host = c.host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", name, res.Status, c.want)
		}
	}
}

func TestRegistryIsBackwardCompatibleByDefault(t *testing.T) {
	_, cl := startRegistry(t, embedded.RegistryConfig{})
	if got := cl.Compatibility(testContext(t))[0]; got.Err != nil || got.Level != sr.CompatBackward {
		t.Errorf("global compatibility %+v", got)
	}
}
