package resource

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"k8s.io/apiserver/pkg/admission"
)

// admissionSeconds has kube-apiserver's name, labels and buckets.
var admissionSeconds = promauto.NewHistogramVec(prometheus.HistogramOpts{
	Name: "apiserver_admission_controller_admission_duration_seconds", Help: "Time that an admission plugin took, by its name and the operation, and whether it refused.",
	Buckets: []float64{.005, .025, .1, .5, 1, 2.5},
}, []string{"name", "operation", "rejected", "type"})

// admissionTimer records how long one step of a plugin takes. It is made once, as finding a series by its labels costs more than the
// work of most plugins.
type admissionTimer struct {
	name, step string
	accepted   map[admission.Operation]prometheus.Observer
}

// newAdmissionTimer names a plugin by its type, which has Kubernetes' name of the plugin.
func newAdmissionTimer(plugin admission.Interface, step string) admissionTimer {
	name := reflect.Indirect(reflect.ValueOf(plugin)).Type().Name()
	t := admissionTimer{name: strings.ToUpper(name[:1]) + name[1:], step: step, accepted: map[admission.Operation]prometheus.Observer{}}
	for _, op := range []admission.Operation{admission.Create, admission.Update, admission.Delete} {
		if plugin.Handles(op) {
			t.accepted[op] = t.series(op, false)
		}
	}
	return t
}

func (t *admissionTimer) series(op admission.Operation, rejected bool) prometheus.Observer {
	return admissionSeconds.WithLabelValues(t.name, string(op), strconv.FormatBool(rejected), t.step)
}

func (t *admissionTimer) observe(op admission.Operation, began time.Time, err error) {
	series, ok := t.accepted[op]
	if err != nil || !ok {
		series = t.series(op, err != nil)
	}
	series.Observe(time.Since(began).Seconds())
}

var (
	cacheLabels      = []string{"group", "resource"}
	cacheObjects     = prometheus.NewDesc("skep_watchcache_objects", "Objects in the cache.", cacheLabels, nil)
	cacheEvents      = prometheus.NewDesc("skep_watchcache_window_events", "Past events that watches can resume from.", cacheLabels, nil)
	cacheEventsBytes = prometheus.NewDesc("skep_watchcache_window_bytes", "Size in etcd of the objects of those events, in bytes.", cacheLabels, nil)
	cacheRevision    = prometheus.NewDesc("skep_watchcache_revision", "Revision of etcd up to which the cache has everything.", cacheLabels, nil)
)

// Describe implements prometheus.Collector.
func (r *Registry) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{cacheObjects, cacheEvents, cacheEventsBytes, cacheRevision} {
		descs <- desc
	}
}

// Collect implements prometheus.Collector.
func (r *Registry) Collect(metrics chan<- prometheus.Metric) {
	for _, k := range r.Kinds() {
		stats := r.Cache(k).Stats()
		for desc, value := range map[*prometheus.Desc]float64{
			cacheObjects: float64(stats.Objects), cacheEvents: float64(stats.WindowEvents),
			cacheEventsBytes: float64(stats.WindowBytes), cacheRevision: float64(stats.Revision),
		} {
			metrics <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, k.GVK.Group, k.Resource)
		}
	}
}
