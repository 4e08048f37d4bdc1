package node

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	silences = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "skep_node_silences_total",
		Help: "Nodes declared silent, by what decided: the lease alone, or witnesses with it.",
	}, []string{"by"})
	heldZones = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "skep_node_held_zones",
		Help: "Zones in which so many nodes cannot be reached that only their leases decide.",
	})
)
