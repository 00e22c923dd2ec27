package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/churnstream/churnstream/consumers/labeler"
	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/topics"
	"github.com/churnstream/churnstream/schemas"
)

type topicsCommand struct {
	Check topicsCheckCommand `cmd:"" help:"Compare the topics' settings with what they should be."`
	Grow  topicsGrowCommand  `cmd:"" help:"Give the topics more partitions, and wait until customers have moved."`
}

type topicsGrowCommand struct {
	answering
	To   int           `arg:"" name:"partitions" help:"Partitions that the topics of events, scores, outcomes and dead letters shall have."`
	Wait time.Duration `help:"How long to wait until scorers have moved the customers. They go on moving afterwards." default:"10m"`
}

// Help is shown by churnstream topics grow --help.
func (topicsGrowCommand) Help() string {
	return `Scorers may go on, and have to be there: they move the state of every customer who has another partition from now on, and forward events that producers still write to the former one. A multiple of the present number moves customers to new partitions only, so that nobody waits but they. What an earlier call has begun is completed. Partitions cannot be taken away again.

Example:
  churnstream topics grow 12 --brokers kafka:9092 --registry http://registry:8081`
}

func (c *topicsGrowCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	codec, err := c.codec(log)
	if err != nil {
		return err
	}
	if codec.Keys != schemas.KeyPlain {
		return errors.New("customers cannot be moved with this --key-format: their partitions follow from upstream's keys, which scores do not have; create the topics anew")
	}
	cluster, err := c.open(ctx, schemas.TopicEvents, log)
	if err != nil {
		return err
	}
	defer cluster.Close()
	if err := scorer.MayGrow(ctx, cluster, codec, c.To); err != nil {
		return err
	}
	if err := topics.Grow(ctx, cluster, c.To, func(topic string, before int) {
		fmt.Fprintf(out, "%s: %d partitions, %d before\n", topic, c.To, before)
	}); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	var left []int
	err = scorer.AwaitGrowth(limited, cluster, codec, c.To, func(partitions []int) {
		left = partitions
		fmt.Fprintf(out, "waiting for the scorers of partitions %v\n", left)
	})
	if limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("partitions %v have not taken it into account after %v: /readyz of the scorers says why; call this again to go on waiting", left, c.Wait)
	}
	if err == nil {
		fmt.Fprintln(out, "every customer is at home")
	}
	return err
}

type topicsCheckCommand struct {
	answering
	Horizon       time.Duration `help:"--horizon of the labelers, from which follows for how long topics have to keep what they label." default:"720h"`
	LabelDelay    time.Duration `help:"--label-delay of the labelers." default:"336h"`
	ScoreInterval time.Duration `help:"--score-interval of the labelers." default:"24h"`
}

// Help is shown by churnstream topics check --help.
func (topicsCheckCommand) Help() string {
	return `Prints a table of how each setting that matters is and should be, and what happens otherwise, and how to create topics that do not exist. It fails when a setting would lose data; the roles refuse to start then.

Example:
  churnstream topics check --brokers kafka:9092
  churnstream topics check --brokers kafka:9092 --horizon 2160h --label-delay 720h`
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
	labelers, err := topics.Compare(ctx, cluster, labeler.Requirements(c.Horizon, c.LabelDelay, c.ScoreInterval)...)
	if err != nil {
		return err
	}
	for _, f := range labelers {
		if !slices.ContainsFunc(findings, func(g topics.Finding) bool {
			return g.Topic == f.Topic && g.Setting == f.Setting && g.Should == f.Should
		}) {
			findings = append(findings, f)
		}
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
	missing, err := topics.Missing(ctx, cluster, c.Partitions, c.Replication)
	if err != nil {
		return err
	}
	for i := range missing {
		fmt.Fprintf(out, "%s does not exist. Roles that need it create it unless --no-create-topics is given, and end without it; by hand:\n  %s\n",
			missing[i].Name, creation(&missing[i]))
	}
	if losses > 0 {
		return errors.New("data would be lost as the topics are set; see the lines marked WRONG")
	}
	return nil
}

// creation returns the command that creates a topic.
func creation(t *kafka.TopicConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kafka-topics --create --topic %s --partitions %d --replication-factor %d", t.Name, t.Partitions, t.Replication)
	for _, name := range slices.Sorted(maps.Keys(t.Configs)) {
		fmt.Fprintf(&b, " --config %s=%s", name, t.Configs[name])
	}
	return b.String()
}
