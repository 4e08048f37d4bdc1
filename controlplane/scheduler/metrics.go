package scheduler

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// The names and labels are kube-scheduler's.
var (
	pendingPods = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "scheduler_pending_pods", Help: "Pods that wait for a node: in the queue (active), or for resources (unschedulable).",
	}, []string{"queue"})
	pendingActive, pendingParked = pendingPods.WithLabelValues("active"), pendingPods.WithLabelValues("unschedulable")

	attempts = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Name: "scheduler_scheduling_attempt_duration_seconds", Help: "Time that the choice of a node took, by its result.",
		Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10),
	}, []string{"result", "profile"})

	preemptionAttempts = promauto.NewCounter(prometheus.CounterOpts{
		Name: "scheduler_preemption_attempts_total", Help: "Searches for pods to delete so that one of higher priority fits.",
	})
	preemptionVictims = promauto.NewHistogram(prometheus.HistogramOpts{
		Name: "scheduler_preemption_victims", Help: "Pods that are deleted in one preemption.", Buckets: prometheus.ExponentialBuckets(1, 2, 7),
	})

	bindErrors = promauto.NewCounter(prometheus.CounterOpts{
		Name: "skep_scheduler_bind_errors_total", Help: "Bindings that could not be written and are tried again.",
	})
)
