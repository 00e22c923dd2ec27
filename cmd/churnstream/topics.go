package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"

	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

type topicsCommand struct {
	Check topicsCheckCommand `cmd:"" help:"Compare the topics' settings with what they should be."`
}

type topicsCheckCommand struct {
	answering
}

// Help is shown by churnstream topics check --help.
func (topicsCheckCommand) Help() string {
	return `Prints a table of how each setting that matters is and should be, and what happens otherwise. It fails when one of them would lose data; the roles refuse to start then.

Example:
  churnstream topics check --brokers kafka:9092`
}

func (c *topicsCheckCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	cluster, err := c.open(ctx, schemas.TopicEvents, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	findings, err := topics.Check(ctx, cluster)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOPIC\tSETTING\tIS\tSHOULD BE\t")
	losses := 0
	for _, f := range findings {
		remark := "ok"
		switch {
		case f.OK && f.Is == "":
			remark = "not said by this broker"
		case f.OK:
		case f.Severity == topics.Loss:
			losses++
			remark = "WRONG: " + f.Why
		default:
			remark = "advice: " + f.Why
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", f.Topic, f.Setting, f.Is, f.Should, remark)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if losses > 0 {
		return errors.New("data would be lost as the topics are set; see the lines marked WRONG")
	}
	return nil
}
