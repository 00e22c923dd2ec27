package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/producers/pace"
	"github.com/churnstream/churnstream/producers/replay"
	"github.com/churnstream/churnstream/producers/simulator"
	"github.com/churnstream/churnstream/schemas"
)

// sourceFlags are the flags of what publishes events.
type sourceFlags struct {
	Table        string        `help:"CSV file of labelled customers, with the attributes' names as its header; without it the shipped Telco table." type:"existingfile" placeholder:"FILE"`
	IDColumn     string        `help:"Column of --table that identifies the customer." placeholder:"NAME"`
	LabelColumn  string        `help:"Column of --table that says whether the customer left." placeholder:"NAME"`
	LabelValue   string        `help:"What stands in that column for a customer who left." placeholder:"TEXT"`
	Missing      []string      `help:"What marks a missing attribute in --table, besides an empty cell." default:"NA,N/A,#N/A,NaN,null" placeholder:"TEXT"`
	Rate         float64       `help:"Customer events per second; 0 means as many as can be." default:"200"`
	OutcomeDelay time.Duration `help:"How long after its event a customer's outcome follows." default:"2s"`
	DriftAfter   time.Duration `help:"After this long, what makes customers leave changes: other attributes tell it, and what told it tells the opposite; as many leave as before. 0 never." default:"0s"`
}

// examples reads the table.
func (f *sourceFlags) examples(set *schemas.Set) ([]schemas.ChurnOutcome, error) {
	if f.Table == "" {
		examples, err := replay.Load(set)
		if err != nil {
			return nil, fmt.Errorf("loading the shipped table: %w", err)
		}
		return examples, nil
	}
	if f.IDColumn == "" || f.LabelColumn == "" || f.LabelValue == "" {
		return nil, errors.New("--table needs --id-column, --label-column and --label-value to tell customers and labels apart")
	}
	file, err := os.Open(f.Table)
	if err != nil {
		return nil, fmt.Errorf("--table: %w", err)
	}
	defer file.Close()
	examples, err := replay.LoadCSV(set, file, replay.Columns{ID: f.IDColumn, Label: f.LabelColumn, Positive: f.LabelValue, Missing: f.Missing})
	if err != nil {
		return nil, fmt.Errorf("--table %s: %w", f.Table, err)
	}
	return examples, nil
}

// drift makes the change that --drift-after asks for.
func (f *sourceFlags) drift(set *schemas.Set, examples []schemas.ChurnOutcome) *pace.Drift {
	return pace.NewDrift(set.Spec(), examples, f.DriftAfter, 0)
}

type replayCommand struct {
	sourceFlags
	HistoryShare float64 `help:"Share of the customers published as labelled history." default:"0.6"`
	listener     `group:"http"`
	connection   `group:"connection"`
}

// Help is shown by churnstream replay --help.
func (replayCommand) Help() string {
	return `Publishes a part of a table of labelled customers as history, the rest as live events whose outcomes follow, and ends. It reads from the topics what it published before, so it can be stopped and started again.

Examples:
  churnstream replay --brokers kafka:9092 --registry http://registry:8081
  churnstream replay --schema customers.avsc --table customers.csv --id-column id --label-column left --label-value 1`
}

var errDone = errors.New("done")

// ending ends the process with errDone when what it runs has ended.
type ending struct{ role.Role }

func (e ending) Run(ctx context.Context) error {
	if err := e.Role.Run(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	return errDone
}

func (c *replayCommand) Run(ctx context.Context, out io.Writer, log *slog.Logger) error {
	p, err := c.process(&c.listener, log)
	if err != nil {
		return err
	}
	examples, err := c.examples(p.Codec.Set())
	if err != nil {
		return err
	}
	r, err := replay.New(replay.Config{
		Cluster: p.Cluster, Codec: p.Codec, Examples: examples, HistoryShare: c.HistoryShare,
		Rate: c.Rate, OutcomeDelay: c.OutcomeDelay, Drift: c.drift(p.Codec.Set(), examples),
		Logger: log, Registerer: p.Metrics,
	})
	if err != nil {
		return err
	}
	p.AddTask("replay", ending{r})
	err = c.run(ctx, p)
	if errors.Is(err, errDone) {
		s := r.Stats()
		fmt.Fprintf(out, "published %d labelled examples, %d events and %d outcomes\n", s.History, s.Events, s.Outcomes)
		return nil
	}
	return err
}

type simulateCommand struct {
	sourceFlags
	listener   `group:"http"`
	connection `group:"connection"`
}

// Help is shown by churnstream simulate --help.
func (simulateCommand) Help() string {
	return `Publishes events and outcomes of customers drawn from a table, until stopped.

Example:
  churnstream simulate --brokers kafka:9092 --registry http://registry:8081 --rate 1000`
}

func (c *simulateCommand) Run(ctx context.Context, log *slog.Logger) error {
	p, err := c.process(&c.listener, log)
	if err != nil {
		return err
	}
	examples, err := c.examples(p.Codec.Set())
	if err != nil {
		return err
	}
	s, err := simulator.New(simulator.Config{
		Cluster: p.Cluster, Codec: p.Codec, Population: examples,
		Rate: c.Rate, OutcomeDelay: c.OutcomeDelay, Drift: c.drift(p.Codec.Set(), examples),
		Logger: log, Registerer: p.Metrics,
	})
	if err != nil {
		return err
	}
	p.AddTask("simulate", s)
	return c.run(ctx, p)
}
