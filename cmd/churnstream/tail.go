package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/churnstream/churnstream/internal/avrojson"
	"github.com/churnstream/churnstream/internal/tail"
	"github.com/churnstream/churnstream/internal/terminal"
)

type tailCommand struct {
	Topic     string  `arg:"" help:"Topic to read, such as churn.scores."`
	FromStart bool    `help:"Print from the first record on, not only the last ones."`
	Records   *int    `name:"records" short:"n" help:"Records to print: the last ones, or with --from-start the first. Default: the last 10, with --from-start all." placeholder:"N"`
	Key       *string `help:"Print only records with this key." placeholder:"KEY"`
	Follow    bool    `short:"f" help:"Go on with the records that are written from now on, until stopped."`
	answering
}

// Help is shown by churnstream tail --help.
func (tailCommand) Help() string {
	return `Prints records of a topic as JSON, one per line, oldest first: partition, offset, timestamp, key, headers, and the value, decoded by the schema that it was written with, whatever its subject. A tombstone's value is null; a value that cannot be decoded is printed in base64, with the error. Aborted transactions are left out. Needs no consumer group and commits nothing.

Examples:
  churnstream tail churn.scores
  churnstream tail churn.customer-events --follow --key customer-17
  churnstream tail churn.outcomes --from-start | jq -c 'select(.value.churned) | .key'`
}

func (c *tailCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	cfg := tail.Config{Topic: c.Topic, Out: out, Limit: 10, FromStart: c.FromStart, Follow: c.Follow}
	if c.FromStart {
		cfg.Limit = -1
	}
	if c.Records != nil {
		if cfg.Limit = *c.Records; cfg.Limit < 0 {
			return fmt.Errorf("--records %d: it cannot be negative", cfg.Limit)
		}
	}
	if c.Key != nil {
		cfg.Key = []byte(*c.Key)
	}
	registry, err := c.registry(log)
	if err != nil {
		return err
	}
	defer registry.Close()
	cfg.Decoder = avrojson.NewDecoder(registry, log)
	if cfg.Cluster, err = c.open(ctx, c.Topic, log); err != nil {
		return err
	}
	defer cfg.Cluster.Close()
	bar := &terminal.Bar{}
	defer bar.Finish()
	cfg.Progress = bar.Progress
	return tail.Print(ctx, cfg)
}
