package reach

import "github.com/prometheus/client_golang/prometheus"

var (
	probesSent     = prometheus.NewDesc("skep_reach_probes_sent_total", "Probes sent to watched nodes.", nil, nil)
	probesAnswered = prometheus.NewDesc("skep_reach_probes_answered_total", "Probes that were answered, however late.", nil, nil)
	probesLost     = prometheus.NewDesc("skep_reach_probes_lost_total", "Probes that have not been answered.", nil, nil)
	roundsVoid     = prometheus.NewDesc("skep_reach_void_rounds_total", "Rounds of probes that count against nobody: this node was late (late), or nobody answered (mute).", []string{"reason"}, nil)
	statements     = prometheus.NewDesc("skep_reach_statements_total", "Statements about other nodes: made by this node, and of others accepted, known already, or refused.", []string{"outcome"}, nil)
	verdicts       = prometheus.NewDesc("skep_reach_verdicts_total", "Verdicts of two witnesses that a node cannot be reached.", nil, nil)
	nodesWatched   = prometheus.NewDesc("skep_reach_nodes_watched", "Nodes that this one probes.", nil, nil)
	nodesSuspected = prometheus.NewDesc("skep_reach_nodes_suspected", "Nodes that this one cannot reach by its own probes.", nil, nil)
	nodesDown      = prometheus.NewDesc("skep_reach_nodes_down", "Nodes against which there is a verdict.", nil, nil)
	nodesOut       = prometheus.NewDesc("skep_reach_nodes_out", "Nodes that are taken out of this node's service maps for it.", nil, nil)
	zonesHeld      = prometheus.NewDesc("skep_reach_zones_held", "Zones of which no node is taken out, since too many seem gone at once.", nil, nil)
)

// Describe implements prometheus.Collector.
func (r *Reach) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		probesSent, probesAnswered, probesLost, roundsVoid, statements, verdicts, nodesWatched, nodesSuspected, nodesDown, nodesOut, zonesHeld,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (r *Reach) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	council, prober := r.council, r.prober
	r.mu.Unlock()
	if council == nil || prober == nil {
		return // not running
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n))
	}
	s := council.summary()
	c, watched, _ := prober.state()
	counter(probesSent, c.sent)
	counter(probesAnswered, c.answered)
	counter(probesLost, c.lost)
	counter(roundsVoid, c.late, "late")
	counter(roundsVoid, c.mute, "mute")
	counter(statements, s.made, "made")
	counter(statements, s.accepted, "accepted")
	counter(statements, s.known, "known")
	counter(statements, s.refused, "refused")
	counter(verdicts, s.verdicts)
	gauge(nodesWatched, watched)
	gauge(nodesSuspected, s.suspected)
	gauge(nodesDown, s.down)
	gauge(nodesOut, s.out)
	gauge(zonesHeld, s.held)
}
