package serving

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/churnstream/churnstream/schemas"
)

// The document of limits says what the code does.
func TestLimitsAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	l := Role.Config().(*Config).Limits
	for limit, value := range map[string]string{
		"body of `/v1/explain` and `/v1/what-if`":                              fmt.Sprintf("%d KiB", l.BodyBytes>>10),
		"body of `/v1/score`":                                                  fmt.Sprintf("%d MiB", l.BatchBytes>>20),
		"customers in one `/v1/score`":                                         fmt.Sprint(l.Batch),
		"requests whose bodies are in memory at a time":                        fmt.Sprint(l.Bodies),
		"wait of such a request":                                               fmt.Sprintf("%.0f s", l.BodyWait.Seconds()),
		"wait for Kafka and the registry, of a request that changes something": fmt.Sprintf("%.0f s", l.PublishTimeout.Seconds()),
		"customer id":        fmt.Sprintf("%d bytes", schemas.MaxIDBytes),
		"text to search for": fmt.Sprintf("%d bytes", maxText),
		"customers on one page of `/v1/customers`": fmt.Sprint(l.Page),
		"last position that can be listed":         fmt.Sprint(maxDepth),
		"lists kept for the next request":          fmt.Sprintf("%d, for %.0f s each", maxLists, listRefresh.Seconds()),
		"scores in a customer's history":           fmt.Sprint(historyLength),
		"event streams open at a time":             fmt.Sprint(l.Streams),
		"time to receive a notice":                 fmt.Sprintf("%.0f s", l.StreamWrite.Seconds()),
	} {
		if row := "| " + limit + " | " + value + " |"; !strings.Contains(string(document), row) {
			t.Errorf("docs/limits.md does not say %q", row)
		}
	}
}
