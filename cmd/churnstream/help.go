package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/churnstream/churnstream/internal/settings"
)

// newParser returns the parser of the command line.
func newParser(c *cli, options ...kong.Option) (*kong.Kong, error) {
	groups := []kong.Group{
		{Key: "start", Title: "To start with:"},
		{Key: "roles", Title: "Roles, each a process of its own in production:"},
		{Key: "tools", Title: "Tools:"},
		{Key: "sources", Title: "Sources of events:"},
		{Key: "thresholds", Title: "Thresholds:"},
		{Key: "connection", Title: "Connection:"},
		{Key: "http", Title: "HTTP:"},
	}
	order := map[string]int{}
	for i, g := range groups {
		order[g.Key] = i
	}
	for _, d := range roles {
		groups = append(groups, kong.Group{Key: d.Name, Title: d.Title})
	}
	options = append(options,
		kong.Name("churnstream"),
		kong.Description("Which customers are about to leave, and why: scored and explained event by event.\n\nEvery flag can be given as an environment variable: --data-dir as CHURN_DATA_DIR. Passwords and tokens are taken from the environment or from files only."),
		kong.DefaultEnvars("CHURN"),
		kong.UsageOnError(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true}),
		kong.Help(printHelp),
		kong.ValueFormatter(formatHelp),
		kong.ExplicitGroups(groups),
		kong.Vars{"version": version, "roles": strings.Join(roleNames(), ", ")},
		kong.NamedMapper("bytes", kong.MapperFunc(decodeBytes)),
		kong.PostBuild(func(k *kong.Kong) error {
			// Commands in the order of their groups: kong puts the roles' last.
			slices.SortStableFunc(k.Model.Children, func(a, b *kong.Node) int { return order[a.Group.Key] - order[b.Group.Key] })
			showAdvanced(k.Model.Node, false)
			return nil
		}),
	)
	return kong.New(c, append(options, roleCommands()...)...)
}

// showAdvanced has help show the flags that are rarely needed, or not.
func showAdvanced(n *kong.Node, show bool) {
	for _, f := range n.Flags {
		if f.Tag.Has("advanced") {
			f.Hidden = !show
		}
	}
	for _, child := range n.Children {
		showAdvanced(child, show)
	}
}

// helpAll is --help with the flags that are rarely needed.
type helpAll bool

// BeforeReset prints the help before anything else is looked at, as that of
// --help does.
func (helpAll) BeforeReset(ctx *kong.Context) error {
	showAdvanced(ctx.Model.Node, true)
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	ctx.Exit(0)
	return nil
}

// printHelp says below the flags that there are more.
func printHelp(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil || options.Summary {
		return err
	}
	hidden := 0
	for n := ctx.Selected(); n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if f.Tag.Has("advanced") && f.Hidden {
				hidden++
			}
		}
	}
	if hidden > 0 {
		fmt.Fprintf(ctx.Stdout, "\n%d more flags, for TLS and login, HTTP, tuning and logging: %s --help-all\n", hidden, ctx.Selected().FullPath())
	}
	return nil
}

// formatHelp adds to a flag's help the default where the placeholder hides it.
func formatHelp(v *kong.Value) string {
	text := kong.DefaultHelpValueFormatter(v)
	if v.Flag != nil && v.Flag.PlaceHolder != "" && v.HasDefault && v.Default != "" {
		text = strings.TrimSuffix(text, ".") + ", default " + v.Default + "."
	}
	return text
}

// decodeBytes reads a setting that is a number of bytes.
func decodeBytes(ctx *kong.DecodeContext, target reflect.Value) error {
	var text string
	if err := ctx.Scan.PopValueInto("bytes", &text); err != nil {
		return err
	}
	n, err := settings.ParseBytes(text)
	if err != nil {
		return err
	}
	target.SetInt(n)
	return nil
}
