package intake_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	kafkago "github.com/segmentio/kafka-go"

	"github.com/churnstream/churnstream/internal/embedded"
	"github.com/churnstream/churnstream/internal/intake"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/schemas"
	"github.com/churnstream/churnstream/schemas/registrytest"
)

// scoresTopic is churn.scores on the embedded broker, with those who write to it.
type scoresTopic struct {
	t       *testing.T
	ctx     context.Context
	cluster *kafka.Cluster
	writer  *schemas.Codec
	codec   *schemas.Codec
	broker  string
	id      string

	progress schemas.Progress
}

func newScoresTopic(t *testing.T) *scoresTopic {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	broker, err := embedded.StartBroker(embedded.BrokerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(broker.Close)
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{broker.Addr()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s := &scoresTopic{t: t, ctx: ctx, cluster: cluster, broker: broker.Addr()}
	s.writer, s.codec = newCodecs(t, registrytest.New())
	if err := cluster.EnsureTopics(ctx, kafka.TopicConfig{Name: schemas.TopicScores, Partitions: 1}); err != nil {
		t.Fatal(err)
	}
	id, err := cluster.TopicID(ctx, schemas.TopicScores)
	if err != nil {
		t.Fatal(err)
	}
	s.id = id.String()
	return s
}

// scorer is one that has made the partition its own.
type scorer struct {
	*scoresTopic
	out *kafka.FencedProducer
}

// scorer has one take the partition, under an id of its own as after the
// expiry of the former.
func (s *scoresTopic) scorer(name string) *scorer {
	s.t.Helper()
	out, err := s.cluster.Fence(s.ctx, kafka.FenceConfig{TransactionalID: name, Topic: schemas.TopicScores})
	if err != nil {
		s.t.Fatal(err)
	}
	o := &scorer{s, out}
	at := o.append(kafka.Record{Key: []byte(schemas.MarkerKey)})
	s.progress.Writers = append(s.progress.Writers, schemas.Writer{ProducerID: out.ProducerID(), Since: at})
	return o
}

func (o *scorer) append(r kafka.Record) int64 {
	o.t.Helper()
	at, err := o.out.Append(o.ctx, []kafka.Record{r})
	if err != nil {
		o.t.Fatal(err)
	}
	return at
}

func (o *scorer) score(customer string) { o.append(o.record(customer)) }

func marker(codec *schemas.Codec, p *schemas.Progress) kafka.Record {
	return kafka.Record{Key: []byte(schemas.ProgressKey), Value: codec.AppendScore(nil, codec.NewScore()),
		Headers: []kafka.Header{{Key: schemas.HeaderProgress, Value: codec.AppendProgress(nil, p)}}}
}

// mark writes a marker of progress.
func (o *scorer) mark() {
	o.progress.ScoresTopicID = o.id
	o.append(marker(o.writer, &o.progress))
}

func (s *scoresTopic) record(customer string) kafka.Record {
	score := s.writer.NewScore()
	score.CustomerID, score.ModelVersion, score.Probability = []byte(customer), 1, 0.5
	return kafka.Record{Key: []byte(customer), Value: s.writer.AppendScore(nil, score)}
}

// stranger writes a record as anybody can.
func (s *scoresTopic) stranger(r kafka.Record) {
	s.t.Helper()
	if err := s.cluster.NewProducer(kafka.ProducerConfig{}).Produce(s.ctx, schemas.TopicScores, r); err != nil {
		s.t.Fatal(err)
	}
}

// believed reads the partition from an offset on, with owners, and returns whose
// records were believed and how many were poison.
func (s *scoresTopic) believed(owners *intake.Owners, from int64) (customers []string, foreign int) {
	s.t.Helper()
	topic := intake.Scores(s.codec, owners)
	topic.Poison = func(_ context.Context, _ *kafka.Record, why *schemas.PoisonError) error {
		if why.Reason != schemas.ReasonForeign {
			s.t.Errorf("poison for %v", why)
		}
		foreign++
		return nil
	}
	reader := intake.NewReader(intake.New(intake.Config{}), topic)
	_, end, err := s.cluster.Offsets(s.ctx, schemas.TopicScores, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	err = s.cluster.Read(s.ctx, kafka.Span{Topic: schemas.TopicScores, Start: from, End: end}, func(records []kafka.Record, _ int64) error {
		for i := range records {
			kind, err := reader.Read(s.ctx, &records[i])
			if err != nil {
				return err
			}
			if kind != intake.Nothing {
				customers = append(customers, string(records[i].Key))
			}
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return customers, foreign
}

func (s *scoresTopic) owners() *intake.Owners {
	return intake.NewOwners(intake.New(intake.Config{}), s.cluster, s.codec)
}

func (s *scoresTopic) expect(owners *intake.Owners, from int64, want string, foreign int) {
	s.t.Helper()
	got, n := s.believed(owners, from)
	if strings.Join(got, " ") != want || n != foreign {
		s.t.Errorf("from offset %d: %d foreign, believed %s, want %d and %s", from, n, got, foreign, want)
	}
}

func TestOwners(t *testing.T) {
	s := newScoresTopic(t)
	// Before anybody counted, everybody is believed.
	s.stranger(s.record("older"))
	first := s.scorer("first")
	first.score("ann")
	s.stranger(s.record("made-up"))
	s.expect(s.owners(), 0, "older ann made-up", 0)

	live := s.owners() // reads on all the time
	s.expect(live, 0, "older ann made-up", 0)
	first.mark()
	first.score("bob")
	tombstone := kafka.Record{Key: []byte("ann"), Headers: []kafka.Header{
		{Key: schemas.HeaderSourcePartition, Value: []byte("0")}, {Key: schemas.HeaderSourceOffset, Value: []byte("9000")}}}
	s.stranger(tombstone)
	s.stranger(kafka.Record{Key: []byte(schemas.MarkerKey)})
	// A marker that was copied makes nobody an owner.
	s.stranger(marker(s.writer, &s.progress))
	s.stranger(s.record("made-up too"))
	s.expect(s.owners(), 0, "older ann bob", 3)

	// Another takes over: what it writes before it has counted anything is
	// believed, wherever one begins to read.
	_, taken, err := s.cluster.Offsets(s.ctx, schemas.TopicScores, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.expect(live, 3, "bob", 3)
	second := s.scorer("second")
	second.score("cid")
	s.expect(live, taken, "cid", 0)
	s.expect(s.owners(), 0, "older ann bob cid", 3)
	s.expect(s.owners(), taken+1, "cid", 0)
	second.mark()
	first.out = nil // what it writes now the broker refuses
	s.stranger(s.record("made-up once more"))
	second.score("dan")
	s.expect(live, taken+2, "dan", 1)
	s.expect(s.owners(), 0, "older ann bob cid dan", 4)
	s.expect(s.owners(), taken+4, "dan", 0)
}

// Where the markers are another topic's, as in a copy, nobody is doubted.
func TestOwnersOfACopy(t *testing.T) {
	s := newScoresTopic(t)
	o := s.scorer("scorer")
	s.id = fmt.Sprintf("%032x", 1)
	o.mark()
	s.stranger(s.record("ann"))
	s.expect(s.owners(), 0, "ann", 0)
}

// A topic that was created anew under the same name has no owners yet.
func TestOwnersOfANewTopic(t *testing.T) {
	s := newScoresTopic(t)
	o := s.scorer("scorer")
	o.score("ann")
	o.mark()
	o.score("bob")
	owners := s.owners()
	s.expect(owners, 0, "ann bob", 0)
	s.recreate()
	s.stranger(s.record("cid"))
	s.stranger(s.record("dan"))
	s.expect(owners, 0, "cid dan", 0)
}

// recreate makes the topic anew.
func (s *scoresTopic) recreate() {
	s.t.Helper()
	client := &kafkago.Client{Addr: kafkago.TCP(s.broker)}
	if _, err := client.DeleteTopics(s.ctx, &kafkago.DeleteTopicsRequest{Topics: []string{schemas.TopicScores}}); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cluster.EnsureTopics(s.ctx, kafka.TopicConfig{Name: schemas.TopicScores, Partitions: 1}); err != nil {
		s.t.Fatal(err)
	}
}
