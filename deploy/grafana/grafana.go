// Package grafana makes the dashboards in its directory. They are generated, so
// that units, intervals and links are alike in all of them, and so that every
// query can be run in a test:
//
//	go test ./deploy/grafana -update
package grafana

//lint:file-ignore SA1019 see Dashboard.Build

import (
	"fmt"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"

	"github.com/grafana/grafana-foundation-sdk/go/bargauge"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/grafana/grafana-foundation-sdk/go/units"
)

// Dashboard is a page of panels.
type Dashboard struct {
	// File is its file's name without ending; with "churnstream-" before it, it
	// is the uid.
	File  string
	Title string
	About string
	// From is the beginning of the time shown.
	From string
	Rows []Row
}

// Row is a titled row of panels.
type Row struct {
	Title  string
	Panels []Panel
}

// Kind is how a panel shows values.
type Kind int

// Kinds of panels.
const (
	Lines  Kind = iota // over time
	Number             // the present value
	Bars               // the present values, the greatest first
)

// Panel shows the answers to queries.
type Panel struct {
	Title, About string
	Kind         Kind
	// Unit is one of Grafana's.
	Unit string
	// Width is in 24ths of the page. Default 8; of a Number 4.
	Width   uint32
	Queries []Query
}

// Query is a question to Prometheus.
type Query struct {
	Expr   string
	Legend string
	// Empty says when there is no answer although all is well, "" if there
	// always is one.
	Empty string
}

// Runnable returns the query as Prometheus takes it, with all that may be chosen
// on the dashboard chosen.
func (q Query) Runnable() string {
	return strings.NewReplacer("$__rate_interval", "1m", "$__range", "1h", "$version", ".+").Replace(q.Expr)
}

const (
	tag = "churnstream"
	// sourceUID is that of the data source in provisioning.
	sourceUID = "churnstream-prometheus"
)

var source = common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}

// annotations are what is marked on all panels over time.
var annotations = []struct {
	name, color string
	text        string
	Query
}{
	{"Model changes", "purple", "Model {{model_version}} is the champion", Query{
		Expr: `max by (model_version) (churn_model_info{stage="champion"})
  unless on (model_version) max by (model_version) (max_over_time(churn_model_info{stage="champion"}[10m] offset 1m))`,
		Empty: "Only in the minute of a change.",
	}},
	{"Alerts on models", "red", "{{alertname}} {{model_version}}{{feature}}", Query{
		Expr:  `max by (alertname, model_version, feature) (ALERTS{alertname=~"Churn(Model|Challenger|HighRisk|Feature|Score|Reason|Label|Outcomes).*",alertstate="firing"})`,
		Empty: "Only while an alert fires.",
	}},
}

// Annotations returns what is asked for what is marked on all panels.
func Annotations() (all []Query) {
	for _, a := range annotations {
		all = append(all, a.Query)
	}
	return all
}

// Build returns the dashboard in the form that every Grafana since 10 provisions
// from files; that which the SDK prefers needs one of 2025 or later.
func (d Dashboard) Build() (dashboard.Dashboard, error) {
	b := dashboard.NewDashboardBuilder(d.Title).
		Uid("churnstream-"+d.File).
		Description(d.About).
		Tags([]string{tag}).
		Time(d.From, "now").
		Refresh("30s").
		Timezone(common.TimeZoneBrowser).
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Readonly().
		Link(dashboard.NewDashboardLinkBuilder("Dashboards").
			Type(dashboard.DashboardLinkTypeDashboards).Tags([]string{tag}).KeepTime(true).IncludeVars(true)).
		Link(dashboard.NewDashboardLinkBuilder("Runbooks").
			Type(dashboard.DashboardLinkTypeLink).Icon("doc").TargetBlank(true).
			Url("https://github.com/churnstream/churnstream/blob/main/docs/runbooks.md")).
		Link(dashboard.NewDashboardLinkBuilder("Metrics").
			Type(dashboard.DashboardLinkTypeLink).Icon("doc").TargetBlank(true).
			Url("https://github.com/churnstream/churnstream/blob/main/docs/metrics.md")).
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("Prometheus").Type("prometheus").
			Current(option("churnstream", sourceUID)))
	if d.uses("$version") {
		b.WithVariable(dashboard.NewQueryVariableBuilder("version").Label("Model version").
			Query(dashboard.StringOrMap{String: cog.ToPtr("label_values(churn_model_info, model_version)")}).
			Datasource(source).Multi(true).IncludeAll(true).AllValue(".+").
			Current(option("All", "$__all")).
			Refresh(dashboard.VariableRefreshOnTimeRangeChanged).Sort(dashboard.VariableSortNumericalDesc))
	}
	for _, a := range annotations {
		b.Annotation(dashboard.NewAnnotationQueryBuilder().Name(a.name).Datasource(source).Enable(true).
			IconColor(a.color).Expr(a.Expr).Step("60s").TitleFormat(a.name).TextFormat(a.text))
	}
	id := uint32(0)
	for _, r := range d.Rows {
		id++
		b.WithRow(dashboard.NewRowBuilder(r.Title).Id(id))
		for _, p := range r.Panels {
			id++
			b.WithPanel(p.builder(id))
		}
	}
	return b.Build()
}

