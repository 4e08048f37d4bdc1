package eviction

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/pod"
)

// host is a node whose use a test sets, and which records the calls.
type host struct {
	mu       sync.Mutex
	o        Observations
	pods     []Pod
	critical types.UID
	holding  int // measurements after which an evicted pod is released
	frees    map[string]func(Observations)
	did      []string
}

func (h *host) Observe(context.Context) (Observations, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := Observations{}
	for s, seen := range h.o {
		o[s] = seen
	}
	return o, nil
}

func (h *host) OwnImages() bool { return false }

func (h *host) Pods(context.Context) []Pod {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.pods)
}

func (h *host) note(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.did = append(h.did, fmt.Sprintf(format, args...))
}

func (h *host) Evict(uid types.UID, e pod.Eviction) bool {
	if uid == h.critical {
		return false
	}
	h.note("evict %s in %d s", uid, e.GracePeriod)
	return true
}

func (h *host) Released(uid types.UID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.holding--; h.holding > 0 {
		return false
	}
	h.did = append(h.did, "released "+string(uid))
	h.pods = slices.DeleteFunc(h.pods, func(p Pod) bool { return p.UID == uid })
	if free := h.frees[string(uid)]; free != nil {
		free(h.o)
	}
	return true
}

func (h *host) reclaim(_ context.Context, s Signal) error {
	h.note("reclaim %s", s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if free := h.frees["reclaim"]; free != nil {
		free(h.o)
	}
	return nil
}

func (h *host) monitor(s []Threshold, grace time.Duration) *Monitor {
	return New(Config{
		Thresholds: s, MaxPodGrace: grace, Node: h, Pods: h, Reclaim: h.reclaim, NodeName: "n1", Metrics: NewMetrics(),
		SetPressure: func(list []corev1.NodeConditionType) { h.note("%v", list) },
		Event:       func(_, reason, message string) { h.note("%s: %s", reason, message) },
	})
}

// rounds is what Run does, for as many looks.
func (h *host) rounds(m *Monitor, looks int) string {
	for range looks {
		if evicted := m.look(context.Background()); evicted != nil {
			m.awaitRelease(context.Background(), evicted)
		}
	}
	return strings.Join(h.did, "\n")
}

func named(name string, bytes int64) Pod {
	own := int64(30)
	p := Pod{Pod: &corev1.Pod{}, Memory: bytes, Disk: Disk{State: Amount{bytes, bytes}}}
	p.Name, p.UID, p.Spec.TerminationGracePeriodSeconds = name, types.UID(name), &own
	return p
}

// One pod is evicted at a time, and the next only when the first has ended and that was not enough; memory comes before disk,
// and data that no pod needs before pods.
func TestMonitorEvictsOneAtATime(t *testing.T) {
	h := &host{
		o:    Observations{MemoryAvailable: {50, 1000}, NodeFsAvailable: {50, 1000}},
		pods: []Pod{named("small", 1), named("large", 100), named("critical", 1000), named("middle", 10)}, critical: "critical", holding: 3,
		frees: map[string]func(Observations){
			"large":  func(o Observations) { o[MemoryAvailable] = Observation{500, 1000} },
			"middle": func(o Observations) { o[NodeFsAvailable] = Observation{500, 1000} },
		},
	}
	m := h.monitor(parse(t, Settings{Hard: "nodefs.available<10%,memory.available<10%"}), 0)
	want := `[MemoryPressure DiskPressure]
NodeHasInsufficientMemory: Node n1 status is now: NodeHasInsufficientMemory
NodeHasDiskPressure: Node n1 status is now: NodeHasDiskPressure
EvictionThresholdMet: Attempting to reclaim memory
evict large in 1 s
released large
[DiskPressure]
NodeHasSufficientMemory: Node n1 status is now: NodeHasSufficientMemory
EvictionThresholdMet: Attempting to reclaim ephemeral-storage
reclaim nodefs.available
evict middle in 1 s
released middle
[]
NodeHasNoDiskPressure: Node n1 status is now: NodeHasNoDiskPressure`
	if got := h.rounds(m, 4); got != want {
		t.Errorf("it did\n%s\nwant\n%s", got, want)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m.cfg.Metrics)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "kubelet_evictions" && (len(f.Metric) != 2 || f.Metric[0].Counter.GetValue() != 1) || len(families) != 2 {
			t.Errorf("it counted %v", f)
		}
	}
}

func TestMonitorReclaimsFirst(t *testing.T) {
	h := &host{
		o: Observations{NodeFsInodesFree: {1, 1000}}, pods: []Pod{named("user", 1)},
		frees: map[string]func(Observations){"reclaim": func(o Observations) { o[NodeFsInodesFree] = Observation{100, 1000} }},
	}
	got := h.rounds(h.monitor(parse(t, Settings{Hard: "nodefs.inodesFree<5%"}), 0), 3)
	if strings.Contains(got, "evict") || strings.Count(got, "reclaim nodefs.inodesFree") != 1 || !strings.Contains(got, "Attempting to reclaim inodes") {
		t.Errorf("it did\n%s", got)
	}
}

// What no eviction can help is not tried again at each look, and does not keep the rest from being helped.
func TestMonitorHoldsBack(t *testing.T) {
	h := &host{o: Observations{NodeFsAvailable: {1, 1000}, PIDAvailable: {1, 1000}}, critical: "critical", pods: []Pod{named("critical", 1)}}
	m := h.monitor(parse(t, Settings{Hard: "nodefs.available<5%,pid.available<5%"}), 0)
	got := h.rounds(m, 5)
	if strings.Count(got, "Attempting to reclaim ephemeral-storage") != 1 || strings.Count(got, "Attempting to reclaim pids") != 1 {
		t.Errorf("it did\n%s", got)
	}
	h.pods = append(h.pods, named("bomb", 1))
	m.retryAt[resourcePids] = time.Now().Add(-time.Second)
	if got = h.rounds(m, 1); !strings.HasSuffix(got, "evict bomb in 1 s\nreleased bomb") {
		t.Errorf("it did\n%s", got)
	}
}

func TestSoftThresholdsGiveTime(t *testing.T) {
	for limit, want := range map[time.Duration]string{0: "in 0 s", 10 * time.Second: "in 10 s", time.Hour: "in 30 s"} {
		h := &host{o: Observations{MemoryAvailable: {1, 1000}}, pods: []Pod{named("user", 1)}}
		m := h.monitor(parse(t, Settings{Soft: "memory.available<5%", SoftGracePeriod: "memory.available=0s"}), limit)
		if got := h.rounds(m, 1); !strings.Contains(got, want) {
			t.Errorf("--eviction-max-pod-grace-period %v: it did\n%s", limit, got)
		}
	}
}
