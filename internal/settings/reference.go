package settings

import (
	"fmt"
	"strings"
	"time"
)

// Reference returns the settings that have flags as rows of a Markdown table:
// flag, default, meaning.
func Reference(all []Setting) string {
	var b strings.Builder
	b.WriteString("| flag | default | what it does |\n|---|---|---|\n")
	cell := strings.NewReplacer("|", "\\|", "\n", " ")
	for _, s := range all {
		if s.Name != "" {
			fmt.Fprintf(&b, "| `--%s` | %s | %s |\n", s.Name, s.Written(), cell.Replace(s.Help))
		}
	}
	return b.String()
}

// Written returns the default as people write it: 1 min, 64 KiB, 5000
// customers; "" if there is none.
func (s Setting) Written() string {
	switch s.Type {
	case "duration":
		if d, err := time.ParseDuration(s.Default); err == nil {
			return writtenDuration(d)
		}
	case "bytes":
		if n, err := ParseBytes(s.Default); err == nil {
			return writtenBytes(n)
		}
	}
	if s.Unit != "" && s.Default != "" {
		return s.Default + " " + s.Unit
	}
	return s.Default
}

func writtenDuration(d time.Duration) string {
	for _, u := range []struct {
		size time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if d >= u.size && d%u.size == 0 {
			return fmt.Sprintf("%d %s", d/u.size, u.name)
		}
	}
	if d == 0 {
		return "0 s"
	}
	return d.String()
}

func writtenBytes(n int64) string {
	for i, unit := range []string{"GiB", "MiB", "KiB"} {
		if size := int64(1) << (30 - 10*i); n%size == 0 {
			return fmt.Sprintf("%d %s", n/size, unit)
		}
	}
	return fmt.Sprintf("%d bytes", n)
}
