package ops

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// The document of limits says what the code does.
func TestLimitsAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	for limit, value := range map[string]string{
		"open connections": fmt.Sprint(maxConnections),
		"requests under way on one HTTP/2 connection": fmt.Sprint(maxHTTP2Streams),
		"request header": fmt.Sprintf("%d KiB", maxHeaderBytes>>10),
		"time to send the header, and for the TLS handshake": fmt.Sprintf("%.0f s", headerTimeout.Seconds()),
		"time to send the body":                              fmt.Sprintf("%.0f s", bodyTimeout.Seconds()),
		"time from the header to the end of the answer":      fmt.Sprintf("%.0f min", answerTimeout.Minutes()),
		"idle connection":                                    fmt.Sprintf("%.0f min", idleTimeout.Minutes()),
		"scrapes of `/metrics` at a time":                    fmt.Sprint(maxScrapes),
		"time for a scrape":                                  fmt.Sprintf("%.0f s", scrapeTimeout.Seconds()),
		"time for requests to end at shutdown":               fmt.Sprintf("%.1f s, then their contexts are cancelled", drainTime.Seconds()),
		"time for shutdown as a whole":                       fmt.Sprintf("%.0f s", shutdownTime.Seconds()),
	} {
		if row := "| " + limit + " | " + value + " |"; !strings.Contains(string(document), row) {
			t.Errorf("docs/limits.md does not say %q", row)
		}
	}
}
