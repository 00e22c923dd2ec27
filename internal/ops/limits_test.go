package ops

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/internal/settings"
)

func defaultLimits(t *testing.T) (l Limits) {
	t.Helper()
	if err := settings.Complete(&l); err != nil {
		t.Fatal(err)
	}
	return l
}

// The document of limits says what the code does.
func TestLimitsAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	l := defaultLimits(t)
	for limit, value := range map[string]string{
		"open connections": fmt.Sprint(l.Connections),
		"requests under way on one HTTP/2 connection": fmt.Sprint(maxHTTP2Streams),
		"request header": fmt.Sprintf("%d KiB", l.HeaderBytes>>10),
		"time to send the header, and for the TLS handshake": fmt.Sprintf("%.0f s", l.HeaderTimeout.Seconds()),
		"time to send the body":                              fmt.Sprintf("%.0f s", l.BodyTimeout.Seconds()),
		"time from the header to the end of the answer":      fmt.Sprintf("%.0f min", l.AnswerTimeout.Minutes()),
		"idle connection":                                    fmt.Sprintf("%.0f min", l.IdleTimeout.Minutes()),
		"scrapes of `/metrics` at a time":                    fmt.Sprint(l.Scrapes),
		"time for a scrape":                                  fmt.Sprintf("%.0f s", l.ScrapeTimeout.Seconds()),
		"time for requests to end at shutdown":               fmt.Sprintf("%.0f s", l.Shutdown.Seconds()),
	} {
		if row := "| " + limit + " | " + value + " |"; !strings.Contains(string(document), row) {
			t.Errorf("docs/limits.md does not say %q", row)
		}
	}
}
