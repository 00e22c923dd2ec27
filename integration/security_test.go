//go:build integration

package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/certificates"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

// A part of every password of these tests, unlike anything that is printed.
const secretMark = "Zq7xPw"

func password(of string) string { return of + "-" + secretMark }

// terminateTLS listens with TLS, wants clients to have a certificate, and passes
// on what they say to a server that speaks none.
func terminateTLS(t testing.TB, demanding *tls.Config, target string) string {
	t.Helper()
	ln, err := certificates.Terminate(demanding, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}

// allowAccess gives each user what deploy/kafka/access.txt says.
func allowAccess(t testing.TB, k *Kafka) (users []string) {
	t.Helper()
	file := filepath.Join(repository(t), "deploy/kafka/access.txt")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var entries []kafkago.ACLEntry
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 4 {
			t.Fatalf("%s: %q", file, line)
		}
		e := kafkago.ACLEntry{
			Principal: "User:" + fields[0], PermissionType: kafkago.ACLPermissionTypeAllow,
			ResourcePatternType: kafkago.PatternTypeLiteral, ResourceName: fields[3], Host: "*",
		}
		if err := e.Operation.UnmarshalText([]byte(fields[1])); err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		if err := e.ResourceType.UnmarshalText([]byte(fields[2])); err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		if name, ok := strings.CutSuffix(fields[3], "*"); ok {
			e.ResourceName, e.ResourcePatternType = name, kafkago.PatternTypePrefixed
		}
		entries = append(entries, e)
		if !slices.Contains(users, fields[0]) {
			users = append(users, fields[0])
		}
	}
	client, done := k.client(20 * time.Second)
	defer done()
	res, err := client.CreateACLs(testContext(t), &kafkago.CreateACLsRequest{ACLs: entries})
	if err := errors.Join(append(res.Errors, err)...); err != nil {
		t.Fatal(err)
	}
	return users
}

// stronghold is a platform that lets in nobody without certificate and login.
type stronghold struct {
	*Platform
	t         testing.TB
	authority *certificates.Authority
	client    certificates.Pair // of our processes
	server    certificates.Pair // of their HTTP side
	logins    map[string]Login
	demanding *tls.Config
}

func startStronghold(t testing.TB) *stronghold {
	t.Helper()
	s := &stronghold{t: t, logins: map[string]Login{}}
	var err error
	if s.authority, err = certificates.New(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if s.client, err = s.authority.Client("churnstream"); err != nil {
		t.Fatal(err)
	}
	if s.server, err = s.authority.Server("server"); err != nil {
		t.Fatal(err)
	}
	if s.demanding, err = s.authority.Demanding(s.server); err != nil {
		t.Fatal(err)
	}
	demands := &Demands{Authority: s.authority}
	for user, mechanism := range map[string]string{
		"admin": "plain", "score": "scram-sha-512", "label": "plain", "train": "scram-sha-256", "monitor": "plain", "sink": "scram-sha-512", "serve": "scram-sha-256",
	} {
		s.logins[user] = Login{mechanism, user, password(user)}
	}
	demands.Logins = []Login{s.logins["admin"]}
	for user, l := range s.logins {
		if user != "admin" {
			demands.Logins = append(demands.Logins, l)
		}
	}
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{Username: "registrar", Password: password("registrar"), TLS: s.demanding})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(reg.Close)
	s.Platform = &Platform{Kafka: StartKafka(t, KafkaConfig{Demands: demands}), Registry: reg, t: t}
	return s
}

