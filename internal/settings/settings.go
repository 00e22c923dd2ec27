// Package settings reads from struct tags what can be set of a component: each
// setting's name, default, range and meaning stand once, beside the field that
// holds it. The command line, the components' own defaults and the reference in
// docs/limits.md are made of the same tags.
//
// A setting is a field with a default or a help tag:
//
//	type Config struct {
//		// Interval is the time between two snapshots.
//		Interval time.Duration `name:"snapshot-interval" help:"Time between two snapshots." default:"1m" advanced:""`
//	}
//
// The tags are those that github.com/alecthomas/kong reads, and four more:
//
//	name         the flag's name, without dashes
//	help         what it does, a sentence
//	default      what the zero value stands for
//	enum         the values there are, separated by commas
//	type:"bytes" an integer that is given like 64KiB
//	unit         what a number counts, for the reference: customers, days
//	min, max     the range of a number or duration; min is 0 without the tag
//	advanced     shown by --help-all only
//	kong:"-"     no flag: a setting for programs only, or none at all
//
// Fields of embedded structs count as the struct's own, unless they are tagged
// kong:"-".
package settings

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Setting is one thing that can be set of a component.
type Setting struct {
	// Name is the flag's name, without dashes; "" if it has none.
	Name string
	// Help says what it does.
	Help string
	// Default is its default as it is written on a command line.
	Default string
	// Unit is what a number counts.
	Unit string
	// Type is "duration", "bytes", "number", "bool" or "text".
	Type string
	// Advanced settings are rarely needed.
	Advanced bool
}

// Of returns the settings of a configuration, which is a struct or a pointer
// to one, in the order of its fields.
func Of(config any) []Setting {
	var all []Setting
	visit(reflect.Indirect(reflect.ValueOf(config)), func(f reflect.StructField, _ reflect.Value) error {
		if f.Tag.Get("kong") != "-" {
			_, advanced := f.Tag.Lookup("advanced")
			all = append(all, Setting{
				Name: f.Tag.Get("name"), Help: f.Tag.Get("help"), Default: f.Tag.Get("default"),
				Unit: f.Tag.Get("unit"), Type: kind(f), Advanced: advanced,
			})
		}
		return nil
	})
	return all
}

// Complete sets the settings that are zero to their defaults, and fails when
// one is out of range. config is a pointer to a struct. It panics when the tags
// are wrong.
func Complete(config any) error {
	return visit(reflect.ValueOf(config).Elem(), func(f reflect.StructField, v reflect.Value) error {
		if text := f.Tag.Get("default"); text != "" && v.IsZero() {
			set(f, v, text)
		}
		return check(f, v)
	})
}

// visit calls fn for each setting.
func visit(v reflect.Value, fn func(reflect.StructField, reflect.Value) error) error {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		_, embed := f.Tag.Lookup("embed")
		if (f.Anonymous || embed) && f.Type.Kind() == reflect.Struct {
			if f.Tag.Get("kong") == "-" {
				continue
			}
			if err := visit(v.Field(i), fn); err != nil {
				return err
			}
			continue
		}
		_, hasDefault := f.Tag.Lookup("default")
		_, hasHelp := f.Tag.Lookup("help")
		if hasDefault || hasHelp {
			if err := fn(f, v.Field(i)); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	duration        = reflect.TypeFor[time.Duration]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

func kind(f reflect.StructField) string {
	switch {
	case f.Tag.Get("type") == "bytes":
		return "bytes"
	case f.Type == duration:
		return "duration"
	case reflect.PointerTo(f.Type).Implements(textUnmarshaler):
		return "text"
	case f.Type.Kind() == reflect.Bool:
		return "bool"
	case number(f.Type.Kind()):
		return "number"
	}
	return "text"
}

func number(k reflect.Kind) bool { return k >= reflect.Int && k <= reflect.Float64 }

// set sets v to what text stands for.
func set(f reflect.StructField, v reflect.Value, text string) {
	if err := parse(f, v, text); err != nil {
		panic(fmt.Sprintf("settings: %s: %q: %v", f.Name, text, err))
	}
}

func parse(f reflect.StructField, v reflect.Value, text string) (err error) {
	switch kind(f) {
	case "bytes":
		n, err := ParseBytes(text)
		v.SetInt(n)
		return err
	case "duration":
		d, err := time.ParseDuration(text)
		v.SetInt(int64(d))
		return err
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch k := v.Kind(); {
	case k == reflect.String:
		v.SetString(text)
	case k == reflect.Bool:
		var b bool
		b, err = strconv.ParseBool(text)
		v.SetBool(b)
	case v.CanInt():
		var n int64
		n, err = strconv.ParseInt(text, 10, v.Type().Bits())
		v.SetInt(n)
	case v.CanFloat():
		var x float64
		x, err = strconv.ParseFloat(text, 64)
		v.SetFloat(x)
	case v.Type() == reflect.TypeFor[[]string]():
		v.Set(reflect.ValueOf(strings.Split(text, ",")))
	default:
		err = fmt.Errorf("a %s cannot have a default", v.Type())
	}
	return err
}

// check fails when v is out of the setting's range.
func check(f reflect.StructField, v reflect.Value) error {
	if values := f.Tag.Get("enum"); values != "" && v.Kind() == reflect.String {
		if !slices.Contains(strings.Split(values, ","), v.String()) {
			return fmt.Errorf("%s %q: choose one of %s", called(f), v, strings.ReplaceAll(values, ",", ", "))
		}
	}
	if k := kind(f); k != "number" && k != "bytes" && k != "duration" {
		return nil
	}
	bound := func(tag, without string) (reflect.Value, bool) {
		text := cmp.Or(f.Tag.Get(tag), without)
		limit := reflect.New(f.Type).Elem()
		if text == "" {
			return limit, false
		}
		if text != "0" {
			set(f, limit, text)
		}
		return limit, true
	}
	if limit, ok := bound("min", "0"); ok && less(v, limit) {
		return fmt.Errorf("%s %v: it cannot be below %v", called(f), v, limit)
	}
	if limit, ok := bound("max", ""); ok && less(limit, v) {
		return fmt.Errorf("%s %v: it cannot be above %v", called(f), v, limit)
	}
	return nil
}

// less also holds if a is not a number.
func less(a, b reflect.Value) bool {
	if a.CanFloat() {
		return !(a.Float() >= b.Float())
	}
	return a.Int() < b.Int()
}

// called is how errors name a setting: as it was given.
func called(f reflect.StructField) string {
	if name := f.Tag.Get("name"); name != "" {
		return "--" + name
	}
	return f.Name
}

// ParseBytes reads a number of bytes such as 1000000, 64KiB or 1MB. It is
// above 0 and at most 1 TiB.
func ParseBytes(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n == 0 || n > 1<<40 {
		return 0, fmt.Errorf("%q is not a number of bytes, like 1000000 or 64KiB", text)
	}
	return int64(n), nil
}
