package serving

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registry"
)

var (
	_ Tailer   = (*kafka.Cluster)(nil)
	_ Producer = (*kafka.Producer)(nil)
)

// Scores and a model published to a broker reach a client of the server.
func TestFromBrokerToClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer broker.Close()
	reg, err := embedded.StartRegistry(embedded.RegistryConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	client, err := registry.New(registry.Config{URL: reg.URL()})
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	if err := cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: schemas.TopicScores, Partitions: 3, Replication: 1},
		kafka.TopicConfig{Name: schemas.TopicModels, Partitions: 1, Replication: 1}); err != nil {
		t.Fatal(err)
	}

	st := newStage(t) // for its schema, model and scores
	writer := schemas.NewCodec(st.set, client)
	if err := writer.Register(ctx); err != nil {
		t.Fatal(err)
	}
	version := st.version(4, schemas.StageChampion).ModelVersion
	version.Payload, version.FeatureFingerprint = gymModel, st.set.Spec().Fingerprint()
	version.SHA256 = models.SHA256(gymModel)
	producer := cluster.NewProducer(kafka.ProducerConfig{})
	if err := producer.Produce(ctx, schemas.TopicModels, kafka.Record{Key: []byte("4"), Value: writer.AppendModel(nil, &version)}); err != nil {
		t.Fatal(err)
	}
	var records []kafka.Record
	for _, id := range []string{"ann", "bob", "cyd", "dan", "eve"} {
		s := st.scored(id, `{"plan":"monthly","visits":2}`)
		records = append(records, kafka.Record{Key: s.CustomerID, Value: writer.AppendScore(nil, s)})
	}
	records = append(records, erased("dan", "7"), kafka.Record{Key: []byte("eve")}) // the latter is not a scorer's
	if err := producer.Produce(ctx, schemas.TopicScores, records...); err != nil {
		t.Fatal(err)
	}

	// Another process, that has yet to learn of the schemas.
	set, err := schemas.Parse([]byte(gymSchema))
	if err != nil {
		t.Fatal(err)
	}
	codec := schemas.NewCodec(set, client)
	feed := models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: codec})
	s, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: feed}})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 2)
	go func() { done <- feed.Run(running) }()
	go func() { done <- s.Run(running) }()
	for _, caughtUp := range []<-chan struct{}{feed.CaughtUp(), s.CaughtUp()} {
		select {
		case <-caughtUp:
		case <-ctx.Done():
			t.Fatal("not caught up in time")
		}
	}
	get := func(method, target, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w
	}
	list := decode[struct {
		Total     int
		Customers []struct {
			CustomerID string `json:"customer_id"`
		}
	}](t, get("GET", "/v1/customers", ""))
	if list.Total != 4 || list.Customers[0].CustomerID != "eve" {
		t.Errorf("customers %+v", list)
	}
	if w := get("POST", "/v1/what-if", `{"customer_id":"ann","changes":{"plan":"yearly"}}`); w.Code != http.StatusOK {
		t.Errorf("what-if: status %d: %s", w.Code, w.Body)
	}
	stop()
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
