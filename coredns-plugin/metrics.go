package skep

import (
	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	eventsTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace, Subsystem: pluginName, Name: "etcd_events_total",
		Help: "Objects read from etcd, by resource.",
	}, []string{"resource"})

	undecodableTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace, Subsystem: pluginName, Name: "etcd_undecodable_total",
		Help: "Values in etcd that are not an object of their resource and were skipped.",
	}, []string{"resource"})

	retriesTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace, Subsystem: pluginName, Name: "etcd_retries_total",
		Help: "Times that a list or a watch of etcd failed and was started again.",
	}, []string{"resource"})
)
