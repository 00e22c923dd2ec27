package main

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/churnstream/churnstream/consumers/labeler"
	"github.com/churnstream/churnstream/consumers/monitor"
	"github.com/churnstream/churnstream/consumers/scorer"
	"github.com/churnstream/churnstream/consumers/sink"
	"github.com/churnstream/churnstream/internal/role"
	"github.com/churnstream/churnstream/serving"
	"github.com/churnstream/churnstream/trainer"
)

// roles are the roles there are, in the order in which a process makes them:
// serving answers for the trainer.
var roles = []*role.Definition{scorer.Role, labeler.Role, trainer.Role, monitor.Role, sink.Role, serving.Role}

func roleNames() (all []string) {
	for _, d := range roles {
		all = append(all, d.Name)
	}
	return all
}

// named returns the roles of these names, in the order of roles.
func named(names []string) ([]*role.Definition, error) {
	var chosen []*role.Definition
	for _, d := range roles {
		if slices.Contains(names, d.Name) {
			chosen = append(chosen, d)
		}
	}
	known := roleNames()
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("--roles: there is no role %q; choose from %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// flagsOf returns a role's settings as a struct to embed in a command, whose
// flags are under the role's title.
func flagsOf(d *role.Definition, config any) any {
	flags := reflect.New(reflect.StructOf([]reflect.StructField{{
		Name: "Settings", Type: reflect.TypeFor[any](), Tag: reflect.StructTag(`embed:"" group:"` + d.Name + `"`),
	}}))
	flags.Elem().Field(0).Set(reflect.ValueOf(config))
	return flags.Interface()
}

// roleCommand runs one role.
type roleCommand struct {
	Flags      any `embed:""`
	listener   `group:"http"`
	connection `group:"connection"`

	role   *role.Definition
	config any
}

// roleCommands are the commands of the roles.
func roleCommands() (all []kong.Option) {
	for _, d := range roles {
		config := d.Config()
		all = append(all, kong.DynamicCommand(d.Name, d.Help, "roles",
			&roleCommand{Flags: flagsOf(d, config), role: d, config: config}, `set:"http=`+d.Address+`"`))
	}
	return all
}

// Help is shown by churnstream ROLE --help.
func (c *roleCommand) Help() string { return c.role.Detail }

func (c *roleCommand) Run(ctx context.Context, log *slog.Logger) error {
	p, err := c.process(&c.listener, log)
	if err != nil {
		return err
	}
	if _, err := p.Add(c.role, c.config); err != nil {
		return err
	}
	return c.run(ctx, p)
}

// runCommand runs several roles in one process.
type runCommand struct {
	Roles      []string     `name:"roles" help:"Roles to run: ${roles}." required:"" placeholder:"ROLE,…"`
	Settings   kong.Plugins `embed:""` // each that flagsOf returns
	listener   `group:"http"`
	connection `group:"connection"`

	configs map[*role.Definition]any
}

func newRunCommand() runCommand {
	c := runCommand{configs: map[*role.Definition]any{}}
	for _, d := range roles {
		c.configs[d] = d.Config()
		c.Settings = append(c.Settings, flagsOf(d, c.configs[d]))
	}
	return c
}

// Help is shown by churnstream run --help.
func (runCommand) Help() string {
	return `Example:
  churnstream run --roles score,sink --brokers kafka:9092 --registry http://registry:8081 --sqlite churn.db`
}

func (c *runCommand) Run(ctx context.Context, log *slog.Logger) error {
	chosen, err := named(c.Roles)
	if err != nil {
		return err
	}
	p, err := c.process(&c.listener, log)
	if err != nil {
		return err
	}
	for _, d := range chosen {
		if _, err := p.Add(d, c.configs[d]); err != nil {
			p.Close()
			return err
		}
	}
	return c.run(ctx, p)
}
