// Package role says what a role is: a part of the system that runs until it is
// stopped, alone in a process or together with others, and that meets the
// others in Kafka's topics only.
//
// A role is a package with a Config whose struct tags say what can be set
// (see package settings), a New that takes it, and a Definition. Adding one is
// that package and one line in the list of the command line.
package role

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/churnstream/churnstream/internal/kafka"
	"github.com/churnstream/churnstream/internal/models"
	"github.com/churnstream/churnstream/internal/ops"
	"github.com/churnstream/churnstream/internal/settings"
	"github.com/churnstream/churnstream/schemas"
)

// Role is a part of the system that can run.
type Role interface {
	// Run works until ctx ends, and returns nil then. It is called once, when
	// the topics exist and the schemas are registered.
	Run(ctx context.Context) error
}

// Models is what roles know of the model versions.
type Models interface {
	// Champion returns the version in use, nil while there is none.
	Champion() *models.Version
	// List returns all known versions, newest first.
	List() []*models.Version
	// Get returns one version, nil if it is not known.
	Get(version int64) *models.Version
	// Changed returns a channel that is closed at the next change.
	Changed() <-chan struct{}
	// CaughtUp is closed when the versions that there were at the start have
	// been read.
	CaughtUp() <-chan struct{}
	// Highest returns the highest version there is.
	Highest() int64
	// WaitFor waits until the record at offset of churn.models has been read.
	WaitFor(ctx context.Context, offset int64) error
}

var _ Models = (*models.Feed)(nil)

// Dependencies are what every role is given: what the roles of one process
// share. Configurations embed it.
type Dependencies struct {
	// Cluster and Codec are required.
	Cluster *kafka.Cluster
	Codec   *schemas.Codec
	// Models follows the model versions. Required; whoever made it runs it.
	Models Models
	// Ready, if set, takes reports of whether a role can work, and of why not.
	// A role reports in New, or when Run begins, and whenever that changes.
	Ready func(name string, ready bool, why string)
	// Logger receives what an operator should know, with the name of the role.
	// Default none.
	Logger *slog.Logger
	// Registerer receives the metrics. Default none.
	Registerer prometheus.Registerer
	// Guard decides who may ask for changes by HTTP. Default: one without a
	// token, which takes them from this machine only; see ops.Guard.
	Guard *ops.Guard
	// Handlers, if set, is where roles put what they answer by HTTP, by path,
	// unguarded. A role that has pages of its own, at "/", answers for those
	// made before it.
	Handlers map[string]http.Handler
}

// RetrainPath is where a process with a trainer takes requests for a training.
const RetrainPath = "/v1/retrain"

// Complete sets the dependencies that are optional to their defaults, and fails
// if a required one is missing.
func (d *Dependencies) Complete() error {
	switch {
	case d.Cluster == nil:
		return errors.New("no cluster")
	case d.Codec == nil:
		return errors.New("no codec")
	case d.Models == nil:
		return errors.New("no models")
	}
	if d.Ready == nil {
		d.Ready = func(string, bool, string) {}
	}
	if d.Logger == nil {
		d.Logger = slog.New(slog.DiscardHandler)
	}
	if d.Guard == nil {
		d.Guard = ops.NewGuard("")
	}
	return nil
}

// About describes a role to people.
type About struct {
	// Name is the role's name on the command line.
	Name string
	// Title heads the flags of the role.
	Title string
	// Help says in a sentence what it does, Detail the rest, with examples.
	Help, Detail string
	// Address is where a process with this role alone listens by default.
	// Default "127.0.0.1:0": on a free port of this machine.
	Address string
}

// Definition is one of the roles there are.
type Definition struct {
	About
	config func() any
	start  func(Dependencies, any) (Role, error)
}

// Define defines a role whose settings are a C. start makes one; it does no
// I/O but opening files. Its settings are as they were given, or their
// defaults: a zero is a zero that was asked for.
func Define[C any](about About, start func(Dependencies, C) (Role, error)) *Definition {
	if about.Address == "" {
		about.Address = "127.0.0.1:0"
	}
	return &Definition{
		About: about,
		config: func() any {
			c := new(C)
			if err := settings.Complete(c); err != nil {
				panic(err) // a default out of its own range
			}
			return c
		},
		start: func(on Dependencies, config any) (Role, error) { return start(on, *config.(*C)) },
	}
}

// Config returns settings to be filled in, a pointer to a struct with the
// defaults in it.
func (d *Definition) Config() any { return d.config() }

// New makes a role of settings that Config returned.
func (d *Definition) New(on Dependencies, config any) (Role, error) {
	return d.start(on, config)
}
