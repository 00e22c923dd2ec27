package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/demo"
)

type demoCommand struct {
	Duration     time.Duration `help:"End after this long, with a summary; 0 runs until Ctrl-C." default:"0s"`
	Rate         float64       `help:"Customer events per second; 0 means as many as can be." default:"200"`
	DataDir      string        `help:"Directory for everything the demo stores. A second start with the same directory carries on. Without it a temporary one is used and removed." placeholder:"DIR"`
	HTTP         string        `name:"http" help:"Address of the web application, REST and metrics. Without it 127.0.0.1:8080, or a free port if that is taken." placeholder:"HOST:PORT"`
	OutcomeDelay time.Duration `help:"How long after its event a customer's outcome arrives." default:"2s"`
	DriftAfter   time.Duration `help:"After this long, what makes customers leave changes: other attributes tell it, and what told it tells the opposite; as many leave as before. 0 never." default:"0s"`

	Scorer scorer.Config `embed:"" group:"score"`
}

// Help is shown by churnstream demo --help.
func (demoCommand) Help() string {
	return `Starts a Kafka broker, a schema registry, an SQLite store and every role in this process, on loopback ports and real protocols. 60 % of a table of 7,043 real customers is published as labelled history, the trainer fits the first model from it, the other 40 % arrives as live events whose outcomes follow. When the table ends, a simulator goes on with new customers drawn from it.

Examples:
  churnstream demo
  churnstream demo --duration 1m --rate 2000
  churnstream demo --data-dir ./churn-data --drift-after 30s`
}

func (c *demoCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	level := slog.LevelInfo
	if log.Enabled(ctx, slog.LevelDebug) {
		level = slog.LevelDebug
	}
	return demo.Run(ctx, demo.Config{
		Duration: c.Duration, Rate: c.Rate, DataDir: c.DataDir, HTTP: c.HTTP,
		OutcomeDelay: c.OutcomeDelay, DriftAfter: c.DriftAfter, Scorer: c.Scorer, Level: level, Out: out,
	})
}
