package quality

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestTheReportIsReadByHTTP(t *testing.T) {
	figures := Figures{}
	figures.Set("log_loss", .4, .38, .42)
	h := Handler(func() *Report { return &Report{Champion: 4, Versions: []Version{{Version: 4, Measured: figures}}} })
	mux := http.NewServeMux()
	mux.Handle(Path, h)
	server := httptest.NewServer(mux)
	defer server.Close()

	r, err := NewClient(server.URL + "/").Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Of(4); r.Champion != 4 || v == nil || v.Measured["log_loss"].Upper != .42 {
		t.Errorf("read %+v", r)
	}
	if local, err := h.Report(t.Context()); err != nil || local.Champion != 4 {
		t.Errorf("%+v, %v", local, err)
	}
	answer, err := http.Post(server.URL+Path, "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed || answer.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("a change is answered %s", answer.Status)
	}
}

func TestNoReport(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, url := range []string{other.URL, gone.URL, "::"} {
		if r, err := NewClient(url).Report(t.Context()); err == nil {
			t.Errorf("%s: %+v", url, r)
		}
	}
}
