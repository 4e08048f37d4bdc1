package apiserver

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// serverMetrics are what the server counts about itself, by kube-apiserver's names and labels. They have a registry of their own, so that a
// process may hold more than one server; /metrics shows the process's default registry too, where the other parts count.
type serverMetrics struct {
	requests       *prometheus.CounterVec
	seconds, sli   *prometheus.HistogramVec
	longRunning    *prometheus.GaugeVec
	terminations   *prometheus.CounterVec
	waits          *prometheus.HistogramVec
	reads, changes prometheus.Gauge
	handler        http.Handler
}

// requestLabels say what a request was for.
var requestLabels = []string{"component", "group", "resource", "scope", "subresource", "verb", "version"}

func with(labels ...string) []string {
	return append(requestLabels[:len(requestLabels):len(requestLabels)], labels...)
}

func newServerMetrics(others ...prometheus.Collector) *serverMetrics {
	m := &serverMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "apiserver_request_total", Help: "Requests answered, by what they were for and the status code.",
		}, with("dry_run", "code")),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_duration_seconds", Help: "Time from a request's headers to the end of its answer, without watches and streams.",
			Buckets: []float64{.005, .025, .05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, with("dry_run")),
		sli: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "apiserver_request_sli_duration_seconds", Help: "The same time without what the request waited for its turn.",
			Buckets: []float64{.05, .1, .2, .4, .6, .8, 1, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60},
		}, requestLabels),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "apiserver_longrunning_requests", Help: "Watches open now.",
		}, requestLabels),
	}
	inFlight := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "apiserver_current_inflight_requests", Help: "Requests in progress, without watches and streams.",
	}, []string{"request_kind"})
	m.reads, m.changes = inFlight.WithLabelValues("readOnly"), inFlight.WithLabelValues("mutating")
	m.terminations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "apiserver_request_terminations_total", Help: "Requests that the server ended to protect itself.",
	}, []string{"verb", "code"})
	m.waits = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "apiserver_flowcontrol_request_wait_duration_seconds", Help: "Time that requests waited in the queue.",
		Buckets: []float64{0, .005, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30},
	}, []string{"priority_level", "execute"})
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.seconds, m.sli, m.longRunning, inFlight, m.terminations, m.waits)
	registry.MustRegister(others...)
	m.handler = promhttp.HandlerFor(prometheus.Gatherers{registry, prometheus.DefaultGatherer}, promhttp.HandlerOpts{})
	return m
}

// labels are those of a request. Only names that the server defines become labels: what a client invents must not create series.
func (c *call) labels() prometheus.Labels {
	l := prometheus.Labels{"component": "apiserver", "verb": countedVerb(c), "scope": "", "group": "", "version": "", "resource": "", "subresource": ""}
	if c.kind == nil {
		return l
	}
	l["group"], l["version"], l["resource"] = c.group, c.version, c.resource
	if sub, ok := c.kind.Subresource(c.subresource); ok {
		l["subresource"] = sub.Name
	}
	switch {
	case c.name != "":
		l["scope"] = "resource"
	case c.namespace != "":
		l["scope"] = "namespace"
	default:
		l["scope"] = "cluster"
	}
	return l
}

// observe counts an answered request.
func (m *serverMetrics) observe(c *call, code int, took time.Duration) {
	if code == 0 {
		code = http.StatusOK
	}
	l := c.labels()
	connects := slices.Contains(connectSubresources, l["subresource"])
	if connects {
		l["verb"] = "CONNECT"
	}
	lasting := connects || c.verb == "watch" || l["subresource"] == "log"
	if !lasting {
		m.sli.With(l).Observe((took - c.waited).Seconds())
	}
	l["dry_run"] = ""
	if c.query.Get("dryRun") == metav1.DryRunAll {
		l["dry_run"] = metav1.DryRunAll
	}
	if !lasting {
		m.seconds.With(l).Observe(took.Seconds())
	}
	l["code"] = strconv.Itoa(code)
	m.requests.With(l).Inc()
}

// connectSubresources are streams, which last as long as their client wants.
var connectSubresources = []string{"exec", "attach", "portforward", "proxy"}

// countedVerb is the verb as kube-apiserver counts it.
func countedVerb(c *call) string {
	switch verb := c.verb; verb {
	case "get", "list", "watch", "patch", "delete", "deletecollection":
		if verb == "patch" && strings.HasPrefix(c.Header.Get("Content-Type"), string(types.ApplyYAMLPatchType)) {
			return "APPLY"
		}
		return strings.ToUpper(verb)
	case "create":
		return "POST"
	case "update":
		return "PUT"
	}
	return "other"
}

// inFlight counts the requests that are worked on.
func (m *serverMetrics) inFlight(method string) prometheus.Gauge {
	if method == http.MethodGet || method == http.MethodHead {
		return m.reads
	}
	return m.changes
}

// waited counts how long a request waited for its turn, and whether it came.
func (m *serverMetrics) waited(level string, execute bool, took time.Duration) {
	m.waits.WithLabelValues(level, strconv.FormatBool(execute)).Observe(took.Seconds())
}

// terminated counts a request that was refused so that others can be served.
func (m *serverMetrics) terminated(c *call, err error) {
	m.terminations.WithLabelValues(countedVerb(c), strconv.Itoa(int(statusOf(err).Code))).Inc()
}

var (
	levelLabels  = []string{"priority_level", "flow_schema"}
	seatsDesc    = prometheus.NewDesc("apiserver_flowcontrol_nominal_limit_seats", "Seats of a priority level.", levelLabels, nil)
	usedDesc     = prometheus.NewDesc("apiserver_flowcontrol_current_executing_seats", "Seats in use.", levelLabels, nil)
	queuedDesc   = prometheus.NewDesc("apiserver_flowcontrol_current_inqueue_requests", "Requests that wait in the queue.", levelLabels, nil)
	servedDesc   = prometheus.NewDesc("apiserver_flowcontrol_dispatched_requests_total", "Requests whose turn came.", levelLabels, nil)
	rejectedDesc = prometheus.NewDesc("apiserver_flowcontrol_rejected_requests_total", "Requests that were rejected.", append(levelLabels, "reason"), nil)
	bodiesDesc   = prometheus.NewDesc("skep_apiserver_body_bytes", "Memory in use by the bodies of requests.", levelLabels, nil)
)

// Describe implements prometheus.Collector.
func (l *limits) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{seatsDesc, usedDesc, queuedDesc, servedDesc, rejectedDesc, bodiesDesc} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (l *limits) Collect(metrics chan<- prometheus.Metric) {
	for _, level := range levels {
		stats := l.levels[level.level].Stats()
		send := func(desc *prometheus.Desc, kind prometheus.ValueType, value int, more ...string) {
			metrics <- prometheus.MustNewConstMetric(desc, kind, float64(value), append([]string{level.level, level.schema}, more...)...)
		}
		send(seatsDesc, prometheus.GaugeValue, l.levels[level.level].Seats)
		send(usedDesc, prometheus.GaugeValue, stats.Used)
		send(queuedDesc, prometheus.GaugeValue, stats.Waiting)
		send(bodiesDesc, prometheus.GaugeValue, stats.Held)
		send(servedDesc, prometheus.CounterValue, stats.Served)
		for reason, n := range stats.Rejected {
			send(rejectedDesc, prometheus.CounterValue, n, reason)
		}
	}
}
