package trainer

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/schemas"
)

// FuzzRetrain posts any body to a trainer that is not ready yet: the answer is
// that, or what is wrong with the body.
func FuzzRetrain(f *testing.F) {
	cluster, err := kafka.Connect(kafka.Config{Brokers: []string{"127.0.0.1:1"}})
	if err != nil {
		f.Fatal(err)
	}
	defer cluster.Close()
	codec := schemas.NewCodec(schemas.Telco(), nil)
	feed := models.NewFeed(models.FeedConfig{Cluster: cluster, Codec: codec})
	t, err := New(Config{Dependencies: role.Dependencies{Cluster: cluster, Codec: codec, Models: feed}})
	if err != nil {
		f.Fatal(err)
	}
	handler := t.RetrainHandler("")
	for _, body := range []string{
		"", " ", "{}", `{"reason":"new prices"}`, `{"reason":7}`, `[]`, `null`, `{"reason":"` + strings.Repeat("ü", 300) + `"}`,
		`{"status":"firing","commonLabels":{"alertname":"ChurnFeatureDrift"}}`, `{"status":"resolved"}`,
	} {
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body string) {
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
		switch answer.Code {
		case http.StatusServiceUnavailable, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusNoContent:
		default:
			t.Errorf("%q is answered %d: %s", body, answer.Code, answer.Body)
		}
	})
}
