package services

import (
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// A revision is not reported while the plane lacks an older one, whose service is queued behind others, nor one that came while its
// service was given. Pods would be signalled while this node still sends them connections.
func TestAppliedWaitsForQueuedServices(t *testing.T) {
	shows := func(service, revision string) *discoveryv1.EndpointSlice {
		s := slice(service+"-1", service, 8080, ep("10.244.0.1", false, true, true))
		s.ResourceVersion = revision
		return s
	}
	a := newApplied()
	wantNow := func(when string, want uint64) {
		t.Helper()
		if revision, withdrawn, _ := a.now(); revision != want || withdrawn < want {
			t.Errorf("%s: revision %d, withdrawn %d, want %d", when, revision, withdrawn, want)
		}
	}
	a.see(shows("first", "5"))
	a.see(shows("second", "7"))
	a.giving("ns/second", func() { wantNow("while the second is given", 4) })
	wantNow("with the second given", 4)
	a.giving("ns/first", func() { a.see(shows("first", "9")) })
	wantNow("with the first given as it was", 8)
	a.giving("ns/first", func() {})
	wantNow("with all given", 9)
}

// How long a change takes is measured once, from its trigger time until the maps have it, and not for changes of before the start.
func TestProgrammingLatency(t *testing.T) {
	triggered := func(s *discoveryv1.EndpointSlice, revision string, at time.Time) {
		s.ResourceVersion = revision
		s.Annotations = map[string]string{corev1.EndpointsLastChangeTriggerTime: at.UTC().Format(time.RFC3339Nano)}
	}
	old := slice("web-1", "web", 8080, ep("10.244.0.1", true, true, false))
	triggered(old, "7", time.Now().Add(-time.Hour))
	client := fake.NewClientset(svc("web", "10.96.0.5", httpPort), old)
	w, r, _ := start(t, client, nil)
	r.await(t, "the first revision", func() bool { return r.applied == 7 })
	if got := w.Programming(); len(got) != 0 {
		t.Errorf("%v for what had changed before", got)
	}
	changed := slice("web-1", "web", 8080, ep("10.244.0.1", false, true, true))
	triggered(changed, "9", time.Now())
	if _, err := client.DiscoveryV1().EndpointSlices("ns").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	r.await(t, "the second revision", func() bool { return r.applied == 9 })
	if got := w.Programming(); len(got) != 1 || got[0].Count != 1 || got[0].Seconds == 0 {
		t.Errorf("%v, want one change within a bound", got)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.Metrics())
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "kubeproxy_network_programming_duration_seconds" || families[0].GetMetric()[0].GetHistogram().GetSampleCount() != 1 {
		t.Errorf("metrics %v, %v, want one measurement", families, err)
	}
	if !slices.IsSorted(latencyBounds) {
		t.Errorf("bounds %v", latencyBounds)
	}
}
