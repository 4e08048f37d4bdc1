package storage

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The names are kube-apiserver's.
var (
	requestSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_request_duration_seconds", Help: "Time that etcd took to answer, by operation.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
	}, []string{"operation"})
	requestErrors = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "etcd_request_errors_total", Help: "Requests to etcd that failed, by operation.",
	}, []string{"operation"})
)

// observed counts a request to etcd that has ended, unless its caller gave it up, which is no error of etcd.
func observed(ctx context.Context, operation string, began time.Time, err error) {
	if ctx.Err() != nil {
		return
	}
	requestSeconds.WithLabelValues(operation).Observe(time.Since(began).Seconds())
	if err != nil {
		requestErrors.WithLabelValues(operation).Inc()
	}
}
