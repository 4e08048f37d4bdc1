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
	handler  http.Handler
}

func newServerMetrics() *serverMetrics {
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
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.requests, m.seconds, m.watches)
	m.handler = promhttp.HandlerFor(prometheus.Gatherers{registry, prometheus.DefaultGatherer}, promhttp.HandlerOpts{})
	return m
}

// observe counts an answered request. Only what the server knows becomes a label: a client's invented paths must not
// make series.
func (m *serverMetrics) observe(c *call, code int, took time.Duration) {
	if code == 0 {
		code = http.StatusOK
	}
	var group, resource, subresource string
	if c.kind != nil {
		group, resource = c.group, c.resource
		if code != http.StatusNotFound {
			subresource = c.subresource
		}
	}
	verb := c.verb
	switch verb {
	case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection":
	default:
		verb = "other"
	}
	m.requests.WithLabelValues(verb, group, resource, subresource, strconv.Itoa(code)).Inc()
	if verb != "watch" && subresource != "exec" && subresource != "attach" && subresource != "portforward" && subresource != "proxy" && subresource != "log" {
		m.seconds.WithLabelValues(verb, group, resource).Observe(took.Seconds())
	}
}
