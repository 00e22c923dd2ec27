package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"

	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/schemas"
)

type progressCommand struct {
	Show   progressShowCommand   `cmd:"" help:"Show how far events are scored, and what became of them."`
	Accept progressAcceptCommand `cmd:"" help:"Say where scorers go on in a partition that they refuse."`
}

type progressShowCommand struct {
	answering
}

// Help is shown by churnstream progress show --help.
func (progressShowCommand) Help() string {
	return `Prints, for every partition, what the last marker in churn.scores says. It is up to a minute old while events come. Offsets before NEXT are done with: those from SINCE on were scored, were duplicates, dead letters or erasures, held no record or were forwarded to the new partition of their customer; UNACCOUNTED are the rest, of which there must be none.`
}

func (c *progressShowCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	cluster, codec, err := c.openWithCodec(ctx, schemas.TopicScores, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	partitions, err := scorer.ReadProgress(ctx, cluster, codec)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PARTITION\tGROUP\tSINCE\tNEXT\tEND\tSCORED\tDUPLICATES\tDEAD LETTERS\tERASURES\tNO RECORD\tFORWARDED\tUNACCOUNTED\t")
	for i := range partitions {
		p := &partitions[i]
		if p.Marker == nil {
			fmt.Fprintf(w, "%d\t-\t-\t-\t%d\t-\t-\t-\t-\t-\t-\t-\tno marker yet\n", p.Partition, p.EventsEnd)
			continue
		}
		m := p.Marker
		fmt.Fprintf(w, "%d\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\n", p.Partition, m.Group, m.Since, m.Next, p.EventsEnd,
			m.Scored, m.Duplicates, m.DeadLetters, m.Erasures, m.NoRecord, m.Forwarded, m.Unaccounted(), p.Problem)
	}
	return w.Flush()
}

type progressAcceptCommand struct {
	answering
	Partition int    `required:"" help:"Partition to go on with."`
	From      string `required:"" help:"Where to go on in churn.customer-events: next (where the last marker in churn.scores says), first, end or an offset." placeholder:"next|first|end|OFFSET"`
	Erase     bool   `name:"erase-unreadable" help:"Erase the customers of whom churn.scores holds what a scorer has written and nobody can read. So do the stores."`
	Group     string `name:"score-group" help:"Consumer group of the scorers." default:"churn-scorer"`
}

// Help is shown by churnstream progress accept --help.
func (progressAcceptCommand) Help() string {
	return `A scorer refuses a partition, and says why in /readyz, when churn.scores or churn.customer-events is not the topic it was, has lost records, or is scored by another group. This declares the topics as they are to be the right ones, by a marker in churn.scores. Scorers that wait go on by themselves.

From first, end or an offset, scores of events from there on that are in churn.scores already are not believed any more. From next they are. docs/runbooks.md says what to choose.

Examples:
  churnstream progress accept --partition 3 --from first
  churnstream progress accept --partition 3 --from next --score-group churn-scorer-b`
}

func (c *progressAcceptCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	cluster, codec, err := c.openWithCodec(ctx, schemas.TopicScores, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	if err := codec.Register(ctx); err != nil {
		return fmt.Errorf("registering the schemas: %w", err)
	}
	p, erased, err := scorer.Accept(ctx, scorer.AcceptConfig{
		Cluster: cluster, Codec: codec, Partition: c.Partition, Group: c.Group, From: scorer.From(c.From),
		EraseUnreadable: c.Erase,
	})
	if err != nil {
		return fmt.Errorf("partition %d: %w", c.Partition, err)
	}
	for _, id := range erased {
		fmt.Fprintf(out, "partition %d: customer %q is erased\n", c.Partition, id)
	}
	_, err = fmt.Fprintf(out, "partition %d: scorers of the group %s go on at offset %d of %s\n", c.Partition, p.Group, p.Next, schemas.TopicEvents)
	return err
}