// codec is one that knows the schemas that a role has registered.
func (s *stronghold) codec() *schemas.Codec {
	s.t.Helper()
	pair, err := tls.LoadX509KeyPair(s.client.Cert, s.client.Key)
	if err != nil {
		s.t.Fatal(err)
	}
	client, err := registry.New(registry.Config{
		URL: s.Registry.URL(), Username: "registrar", Password: password("registrar"),
		TLS: &tls.Config{RootCAs: s.authority.Pool(), Certificates: []tls.Certificate{pair}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	codec := schemas.NewCodec(schemas.Telco(), client)
	if err := codec.Register(testContext(s.t)); err != nil {
		s.t.Fatal(err)
	}
	return codec
}

// start starts a role as a user. Flags and variables given take the place of
// those that let it in.
func (s *stronghold) start(user string, env []string, args ...string) *Role {
	s.t.Helper()
	l := s.logins[user]
	addr := fmt.Sprintf("127.0.0.1:%d", FreePorts(s.t, 1)[0])
	all := slices.Clone(args)
	for flag, value := range map[string]string{
		"--brokers": s.Brokers(), "--registry": s.Registry.URL(), "--log-level": "debug",
		"--tls-ca": s.authority.File, "--tls-cert": s.client.Cert, "--tls-key": s.client.Key,
		"--sasl": l.Mechanism, "--sasl-user": l.User,
		"--registry-user": "registrar", "--registry-tls-ca": s.authority.File,
		"--registry-tls-cert": s.client.Cert, "--registry-tls-key": s.client.Key,
	} {
		if !slices.Contains(args, flag) {
			all = append(all, flag, value)
		}
	}
	if user != "admin" {
		all = append(all, "--no-create-topics")
	}
	env = append([]string{
		"CHURN_SASL_PASSWORD=" + l.Password, "CHURN_REGISTRY_PASSWORD=" + password("registrar"),
		"CHURN_CLICKHOUSE_PASSWORD=" + password("writer"), "CHURN_HTTP_TOKEN=" + password("token"),
	}, env...)
	r := newRole(s.t, fmt.Sprintf("churnstream %s as %s", args[0], user), env, addr, all...)
	s.t.Cleanup(func() {
		if i := strings.Index(r.Log(), secretMark); i >= 0 {
			s.t.Errorf("%s has a secret in its log", r.name)
		}
	})
	return r
}

// TestSecuredPlatform runs every role with a user of its own on a Kafka that
// demands TLS, a client certificate and a login, and allows each user no more
// than deploy/kafka/access.txt; with a registry that demands TLS and a login;
// and with ClickHouse over TLS, with a password. A customer is erased there.
func TestSecuredPlatform(t *testing.T) {
	s := startStronghold(t)
	store := StartClickHouse(t, ClickHouseConfig{User: "writer", Password: password("writer")})
	native := terminateTLS(t, s.demanding, store.Addr())
	overHTTP := terminateTLS(t, s.demanding, store.HTTPAddr())
	toStore := func(address, protocol string) []string {
		return []string{"sink", "--clickhouse", address, "--clickhouse-protocol", protocol, "--clickhouse-user", "writer",
			"--clickhouse-tls-ca", s.authority.File, "--clickhouse-tls-cert", s.client.Cert, "--clickhouse-tls-key", s.client.Key,
			"--sink-session-timeout", "6s"}
	}
	c, _ := s.Connect()

	// Its own topics, history and events come from the one who may do all.
	source := s.start("admin", nil, "replay", "--rate", "0", "--history-share", "0.9", "--outcome-delay", "0s", "--partitions", "3")
	if code := source.ExitCode(); code != 0 {
		t.Fatalf("replay ended with %d", code)
	}
	users := allowAccess(t, s.Kafka)
	if want := []string{"label", "monitor", "score", "serve", "sink", "train"}; !slices.Equal(slices.Sorted(slices.Values(users)), want) {
		t.Fatalf("access is given to %v, want %v", users, want)
	}
	roles := map[string]*Role{
		"label":   s.start("label", nil, "label", "--horizon", "0s", "--score-interval", "0s", "--label-session-timeout", "6s"),
		"train":   s.start("train", nil, "train"),
		"score":   s.start("score", nil, "score", "--session-timeout", "6s"),
		"monitor": s.start("monitor", nil, "monitor"),
		"sink":    s.start("sink", nil, toStore(native, "native")...),
		"serve":   s.start("serve", nil, "serve", "--http-tls-cert", s.server.Cert, "--http-tls-key", s.server.Key),
	}
	api := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.authority.Pool()}}, Timeout: 10 * time.Second}
	t.Cleanup(api.CloseIdleConnections)
	for name, r := range roles {
		if name == "serve" {
			r.http = strings.Replace(r.http, "http:", "https:", 1)
			r.client = api
		}
		r.WaitReady(time.Minute)
	}
	codec := s.codec()
	events := Events(t, c, codec)
	var scores []Score
	Eventually(t, time.Minute, "scores of all events", func() error {
		if scores = Scores(t, c, codec); len(scores) < len(events) {
			return fmt.Errorf("%d of %d", len(scores), len(events))
		}
		return nil
	})
	CheckScores(t, events, scores)
	rows := store.Connect()
	stored := func(query string, want int) func() error {
		return func() error {
			n, err := store.Count(rows, query)
			if err == nil && int(n) != want {
				err = fmt.Errorf("%d, want %d", n, want)
			}
			return err
		}
	}
	const allRows = "SELECT count() FROM churn_scores FINAL"
	Eventually(t, time.Minute, "rows of all scores", stored(allRows, len(scores)))
	Eventually(t, time.Minute, "outcomes joined by the monitor", func() error {
		if n, err := roles["monitor"].Metric("churn_outcomes_total"); err != nil || n == 0 {
			return fmt.Errorf("%v, %v", n, err)
		}
		return nil
	})
	t.Logf("%d events scored, stored and monitored by roles with a user each", len(events))

	t.Run("ClickHouse over HTTPS", func(t *testing.T) {
		roles["sink"].Stop()
		roles["sink"] = s.start("sink", nil, toStore(overHTTP, "http")...)
		roles["sink"].WaitReady(time.Minute)
		e := codec.NewEvent()
		e.EventID, e.CustomerID, e.OccurredAt = []byte(eventID(1)), []byte("one more"), time.Now().UnixMilli()
		err := c.NewProducer(kafka.ProducerConfig{}).Produce(testContext(t), schemas.TopicEvents, kafka.Record{Key: e.CustomerID, Value: codec.AppendEvent(nil, e)})
		if err != nil {
			t.Fatal(err)
		}
		Eventually(t, time.Minute, "a row of one more event", stored(allRows, len(scores)+1))
	})

	t.Run("erasure", func(t *testing.T) { s.erase(roles, api, c, scores[0].Customer, stored) })

	t.Run("refused", func(t *testing.T) { s.refusals(native, overHTTP, toStore) })

	for _, r := range roles {
		r.Stop()
	}
	if n := ends(t, c, schemas.TopicDeadLetters); n != 0 {
		t.Errorf("%d dead letters", n)
	}
}

