package main

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"

	"github.com/churnstream/churnstream/internal/settings"
)

// docs/limits.md says of every flag it names what the flag does by default, and
// names every flag that bounds something.
func TestLimitsAreDocumented(t *testing.T) {
	document, err := os.ReadFile("../../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := allFlags(t)
	documented := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| ([^|]+) \\| ([^|]+) \\| `--([a-z-]+)` \\|").FindAllStringSubmatch(string(document), -1) {
		what, value, name := row[1], row[2], row[3]
		documented[name] = true
		f := flags[name]
		if f == nil {
			t.Errorf("%s: there is no flag --%s", what, name)
			continue
		}
		if !sameLimit(f.Default, value) {
			t.Errorf("%s: %s, but the default of --%s is %s", what, value, name, f.Default)
		}
	}
	bounds := regexp.MustCompile(`-(timeout|bytes|wait|streams|bodies|scrapes|connections|size|batch|grace|patience)$|^patience$|^max-|-max-`)
	for name, f := range flags {
		if f.Group != nil && f.Group.Key == "thresholds" {
			continue // what is wanted of a model bounds nothing
		}
		if bounds.MatchString(name) && !documented[name] {
			t.Errorf("docs/limits.md does not name --%s", name)
		}
	}
}

// allFlags returns the flags of all commands, by name.
func allFlags(t *testing.T) map[string]*kong.Flag {
	t.Helper()
	parser, err := newParser(&cli{Run: newRunCommand()})
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]*kong.Flag{}
	var walk func(*kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			flags[f.Name] = f
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(parser.Model.Node)
	return flags
}

// Who is told by a runbook to set a flag or to run a command finds it.
func TestRunbooksNameWhatExists(t *testing.T) {
	text, err := os.ReadFile("../../docs/runbooks.md")
	if err != nil {
		t.Fatal(err)
	}
	flags := allFlags(t)
	for _, code := range regexp.MustCompile("`(?:churnstream [a-z -]*)?--([a-z-]+)").FindAllStringSubmatch(string(text), -1) {
		if flags[strings.TrimPrefix(code[1], "no-")] == nil {
			t.Errorf("docs/runbooks.md names --%s, which there is not", code[1])
		}
	}
	parser, err := newParser(&cli{Run: newRunCommand()})
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range regexp.MustCompile("`churnstream\\s+([a-z-]+(?:\\s+[a-z]+)?)").FindAllStringSubmatch(string(text), -1) {
		words := strings.Fields(code[1])
		command := subcommand(parser.Model.Node, words[0])
		if command != nil && len(command.Children) > 0 && len(words) > 1 {
			command = subcommand(command, words[1])
		}
		if command == nil {
			t.Errorf("docs/runbooks.md names churnstream %s, which there is not", code[1])
		}
	}
}

// subcommand returns a command's subcommand, nil if there is none of that name.
func subcommand(n *kong.Node, name string) *kong.Node {
	for _, c := range n.Children {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// The reference in docs/limits.md is made of the settings; -update makes it
// anew.
func TestReferenceIsCurrent(t *testing.T) {
	const path, begin, end = "../../docs/limits.md", "<!-- The tables below are made by go test ./cmd/churnstream -run Reference -update -->\n", "<!-- end -->\n"
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(document), begin)
	current, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the reference", path)
	}
	var b strings.Builder
	section := func(title string, config any) {
		table := settings.Reference(settings.Of(config))
		table = strings.ReplaceAll(table, "${http}", "127.0.0.1:0; with serve and run 127.0.0.1:8080")
		fmt.Fprintf(&b, "\n### %s\n\n%s", title, table)
	}
	for _, d := range roles {
		section("`churnstream "+d.Name+"`", d.Config())
	}
	section("Connection, of every command that needs Kafka", connection{})
	section("HTTP, of every process", listener{})
	b.WriteString("\n")
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+b.String()+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if current != b.String() {
		t.Errorf("the reference in %s is not what the settings say; go test ./cmd/churnstream -run Reference -update makes it anew", path)
	}
}

// sameLimit compares a flag's default with how people write it: 1m with 1 min,
// 64KiB with 64 KiB, 12h with 12 h.
func sameLimit(flag, written string) bool {
	written = strings.TrimPrefix(strings.TrimSuffix(strings.TrimSpace(written), " bytes"), "none: ")
	if flag == written {
		return true
	}
	plain := strings.ReplaceAll(strings.ReplaceAll(written, " min", "m"), " ", "")
	if a, err := time.ParseDuration(flag); err == nil {
		b, err := time.ParseDuration(plain)
		return err == nil && a == b
	}
	a, err := humanize.ParseBytes(flag)
	if err != nil {
		return false
	}
	b, err := humanize.ParseBytes(plain)
	return err == nil && a == b
}
