package grafana

//lint:file-ignore SA1019 see Dashboard.Build

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

var update = flag.Bool("update", false, "write the dashboards anew")

// The files are what the code says, and Grafana's own types read them with
// nothing unknown in them.
func TestDashboards(t *testing.T) {
	plugins.RegisterDefaultPlugins()
	for _, d := range Dashboards {
		t.Run(d.File, func(t *testing.T) {
			built, err := d.Build()
			if err != nil {
				t.Fatal(err)
			}
			want, err := json.MarshalIndent(built, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, '\n')
			path := filepath.Join("dashboards", d.File+".json")
			if *update {
				if err := os.WriteFile(path, want, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(text, want) {
				t.Errorf("%s is not what the code makes; go test ./deploy/grafana -update makes it anew", path)
			}
			// A field that Grafana's types do not know would be lost.
			var read dashboard.Dashboard
			if err := json.Unmarshal(text, &read); err != nil {
				t.Fatal(err)
			}
			if err := read.Validate(); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			again, err := json.MarshalIndent(read, "", "  ")
			if err != nil || !bytes.Equal(append(again, '\n'), text) {
				t.Errorf("%s is read otherwise than it is written: %v", path, err)
			}
		})
	}
}

// A panel says what it shows, in which unit, and fits into its row.
func TestPanels(t *testing.T) {
	for _, d := range Dashboards {
		if len(d.Rows) == 0 || d.About == "" {
			t.Errorf("%s has no rows or says nothing of itself", d.File)
		}
		for _, r := range d.Rows {
			seen := map[string]bool{}
			for _, p := range r.Panels {
				if seen[p.Title] {
					t.Errorf("%s, %s: two panels are called %s", d.Title, r.Title, p.Title)
				}
				seen[p.Title] = true
				if p.About == "" || p.Unit == "" || len(p.Queries) == 0 {
					t.Errorf("%s, %s: %s lacks a description, a unit or a query", d.Title, r.Title, p.Title)
				}
				for _, q := range p.Queries {
					if q.Expr == "" || strings.Contains(q.Runnable(), "$") {
						t.Errorf("%s, %s: %s asks %q", d.Title, r.Title, p.Title, q.Runnable())
					}
					if p.Kind != Number && q.Legend == "" {
						t.Errorf("%s, %s: %s has a series without a name", d.Title, r.Title, p.Title)
					}
				}
			}
		}
	}
}

// What is provisioned is what the dashboards ask for.
func TestProvisioning(t *testing.T) {
	for path, line := range map[string]string{
		"provisioning/datasources/prometheus.yml": "uid: " + sourceUID,
		"provisioning/dashboards/churnstream.yml": "path: /var/lib/grafana/dashboards/churnstream",
		"README.md": "/deploy/grafana/dashboards:/var/lib/grafana/dashboards/churnstream:ro",
	} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), line) {
			t.Errorf("%s lacks %q", path, line)
		}
	}
	files, err := filepath.Glob("dashboards/*.json")
	if err != nil || len(files) != len(Dashboards) {
		t.Errorf("%d dashboards, and files %v: %v", len(Dashboards), files, err)
	}
}