// erase has a customer erased by REST, looks wherever there was something of
// it, and looks again after every role was killed and started anew.
func (s *stronghold) erase(roles map[string]*Role, api *http.Client, c *kafka.Cluster, customer string, stored func(query string, want int) func() error) {
	t := s.t
	ask := func(method, token string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(testContext(t), method, roles["serve"].http+"/v1/customers/"+customer, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := api.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	metric := func(role, name string) float64 {
		t.Helper()
		v, err := roles[role].Metric(name)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if got := ask("GET", ""); got != http.StatusOK {
		t.Fatalf("before the erasure the customer is answered with %d", got)
	}
	const of = "SELECT count() FROM %s WHERE customer_id = '%s'"
	Eventually(t, time.Minute, "rows of the customer", stored(fmt.Sprintf(of, "churn_scores FINAL", customer), 1))
	Eventually(t, time.Minute, "an outcome of the customer", stored(fmt.Sprintf(of, "churn_outcomes FINAL", customer), 1))
	Eventually(t, time.Minute, "an example of the customer", stored(fmt.Sprintf(of, "training_set", customer), 1))
	const customers, examples = "churn_scorer_customers", "churn_trainer_examples"
	Eventually(t, time.Minute, "an example of every outcome", func() error {
		if got, want := metric("train", examples), float64(ends(t, c, schemas.TopicOutcomes)); got != want {
			return fmt.Errorf("%v of %v", got, want)
		}
		return nil
	})
	known, learnt := metric("score", customers), metric("train", examples)
	for token, want := range map[string]int{"": 401, "wrong": 401, password("token"): 202} {
		if got := ask("DELETE", token); got != want {
			t.Errorf("DELETE with token %q: %d, want %d", token, got, want)
		}
	}
	gone := func() {
		t.Helper()
		Eventually(t, time.Minute, "the customer gone from the REST endpoint", func() error {
			if got := ask("GET", ""); got != http.StatusNotFound {
				return fmt.Errorf("it answers %d", got)
			}
			return nil
		})
		for _, table := range []string{"churn_scores", "churn_scores_current", "churn_scores_at_risk", "churn_outcomes", "churn_examples", "churn_scores_latest", "churn_examples_latest", "customers_at_risk"} {
			Eventually(t, time.Minute, "the customer gone from "+table, stored(fmt.Sprintf(of, table, customer), 0))
		}
		for _, m := range []struct {
			role, name string
			want       float64
		}{{"score", customers, known - 1}, {"train", examples, learnt - 1}} {
			Eventually(t, time.Minute, "the customer gone from "+m.name, func() error {
				if got, err := roles[m.role].Metric(m.name); err != nil || got != m.want {
					return fmt.Errorf("%v, %v; want %v", got, err, m.want)
				}
				return nil
			})
		}
	}
	begin := time.Now()
	gone()
	t.Logf("a customer erased from scorer, trainer, REST and ClickHouse %v after the request", time.Since(begin).Round(10*time.Millisecond))
	var last kafka.Record
	each(t, c, schemas.TopicScores, func(_ context.Context, r kafka.Record) error {
		if string(r.Key) == customer {
			last = r
		}
		return nil
	})
	if last.Key = []byte(customer); last.Offset == 0 || last.Value != nil {
		t.Errorf("the customer's last record in %s is no tombstone: offset %d, %d bytes", schemas.TopicScores, last.Offset, len(last.Value))
	}

	for _, r := range roles {
		r.Kill9()
	}
	for _, r := range roles {
		r.Start()
	}
	for _, r := range roles {
		r.WaitReady(time.Minute)
	}
	gone()
}

// refusals tries what must not be let in: the role says so, goes on trying, and
// keeps the secrets to itself.
func (s *stronghold) refusals(native, overHTTP string, toStore func(address, protocol string) []string) {
	t := s.t
	stranger, err := certificates.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.Client("churnstream")
	if err != nil {
		t.Fatal(err)
	}
	wrong := "=wrong-" + secretMark
	for _, c := range []struct {
		name    string
		user    string
		env     []string
		args    []string
		unready string // the part that is not ready, and words of the reason
		why     string
	}{
		{"PLAIN, wrong password", "monitor", []string{"CHURN_SASL_PASSWORD" + wrong}, []string{"monitor"}, "kafka", "SASL Authentication"},
		{"SCRAM-SHA-256, wrong password", "train", []string{"CHURN_SASL_PASSWORD" + wrong}, []string{"train"}, "kafka", "SASL Authentication"},
		{"SCRAM-SHA-512, wrong password", "score", []string{"CHURN_SASL_PASSWORD" + wrong}, []string{"score"}, "kafka", "SASL Authentication"},
		{"certificate of a stranger", "score", nil, []string{"score", "--tls-cert", foreign.Cert, "--tls-key", foreign.Key}, "kafka", "certificate"},
		{"server of a stranger", "score", nil, []string{"score", "--tls-ca", stranger.File}, "kafka", "certificate"},
		{"registry, wrong password", "score", []string{"CHURN_REGISTRY_PASSWORD" + wrong}, []string{"score"}, "registry", "user or password"},
		{"a user for another role", "score", nil, []string{"train"}, "train", ""},
		{"ClickHouse, wrong password", "sink", []string{"CHURN_CLICKHOUSE_PASSWORD" + wrong}, toStore(native, "native"), "sink clickhouse", "Authentication failed"},
		{"the same over HTTPS", "sink", []string{"CHURN_CLICKHOUSE_PASSWORD" + wrong}, toStore(overHTTP, "http"), "sink clickhouse", "Authentication failed"},
		{"ClickHouse, no certificate", "sink", nil, []string{"sink", "--clickhouse", native, "--clickhouse-user", "writer", "--clickhouse-tls-ca", s.authority.File}, "sink clickhouse", "certificate required"},
	} {
		r := s.start(c.user, c.env, c.args...)
		r.waitFor(time.Minute, "trying again", 0)
		why := r.Unready(time.Minute, c.unready, c.why)
		r.Stop()
		t.Logf("%s: %s", c.name, why)
	}
}
