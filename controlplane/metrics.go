package controlplane

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var loopRunning = promauto.NewGaugeVec(prometheus.GaugeOpts{
	Name: "skep_control_loop_running", Help: "1 for a control loop that runs in this process: all do in the leader, and none in others.",
}, []string{"loop"})
