// Command churnstream scores customer events for churn, explains every score
// exactly, trains and watches the models: one binary, one subcommand a role.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

// version is set by the linker for releases.
var version = "development"

type cli struct {
	LogLevel  string           `help:"Least severe log lines to write: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string           `help:"Log lines as text or json." enum:"text,json" default:"text"`
	Version   kong.VersionFlag `help:"Print the version and exit."`

	Demo     demoCommand     `cmd:"" group:"start" help:"Run everything in this process on real customers: the place to start."`
	Broker   brokerCommand   `cmd:"" group:"start" help:"Run an embedded Kafka broker and schema registry, for development."`
	Score    scoreCommand    `cmd:"" group:"roles" help:"Score customer events."`
	Train    trainCommand    `cmd:"" group:"roles" help:"Train models from outcomes and publish those that are good enough."`
	Monitor  monitorCommand  `cmd:"" group:"roles" help:"Compare scores with outcomes and export the models' quality."`
	Sink     sinkCommand     `cmd:"" group:"roles" help:"Write scores, outcomes and models to ClickHouse or SQLite."`
	Serve    serveCommand    `cmd:"" group:"roles" help:"Serve the REST endpoint and the web application."`
	Run      runCommand      `cmd:"" group:"roles" help:"Run several roles in one process."`
	Explain  explainCommand  `cmd:"" group:"tools" help:"Explain one customer's probability by a model in a file."`
	Models   modelsCommand   `cmd:"" group:"tools" help:"List, show and activate model versions."`
	Letters  lettersCommand  `cmd:"" group:"tools" name:"dead-letters" help:"List, show and redrive records that could not be processed."`
	Topics   topicsCommand   `cmd:"" group:"tools" help:"Check the settings of the topics."`
	Tail     tailCommand     `cmd:"" group:"tools" help:"Print the records of a topic as JSON."`
	Replay   replayCommand   `cmd:"" group:"sources" help:"Publish a table of labelled customers as history and live events."`
	Simulate simulateCommand `cmd:"" group:"sources" help:"Publish events and outcomes of invented customers, without end."`
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	var c cli
	exit := -1
	parser, err := kong.New(&c,
		kong.Name("churnstream"),
		kong.Description("Which customers are about to leave, and why: scored and explained event by event.\n\nEvery flag can be given as an environment variable: --data-dir as CHURN_DATA_DIR. Passwords and tokens are taken from the environment or from files only."),
		kong.DefaultEnvars("CHURN"),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "start", Title: "To start with:"},
			{Key: "roles", Title: "Roles, each a process of its own in production:"},
			{Key: "tools", Title: "Tools:"},
			{Key: "sources", Title: "Sources of events:"},
			{Key: "connection", Title: "Connection:"},
			{Key: "score", Title: "Scoring:"},
			{Key: "train", Title: "Training:"},
			{Key: "monitor", Title: "Monitoring:"},
			{Key: "sink", Title: "Stores:"},
			{Key: "serve", Title: "Serving:"},
			{Key: "http", Title: "HTTP:"},
		}),
		kong.Vars{"version": version},
		kong.NamedMapper("bytes", kong.MapperFunc(decodeBytes)),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) {
			if exit < 0 {
				exit = code
			}
		}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "churnstream:", err)
		return 2
	}
	k, err := parser.Parse(args)
	if exit >= 0 { // --help or --version has answered
		return exit
	}
	if err != nil {
		fmt.Fprintln(stderr, "churnstream:", err)
		fmt.Fprintln(stderr, "Run churnstream --help, or churnstream COMMAND --help, for what can be given.")
		return 2
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)

	k.BindTo(ctx, (*context.Context)(nil))
	k.Bind(c.logger(stderr))
	k.BindTo(stdout, (*io.Writer)(nil))
	if err := k.Run(); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(stderr, "churnstream:", err)
		return 1
	}
	return 0
}

func (c *cli) logger(w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
