// Command churnstream scores customer events for churn, explains every score
// exactly, trains and watches the models: one binary, one subcommand per role.
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
	LogLevel  string           `help:"Least severe log lines to write: debug, info, warn or error." enum:"debug,info,warn,error" default:"info" advanced:""`
	LogFormat string           `help:"Log lines as text or json." enum:"text,json" default:"text" advanced:""`
	Version   kong.VersionFlag `help:"Print the version and exit." advanced:""`
	HelpAll   helpAll          `help:"Show all flags: connections with TLS and login, HTTP, tuning and logging, too." env:"-"`

	Demo     demoCommand     `cmd:"" group:"start" help:"Run everything in this process on real customers: the place to start."`
	Broker   brokerCommand   `cmd:"" group:"start" help:"Run an embedded Kafka broker and schema registry, for development."`
	Run      runCommand      `cmd:"" group:"roles" help:"Run several roles in one process." set:"http=127.0.0.1:8080"`
	Explain  explainCommand  `cmd:"" group:"tools" help:"Explain one customer's probability by a model in a file."`
	Check    checkCommand    `cmd:"" group:"tools" help:"Report how good the models were, and fail below thresholds."`
	Models   modelsCommand   `cmd:"" group:"tools" help:"List, show and activate model versions."`
	Letters  lettersCommand  `cmd:"" group:"tools" name:"dead-letters" help:"List, show and redrive records that could not be processed."`
	Audit    auditCommand    `cmd:"" group:"tools" help:"Prove what became of every event, by what the topics hold."`
	Progress progressCommand `cmd:"" group:"tools" help:"Show how far events are scored, and say where to go on."`
	Topics   topicsCommand   `cmd:"" group:"tools" help:"Check the topics' settings, and give them more partitions."`
	Tail     tailCommand     `cmd:"" group:"tools" help:"Print the records of a topic as JSON."`
	Replay   replayCommand   `cmd:"" group:"sources" help:"Publish a table of labelled customers as history and live events." set:"http=127.0.0.1:0"`
	Simulate simulateCommand `cmd:"" group:"sources" help:"Publish events and outcomes of invented customers, without end." set:"http=127.0.0.1:0"`
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	return runContext(ctx, args, stdout, stderr)
}

// runContext is run, until ctx ends.
func runContext(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c := cli{Run: newRunCommand()}
	exit := -1
	parser, err := newParser(&c,
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
	k.BindTo(ctx, (*context.Context)(nil))
	k.Bind(c.logger(stderr))
	k.BindTo(stdout, (*io.Writer)(nil))
	err = k.Run()
	if errors.Is(err, context.Canceled) {
		if err = nil; answers(k) {
			err = errors.New("interrupted before it was done")
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "churnstream:", err)
		if with := exitCoder(nil); errors.As(err, &with) {
			return with.ExitCode()
		}
		return 1
	}
	return 0
}

// answers reports whether a command answers a question or does a piece of work. One
// that is interrupted must not end as if all were well; the others run until they are
// stopped.
func answers(k *kong.Context) bool {
	for n := k.Selected(); n != nil; n = n.Parent {
		if n.Group != nil {
			return n.Group.Key == "tools" && n.Name != "tail"
		}
	}
	return false
}

// exitCoder is an error with an exit code of its own.
type exitCoder interface {
	error
	ExitCode() int
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
