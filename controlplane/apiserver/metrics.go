package apiserver

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// serverMetrics are what the server counts about itself. They have a registry of their own, so that a process may hold
// more than one server; /metrics shows the process's default registry too, where the other parts count.
type serverMetrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	watches  *prometheus.GaugeVec
	// The following have the names that they have in Kubernetes.
	terminations   *prometheus.CounterVec
	waits          *prometheus.HistogramVec
	reads, changes prometheus.Gauge
	handler        http.Handler
}

func newServerMetrics(others ...prometheus.Collector) *serverMetrics {
	m := &serverMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "skep_apiserver_requests_total", Help: "Requests answered, by verb, resource and status code.",
		}, []string{"verb", "group", "resource", "subresource", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "skep_apiserver_request_duration_seconds", Help: "Time from a request's headers to the end of its answer, without watches and streams.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60},
		}, []string{"verb", "group", "resource"}),
		watches: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "skep_apiserver_watches", Help: "Watches open now.",
		}, []string{"group", "version", "resource"}),
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
	registry.MustRegister(m.requests, m.seconds, m.watches, inFlight, m.terminations, m.waits)
	registry.MustRegister(others...)
	m.handler = promhttp.HandlerFor(prometheus.Gatherers{registry, prometheus.DefaultGatherer}, promhttp.HandlerOpts{})
	return m
}

// observe counts an answered request. Only names that the server defines become labels: paths that a client invents must not create series.
func (m *serverMetrics) observe(c *call, code int, took time.Duration) {
	if code == 0 {
		code = http.StatusOK
	}
	var group, resource, subresource string
	verb := knownVerb(c.verb)
	if c.kind != nil {
		group, resource = c.group, c.resource
		if code != http.StatusNotFound {
			subresource = c.subresource
		}
	}
	m.requests.WithLabelValues(verb, group, resource, subresource, strconv.Itoa(code)).Inc()
	if verb != "watch" && subresource != "exec" && subresource != "attach" && subresource != "portforward" && subresource != "proxy" && subresource != "log" {
		m.seconds.WithLabelValues(verb, group, resource).Observe(took.Seconds())
	}
}

func knownVerb(verb string) string {
	switch verb {
	case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection":
		return verb
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
	m.terminations.WithLabelValues(knownVerb(c.verb), strconv.Itoa(int(statusOf(err).Code))).Inc()
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
