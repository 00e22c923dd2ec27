package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/certificates"
	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/scoring"
)

// The secrets of these tests, unlike anything else that is printed.
const (
	saslPassword       = "sasl-Zq7xPw"
	registryPassword   = "registry-Zq7xPw"
	clickHousePassword = "clickhouse-Zq7xPw"
	httpToken          = "http-token-Zq7xPw"
)

func checkNoSecret(t *testing.T, where, text string) {
	t.Helper()
	if i := strings.Index(text, "Zq7xPw"); i >= 0 {
		t.Errorf("%s has a secret in it: …%s…", where, text[max(0, i-200):min(len(text), i+50)])
	}
}

// quickEnds spares the many processes of a test the second that the race
// detector otherwise waits at the end of each.
func quickEnds(t *testing.T) { t.Setenv("GORACE", "atexit_sleep_ms=0") }

// A secret on the command line could be read by everyone on the machine.
func TestNoSecretIsAFlag(t *testing.T) {
	parser, err := newParser(&cli{Run: newRunCommand()})
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`pass|token|secret|credential`)
	found := map[string]bool{}
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			if secret.MatchString(f.Name) {
				found[f.Name] = true
				if !strings.HasSuffix(f.Name, "-file") {
					t.Errorf("%s takes a secret as --%s", n.Path(), f.Name)
				}
			}
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	for _, name := range []string{"sasl-password-file", "registry-password-file", "clickhouse-password-file", "http-token-file"} {
		if !found[name] {
			t.Errorf("there is no --%s", name)
		}
	}
}

func TestSecurityUsage(t *testing.T) {
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		args []string
		env  [2]string
		want string
	}{
		"certificate without key":     {[]string{"score", "--tls-cert", ca.client.Cert}, [2]string{}, "--tls-cert and --tls-key belong together"},
		"key without certificate":     {[]string{"score", "--tls-key", ca.client.Key}, [2]string{}, "--tls-cert and --tls-key belong together"},
		"no certificate in the file":  {[]string{"score", "--tls-ca", ca.client.Key}, [2]string{}, "no certificate in PEM form"},
		"files for a plain registry":  {[]string{"score", "--registry-tls-ca", ca.File}, [2]string{}, "need an https URL"},
		"registry password, no user":  {[]string{"score"}, [2]string{"CHURN_REGISTRY_PASSWORD", registryPassword}, "no --registry-user"},
		"registry user in the URL":    {[]string{"score", "--registry", "http://me:" + registryPassword + "@localhost:8081"}, [2]string{}, "CHURN_REGISTRY_PASSWORD"},
		"registry user, second URL":   {[]string{"score", "--registry", "http://localhost:8081,http://me:" + registryPassword + "@localhost:8082"}, [2]string{}, "CHURN_REGISTRY_PASSWORD"},
		"user in a broker":            {[]string{"score", "--brokers", "me:" + saslPassword + "@localhost:9092"}, [2]string{}, "CHURN_SASL_PASSWORD"},
		"user in ClickHouse":          {[]string{"sink", "--clickhouse", "me:" + clickHousePassword + "@localhost:9000"}, [2]string{}, "CHURN_CLICKHOUSE_PASSWORD"},
		"ClickHouse as a URL":         {[]string{"sink", "--clickhouse", "clickhouse://me:" + clickHousePassword + "@localhost:9000/db"}, [2]string{}, "CHURN_CLICKHOUSE_PASSWORD"},
		"empty token file":            {[]string{"serve", "--http-token-file", "/dev/null"}, [2]string{}, "--http-token-file"},
		"HTTPS without key":           {[]string{"serve", "--http", "127.0.0.1:0", "--http-tls-cert", ca.server.Cert}, [2]string{}, "belong together"},
		"HTTPS with another's key":    {[]string{"serve", "--http", "127.0.0.1:0", "--http-tls-cert", ca.server.Cert, "--http-tls-key", ca.client.Key}, [2]string{}, "certificate"},
		"no password for SASL":        {[]string{"score", "--sasl", "scram-sha-512", "--sasl-user", "me"}, [2]string{}, "CHURN_SASL_PASSWORD"},
		"no user for SASL":            {[]string{"score", "--sasl", "plain"}, [2]string{"CHURN_SASL_PASSWORD", saslPassword}, "--sasl-user"},
		"ClickHouse key without cert": {[]string{"sink", "--clickhouse", "localhost:9440", "--clickhouse-tls-key", ca.client.Key}, [2]string{}, "belong together"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			var out, errs bytes.Buffer
			if code := run(c.args, &out, &errs); code == 0 {
				t.Error("exit code 0")
			}
			if !strings.Contains(errs.String(), c.want) {
				t.Errorf("printed %q, want %q in it", errs.String(), c.want)
			}
			checkNoSecret(t, "the output", out.String()+errs.String())
		})
	}
}

