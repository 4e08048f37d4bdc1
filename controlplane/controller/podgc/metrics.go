package podgc

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The names and labels are kube-controller-manager's.
var (
	removedTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "pod_gc_collector_force_delete_pods_total", Help: "Pods that the pod garbage collector deleted, or tried to.",
	}, []string{"namespace", "reason"})
	errorsTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "pod_gc_collector_force_delete_pod_errors_total", Help: "Pods that the pod garbage collector failed to delete.",
	}, []string{"namespace", "reason"})
)
