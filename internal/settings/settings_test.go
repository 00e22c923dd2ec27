package settings

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// level is a setting with a text form of its own.
type level int

func (l *level) UnmarshalText(text []byte) error {
	switch string(text) {
	case "low":
		*l = 1
	case "high":
		*l = 2
	default:
		return errors.New("neither low nor high")
	}
	return nil
}

type shared struct {
	Timeout time.Duration `name:"timeout" help:"How long." default:"10s" advanced:""`
}

type dependencies struct {
	Hidden int `default:"7"`
}

type config struct {
	dependencies `kong:"-"`
	shared
	Group    string        `name:"group" help:"Group | of consumers." default:"churn"`
	Protocol string        `name:"protocol" help:"Protocol." enum:"native,http" default:"native"`
	Keep     int           `name:"keep" help:"Customers to keep; -1 for none." default:"5000" unit:"customers" min:"-1" max:"100000"`
	Body     int64         `name:"body" help:"Largest body." default:"64KiB" type:"bytes"`
	Share    float64       `name:"share" help:"Share." default:"0.6" max:"1"`
	Brokers  []string      `name:"brokers" help:"Brokers." default:"a:1,b:2"`
	Level    level         `name:"level" help:"Level." default:"high"`
	Create   bool          `name:"create" help:"Create." default:"true"`
	Age      time.Duration `name:"age" help:"0 is none." default:"0s"`
	Settle   time.Duration `kong:"-" default:"1s"`
	NoTag    int
	File     string `name:"file" help:"File."`
}

func TestComplete(t *testing.T) {
	got := config{Group: "mine", Keep: -1}
	if err := Complete(&got); err != nil {
		t.Fatal(err)
	}
	want := config{
		shared: shared{10 * time.Second}, Group: "mine", Protocol: "native", Keep: -1, Body: 64 << 10, Share: .6,
		Brokers: []string{"a:1", "b:2"}, Level: 2, Create: true, Settle: time.Second,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestCompleteRefuses(t *testing.T) {
	for _, c := range []struct {
		cfg  config
		want string
	}{
		{config{Keep: -2}, "--keep -2: it cannot be below -1"},
		{config{Keep: 100_001}, "--keep 100001: it cannot be above 100000"},
		{config{Body: -1}, "--body -1: it cannot be below 0"},
		{config{Share: 1.5}, "--share 1.5: it cannot be above 1"},
		{config{shared: shared{-time.Second}}, "--timeout -1s: it cannot be below 0s"},
		{config{Settle: -1}, "Settle -1ns: it cannot be below 0s"},
		{config{Protocol: "grpc"}, `--protocol "grpc": choose one of native, http`},
	} {
		if err := Complete(&c.cfg); err == nil || err.Error() != c.want {
			t.Errorf("%+v: error %v, want %s", c.cfg, err, c.want)
		}
	}
}

func TestReference(t *testing.T) {
	want := strings.TrimPrefix(`
| flag | default | what it does |
|---|---|---|
| `+"`--timeout`"+` | 10 s | How long. |
| `+"`--group`"+` | churn | Group \| of consumers. |
| `+"`--protocol`"+` | native | Protocol. |
| `+"`--keep`"+` | 5000 customers | Customers to keep; -1 for none. |
| `+"`--body`"+` | 64 KiB | Largest body. |
| `+"`--share`"+` | 0.6 | Share. |
| `+"`--brokers`"+` | a:1,b:2 | Brokers. |
| `+"`--level`"+` | high | Level. |
| `+"`--create`"+` | true | Create. |
| `+"`--age`"+` | 0 s | 0 is none. |
| `+"`--file`"+` |  | File. |
`, "\n")
	if got := Reference(Of(config{})); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWritten(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"duration", "90m", "90 min"},
		{"duration", "24h", "24 h"},
		{"duration", "1m30s", "90 s"},
		{"duration", "50ms", "50 ms"},
		{"duration", "", ""},
		{"bytes", "1000000", "1000000 bytes"},
		{"bytes", "1MiB", "1 MiB"},
		{"bytes", "2GiB", "2 GiB"},
		{"number", "5", "5"},
	} {
		if got := (Setting{Type: c.kind, Default: c.text}).Written(); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.kind, c.text, got, c.want)
		}
	}
}