// authority issues certificates for this test, and has them in files.
type authority struct {
	*certificates.Authority
	t              *testing.T
	server, client certificates.Pair
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	issuer, err := certificates.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{Authority: issuer, t: t}
	if a.server, err = a.Server("server"); err != nil {
		t.Fatal(err)
	}
	if a.client, err = a.Client("client"); err != nil {
		t.Fatal(err)
	}
	return a
}

// demanding is the configuration of a server that wants clients to have a
// certificate of this authority.
func (a *authority) demanding() *tls.Config {
	a.t.Helper()
	cfg, err := a.Demanding(a.server)
	if err != nil {
		a.t.Fatal(err)
	}
	return cfg
}

// fortress is a broker and a registry that let in nobody without certificate
// and password.
type fortress struct {
	ca           *authority
	brokers, url string
}

func newFortress(t *testing.T) *fortress {
	t.Helper()
	f := &fortress{ca: newAuthority(t)}
	broker, err := embedded.StartBroker(embedded.BrokerConfig{Options: []kfake.Opt{
		kfake.TLS(f.ca.demanding()), kfake.EnableSASL(),
		kfake.Superuser("PLAIN", "plain", saslPassword),
		kfake.Superuser("SCRAM-SHA-256", "scram-sha-256", saslPassword),
		kfake.Superuser("SCRAM-SHA-512", "scram-sha-512", saslPassword),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	f.brokers = broker.Addr()

	registry, err := embedded.StartRegistry(embedded.RegistryConfig{Username: "reader", Password: registryPassword, TLS: f.ca.demanding()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(registry.Close)
	f.url = registry.URL()
	return f
}

// connection is how to get in by a mechanism.
func (f *fortress) connection(mechanism string) *connection {
	return &connection{
		Kafka: kafka.Config{Brokers: []string{f.brokers}}, Registry: f.url,
		TLSCA: f.ca.File, TLSCert: f.ca.client.Cert, TLSKey: f.ca.client.Key,
		SASL: mechanism, SASLUser: mechanism,
		RegistryUser: "reader", RegistryTLSCA: f.ca.File, RegistryTLSCert: f.ca.client.Cert, RegistryTLSKey: f.ca.client.Key,
	}
}

// flags are the same for the command line.
func (f *fortress) flags(mechanism string) []string {
	return []string{
		"--brokers", f.brokers, "--registry", f.url, "--http", "127.0.0.1:0", "--no-create-topics", "--log-level", "debug",
		"--tls-ca", f.ca.File, "--tls-cert", f.ca.client.Cert, "--tls-key", f.ca.client.Key,
		"--sasl", mechanism, "--sasl-user", mechanism,
		"--registry-user", "reader", "--registry-tls-ca", f.ca.File,
		"--registry-tls-cert", f.ca.client.Cert, "--registry-tls-key", f.ca.client.Key,
	}
}

// someModel is a version that scores with every feature.
func someModel(t *testing.T, set *schemas.Set) *schemas.ModelVersion {
	t.Helper()
	m := scoring.Model{Intercept: -1}
	for j := range set.Spec().Len() {
		f := scoring.ModelFeature{Name: set.Spec().Feature(j).Name, Kind: set.Spec().Feature(j).Kind.String()}
		if set.Spec().Feature(j).Kind == scoring.Categorical {
			f.Levels, f.LogOdds, f.Frequency = []string{"No", "Yes"}, []float64{0, 0.1}, []float64{0.5, 0.5}
		} else {
			f.LogOddsPerUnit = 0.01
			f.Bins = []scoring.Bin{{Mean: 1, Std: 1, Min: 0, Max: 2, Frequency: 1}}
			f.EmpiricalQuantiles = []float64{0, 1, 2}
		}
		m.Features = append(m.Features, f)
	}
	payload, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &schemas.ModelVersion{
		Version: 1, CreatedAt: time.Now().UnixMilli(), Stage: schemas.StageChampion, Reason: "test",
		Payload: string(payload), SHA256: models.SHA256(string(payload)), FeatureFingerprint: set.Spec().Fingerprint(),
		MediumThreshold: 0.3, HighThreshold: 0.6,
	}
}

// TestSecuredServers runs processes against a broker that demands TLS, a client
// certificate and a login, and a registry that does too.
func TestSecuredServers(t *testing.T) {
	quickEnds(t)
	t.Setenv("CHURN_SASL_PASSWORD", saslPassword)
	t.Setenv("CHURN_REGISTRY_PASSWORD", registryPassword)
	f := newFortress(t)
	client, err := f.connection("scram-sha-512").process(&listener{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Cluster.Close)
	if err := client.Cluster.EnsureTopics(t.Context(), topics.EmbeddedConfigs(1)...); err != nil {
		t.Fatal(err)
	}
	if err := client.Codec.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	outside := &company{t, client.Cluster, client.Codec, client.Cluster.NewProducer(kafka.ProducerConfig{})}
	outside.write(schemas.TopicModels, kafka.Record{Key: models.Key(1), Value: client.Codec.AppendModel(nil, someModel(t, client.Codec.Set()))})

	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			outside := &company{t, outside.cluster, outside.codec, outside.producer}
			p := launch(t, append([]string{"score"}, f.flags(mechanism)...)...)
			outside.event(mechanism, time.Now(), scoring.NewVector(client.Codec.Set().Spec().Len()))
			until(t, "a score", func() bool { return outside.last(schemas.TopicScores, mechanism) != nil })
			checkNoSecret(t, "/metrics", get(t, p.url()+"/metrics"))
			if code, _ := p.interrupt(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			checkNoSecret(t, "the log", p.output())
		})
	}

	t.Run("HTTPS with a token", func(t *testing.T) {
		token := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(token, []byte(httpToken+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p := launch(t, append([]string{"serve", "--http-token-file", token, "--http-tls-cert", f.ca.server.Cert, "--http-tls-key", f.ca.server.Key},
			f.flags("plain")...)...)
		address := p.find(`listening url=(https://[^/]+)/`)[1]
		https := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: f.ca.Pool()}}}
		defer https.CloseIdleConnections()
		ask := func(method, path, token string) (int, string) {
			r, err := http.NewRequest(method, address+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := https.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			return resp.StatusCode, string(body)
		}
		until(t, "the server to be ready", func() bool { status, _ := ask("GET", "/readyz", ""); return status == 200 })
		for _, c := range []struct {
			method, path, token string
			want                int
		}{
			{"GET", "/v1/customers/plain", "", 200},
			{"DELETE", "/v1/customers/plain", "", 401},
			{"DELETE", "/v1/customers/plain", "wrong", 401},
			{"POST", "/v1/models/1/activate", "", 401},
			{"POST", "/v1/retrain", "", 401},
			{"POST", "/v1/models/1/activate", httpToken, 200}, // the champion already
			{"POST", "/v1/retrain", httpToken, 404},           // no trainer in this process
			{"DELETE", "/v1/customers/plain", httpToken, 202},
		} {
			status, body := ask(c.method, c.path, c.token)
			if status != c.want {
				t.Errorf("%s %s: status %d, want %d: %s", c.method, c.path, status, c.want, body)
			}
			checkNoSecret(t, c.path, body)
		}
		if code, _ := p.interrupt(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		checkNoSecret(t, "the log", p.output())
	})

	t.Run("ClickHouse", func(t *testing.T) {
		// This listener demands TLS with a client certificate and looks at
		// what a client says first. The integration tests have the server.
		listener, err := tls.Listen("tcp", "127.0.0.1:0", f.ca.demanding())
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		hello := make(chan []byte, 1)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
				buf := make([]byte, 4096)
				if n, err := conn.Read(buf); err == nil {
					select {
					case hello <- buf[:n]:
					default:
					}
				}
				conn.Close()
			}
		}()
		t.Setenv("CHURN_CLICKHOUSE_PASSWORD", clickHousePassword)
		p := launch(t, append([]string{"sink", "--clickhouse", listener.Addr().String(), "--clickhouse-user", "writer",
			"--clickhouse-tls-ca", f.ca.File, "--clickhouse-tls-cert", f.ca.client.Cert, "--clickhouse-tls-key", f.ca.client.Key},
			f.flags("plain")...)...)
		select {
		case said := <-hello:
			if !bytes.Contains(said, []byte("writer")) || !bytes.Contains(said, []byte(clickHousePassword)) {
				t.Errorf("the client logs in with %q", said)
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nobody came")
		}
		p.find(`failed, trying again.*creating the tables|creating the tables.*failed`)
		checkNoSecret(t, "/readyz", get(t, p.url()+"/readyz"))
		p.interrupt()
		checkNoSecret(t, "the log", p.output())
	})

	// What is missing one of the three gets nowhere and says so, without
	// telling the secrets.
	without := func(flags []string, names ...string) (rest []string) {
		for i := 0; i < len(flags); i++ {
			drop := false
			for _, name := range names {
				drop = drop || flags[i] == name
			}
			if drop {
				i++
				continue
			}
			rest = append(rest, flags[i])
		}
		return rest
	}
	all := f.flags("scram-sha-256")
	for name, c := range map[string]struct {
		flags  []string
		env    [2]string
		unable string // the part that is not ready
	}{
		"plain text":             {without(all, "--tls-ca", "--tls-cert", "--tls-key"), [2]string{}, "kafka"},
		"no client certificate":  {without(all, "--tls-cert", "--tls-key"), [2]string{}, "kafka"},
		"unknown authority":      {without(all, "--tls-ca"), [2]string{}, "kafka"},
		"no login":               {without(all, "--sasl", "--sasl-user"), [2]string{}, "kafka"},
		"wrong password":         {all, [2]string{"CHURN_SASL_PASSWORD", "wrong-Zq7xPw"}, "kafka"},
		"wrong user":             {append(without(all, "--sasl-user"), "--sasl-user", "plain"), [2]string{}, "kafka"},
		"registry, no login":     {without(all, "--registry-user"), [2]string{"CHURN_REGISTRY_PASSWORD", ""}, "registry"},
		"registry, wrong login":  {all, [2]string{"CHURN_REGISTRY_PASSWORD", "wrong-Zq7xPw"}, "registry"},
		"registry, no authority": {without(all, "--registry-tls-ca"), [2]string{}, "registry"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.env[0] != "" {
				t.Setenv(c.env[0], c.env[1])
			}
			p := launch(t, append([]string{"score"}, c.flags...)...)
			p.find(`failed, trying again`)
			var state struct {
				Ready  bool
				Checks map[string]struct {
					Ready bool
					Why   string
				}
			}
			if err := json.Unmarshal([]byte(get(t, p.url()+"/readyz")), &state); err != nil {
				t.Fatal(err)
			}
			if check, said := state.Checks[c.unable]; state.Ready || !said || check.Ready || check.Why == "" {
				t.Errorf("ready %v, checks %v; want %s not to be", state.Ready, state.Checks, c.unable)
			}
			if _, took := p.interrupt(); took > 10*time.Second {
				t.Errorf("took %v to end", took)
			}
			checkNoSecret(t, "the log", p.output())
		})
	}
}

// TestSecretsStayOutOfLogs runs commands with every secret set, the log at
// its most talkative, and servers that are not there.
func TestSecretsStayOutOfLogs(t *testing.T) {
	quickEnds(t)
	t.Setenv("CHURN_SASL_PASSWORD", saslPassword)
	t.Setenv("CHURN_REGISTRY_PASSWORD", registryPassword)
	t.Setenv("CHURN_CLICKHOUSE_PASSWORD", clickHousePassword)
	t.Setenv("CHURN_HTTP_TOKEN", httpToken)
	nowhere := []string{"--brokers", "127.0.0.1:1", "--registry", "http://127.0.0.1:1", "--log-level", "debug",
		"--sasl", "plain", "--sasl-user", "me", "--registry-user", "me"}
	for _, args := range [][]string{
		{"score", "--http", "127.0.0.1:0"},
		{"train", "--http", "127.0.0.1:0", "--log-format", "json"},
		{"monitor", "--http", "127.0.0.1:0"},
		{"sink", "--http", "127.0.0.1:0", "--clickhouse", "127.0.0.1:1"},
		{"serve", "--http", "127.0.0.1:0"},
		{"replay", "--http", "127.0.0.1:0"},
		{"models", "list"},
	} {
		t.Run(args[0], func(t *testing.T) {
			p := launch(t, append(args, nowhere...)...)
			p.find(`failed, trying again`)
			if len(args) > 2 {
				address := p.find(`(http://127\.0\.0\.1:\d+)/`)[1]
				for _, path := range []string{"/", "/readyz", "/metrics", "/openapi.json"} {
					checkNoSecret(t, path, get(t, address+path))
				}
			}
			p.interrupt()
			if p.output() == "" {
				t.Error("nothing was printed")
			}
			checkNoSecret(t, "the output", p.output())
		})
	}
}

// A password that would be sent in the clear to another machine is warned of.
func TestWarnsOfClearPasswords(t *testing.T) {
	t.Setenv("CHURN_SASL_PASSWORD", saslPassword)
	t.Setenv("CHURN_REGISTRY_PASSWORD", registryPassword)
	t.Setenv("CHURN_CLICKHOUSE_PASSWORD", clickHousePassword)
	ca := newAuthority(t)
	for name, c := range map[string]struct {
		connection connection
		sink       sink.StoresConfig
		warned     string
	}{
		"SASL PLAIN elsewhere":      {connection: connection{Kafka: kafka.Config{Brokers: []string{"kafka.example:9092"}}, SASL: "plain", SASLUser: "me"}, warned: "--sasl plain"},
		"SASL PLAIN here":           {connection: connection{Kafka: kafka.Config{Brokers: []string{"localhost:9092", "127.0.0.1:9093"}}, SASL: "plain", SASLUser: "me"}},
		"SASL PLAIN over TLS":       {connection: connection{Kafka: kafka.Config{Brokers: []string{"kafka.example:9092"}}, SASL: "plain", SASLUser: "me", TLS: true}},
		"SCRAM elsewhere":           {connection: connection{Kafka: kafka.Config{Brokers: []string{"kafka.example:9092"}}, SASL: "scram-sha-256", SASLUser: "me"}},
		"registry elsewhere":        {connection: connection{Registry: "http://registry.example:8081/path"}, warned: "--registry"},
		"second registry elsewhere": {connection: connection{Registry: "http://localhost:8081, http://registry.example"}, warned: "--registry"},
		"registry over TLS":         {connection: connection{Registry: "https://registry.example"}},
		"ClickHouse elsewhere":      {sink: sink.StoresConfig{ClickHouse: sink.ClickHouseConfig{Addr: "localhost:9000, clickhouse.example:9000"}}, warned: "--clickhouse"},
		"ClickHouse over TLS":       {sink: sink.StoresConfig{ClickHouse: sink.ClickHouseConfig{Addr: "clickhouse.example:9440"}, ClickHouseTLSCA: ca.File}},
		"ClickHouse here":           {sink: sink.StoresConfig{ClickHouse: sink.ClickHouseConfig{Addr: "127.0.0.1:9000"}}},
	} {
		t.Run(name, func(t *testing.T) {
			log := &lines{}
			logger := slog.New(slog.NewTextHandler(log, nil))
			if c.connection.Kafka.Brokers == nil {
				c.connection.Kafka.Brokers = []string{"localhost:9092"}
			}
			if c.connection.Registry == "" {
				c.connection.Registry = "http://localhost:8081"
			}
			c.connection.RegistryUser = "me"
			p, err := c.connection.process(&listener{}, logger)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if c.sink.ClickHouse.Addr != "" {
				if _, err := p.Add(sink.Role, &c.sink); err != nil {
					t.Fatal(err)
				}
			}
			got := log.String()
			if c.warned == "" && got != "" || c.warned != "" && (!strings.Contains(got, "without TLS") || !strings.Contains(got, c.warned)) {
				t.Errorf("logged %q, want a warning of %q", got, c.warned)
			}
			checkNoSecret(t, "the log", got)
		})
	}
}

// The trainer answers for itself where no serving role does, under the same
// rule as everything that changes something.
func TestRetrainOfATrainerAlone(t *testing.T) {
	quickEnds(t)
	t.Setenv("CHURN_HTTP_TOKEN", httpToken)
	broker := launch(t, "broker", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0")
	m := broker.find(`Kafka at (\S+), schema registry at (\S+)`)
	for _, roles := range []string{"train", "serve,train"} {
		p := launch(t, "run", "--roles", roles, "--brokers", m[1], "--registry", m[2], "--http", "127.0.0.1:0")
		address := p.url()
		until(t, "the trainer to be ready", func() bool {
			resp, err := http.Get(address + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode == http.StatusOK
		})
		for token, want := range map[string]int{"": 401, "wrong": 401, httpToken: 409} { // too few labels, says the trainer
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			r, err := http.NewRequestWithContext(ctx, "POST", address+"/v1/retrain", strings.NewReader(`{"reason":"test"}`))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer "+token)
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			cancel()
			if resp.StatusCode != want {
				t.Errorf("%s, token %q: status %d, want %d", roles, token, resp.StatusCode, want)
			}
		}
		p.interrupt()
	}
}
