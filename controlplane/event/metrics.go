package event

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

var (
	queueDepth = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skep_event_queue_depth", Help: "Events of control loops that wait to be written.",
	}, []string{"component"})
	eventsTotal = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "skep_events_total", Help: "Events of control loops by what became of them: written, failed, or dropped because too many waited.",
	}, []string{"component", "result"})
)

func (r *Recorder) count(result string) { eventsTotal.WithLabelValues(r.component, result).Inc() }