func option(text, value string) dashboard.VariableOption {
	return dashboard.VariableOption{
		Selected: cog.ToPtr(true),
		Text:     dashboard.StringOrArrayOfString{String: &text},
		Value:    dashboard.StringOrArrayOfString{String: &value},
	}
}

func (d Dashboard) uses(variable string) bool {
	for _, r := range d.Rows {
		for _, p := range r.Panels {
			for _, q := range p.Queries {
				if strings.Contains(q.Expr, variable) {
					return true
				}
			}
		}
	}
	return false
}

// about is the panel's description, with what it means that it is empty.
func (p Panel) about() string {
	text := p.About
	seen := ""
	for _, q := range p.Queries {
		if q.Empty != "" && q.Empty != seen {
			text += " No data: " + q.Empty
			seen = q.Empty
		}
	}
	return text
}

func (p Panel) builder(id uint32) cog.Builder[dashboard.Panel] {
	width := p.Width
	switch {
	case width != 0:
	case p.Kind == Number:
		width = 4
	default:
		width = 8
	}
	targets := make([]*prometheus.DataqueryBuilder, len(p.Queries))
	for i, q := range p.Queries {
		targets[i] = prometheus.NewDataqueryBuilder().RefId(fmt.Sprintf("%c", 'A'+i)).Datasource(source).
			Expr(q.Expr).LegendFormat(q.Legend)
		if p.Kind == Lines {
			targets[i].Range()
		} else {
			targets[i].Instant()
		}
	}
	last := common.NewReduceDataOptionsBuilder().Calcs([]string{"lastNotNull"})
	switch p.Kind {
	case Number:
		b := stat.NewPanelBuilder().Id(id).Title(p.Title).Description(p.about()).Datasource(source).
			Unit(p.Unit).Span(width).Height(4).ReduceOptions(last).
			ColorMode(common.BigValueColorModeNone).GraphMode(common.BigValueGraphModeNone)
		for _, t := range targets {
			b.WithTarget(t)
		}
		return b
	case Bars:
		b := bargauge.NewPanelBuilder().Id(id).Title(p.Title).Description(p.about()).Datasource(source).
			Unit(p.Unit).Span(width).Height(8).ReduceOptions(last).
			Orientation(common.VizOrientationHorizontal).DisplayMode(common.BarGaugeDisplayModeBasic)
		for _, t := range targets {
			b.WithTarget(t)
		}
		return b
	}
	b := timeseries.NewPanelBuilder().Id(id).Title(p.Title).Description(p.about()).Datasource(source).
		Unit(p.Unit).Span(width).Height(8).LineWidth(1).FillOpacity(0).
		Legend(common.NewVizLegendOptionsBuilder().ShowLegend(true).
			DisplayMode(common.LegendDisplayModeList).Placement(common.LegendPlacementBottom)).
		Tooltip(common.NewVizTooltipOptionsBuilder().Mode(common.TooltipDisplayModeMulti).Sort(common.SortOrderDescending)).
		// Ends of intervals, thresholds and objectives are no measurements.
		OverrideByRegexp("/(lower|upper) end|threshold|objective/", []dashboard.DynamicConfigValue{
			{Id: "custom.lineStyle", Value: map[string]any{"fill": "dash", "dash": []int{6, 6}}},
		})
	for _, t := range targets {
		b.WithTarget(t)
	}
	return b
}

// Units of Grafana that panels are in.
const (
	none    = units.NoUnit
	count   = units.Short
	share   = units.PercentUnit
	seconds = units.Seconds
	each    = units.CountsPerSecond
	octets  = units.BytesIEC
)
