package eviction

import (
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/agent/pod"
)

// Node is what is measured.
type Node interface {
	// Observe measures what is available of every resource. With an error it still returns the signals that could be measured.
	Observe(ctx context.Context) (Observations, error)
	// Pods are the candidates for eviction, with what they use now.
	Pods(ctx context.Context) []Pod
	// OwnImages says whether images have a file system of their own.
	OwnImages() bool
}

// Pods ends pods: agent/pod's.
type Pods interface {
	Evict(uid types.UID, e pod.Eviction) bool
	Released(uid types.UID) bool
}

// Config configures a monitor.
type Config struct {
	Thresholds       []Threshold
	Transition       time.Duration // how long a condition is kept after its thresholds were last met
	MaxPodGrace      time.Duration // limit of the grace period of pods evicted for a soft threshold
	Node             Node
	Pods             Pods
	Reclaim          func(ctx context.Context, s Signal) error // frees disk space that no pod needs
	SetPressure      func([]corev1.NodeConditionType)          // for new pods and the cluster
	Event            func(kind, reason, message string)        // about the node
	NodeName         string
	Metrics          *Metrics
	Period, RetryGap time.Duration // of measuring; pause after an attempt that freed nothing; 0: the defaults
}

const (
	// defaultPeriod is short, since memory can be exhausted within seconds and a measurement costs a few reads of small files.
	defaultPeriod = time.Second
	// defaultRetryGap is kubelet's period.
	defaultRetryGap = 10 * time.Second
	// releaseTimeout is how long an evicted pod is waited for before the next is chosen, as with kubelet.
	releaseTimeout = 30 * time.Second
	releasePeriod  = 100 * time.Millisecond
	// reclaimTimeout bounds the removal of images, during which no pod is evicted.
	reclaimTimeout = 2 * time.Minute
)

// Monitor watches over the node's memory, disks and processes.
type Monitor struct {
	cfg      Config
	pressure *Pressure
	shown    []corev1.NodeConditionType
	retryAt  map[corev1.ResourceName]time.Time // when to try again to free what could not be freed
	problem  string                            // of the last observation
}

// New returns a monitor that does nothing before Measure or Run.
func New(cfg Config) *Monitor {
	if cfg.Period == 0 {
		cfg.Period = defaultPeriod
	}
	if cfg.RetryGap == 0 {
		cfg.RetryGap = defaultRetryGap
	}
	return &Monitor{cfg: cfg, pressure: NewPressure(cfg.Thresholds, cfg.Transition), retryAt: map[corev1.ResourceName]time.Time{}}
}

// Measure measures once, and reports what the node is short of without evicting a pod: an agent that starts on a node under
// pressure must not first report that there is none.
func (m *Monitor) Measure(ctx context.Context) { m.measure(ctx) }

func (m *Monitor) measure(ctx context.Context) (o Observations, due []Threshold) {
	o = m.observe(ctx)
	conditions, due := m.pressure.Observe(time.Now(), o)
	m.show(conditions)
	return o, due
}

// Run watches until ctx ends. Nothing else is called meanwhile.
func (m *Monitor) Run(ctx context.Context) error {
	ticker := time.NewTicker(m.cfg.Period)
	defer ticker.Stop()
	for ctx.Err() == nil {
		if evicted := m.look(ctx); evicted != nil {
			m.awaitRelease(ctx, evicted)
			continue
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	return nil
}

// look measures once and returns the pod that it evicted, or nil.
func (m *Monitor) look(ctx context.Context) *corev1.Pod {
	o, due := m.measure(ctx)
	now := time.Now()
	i := slices.IndexFunc(due, func(t Threshold) bool { return now.After(m.retryAt[t.Signal.resource()]) })
	if i < 0 {
		return nil
	}
	t := due[i]
	name := t.Signal.resource()
	slog.Warn("node is short of a resource; reclaiming it", "resource", name, "signal", t.Signal,
		"available", o[t.Signal].Available, "capacity", o[t.Signal].Capacity, "hard", t.Hard)
	m.cfg.Event(corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim "+string(name))
	if t.Signal.aboutDisk() {
		if err := m.reclaim(ctx, t.Signal); err != nil {
			slog.Error("not everything that no pod needs could be removed", "resource", name, "err", err)
		}
		if o = m.observe(ctx); !anyMet(m.cfg.Thresholds, o) {
			slog.Info("node is no longer short of a resource, and no pod had to be evicted", "resource", name)
			return nil
		}
	}
	evicted := m.evictOne(ctx, t, due, o)
	if evicted == nil {
		slog.Error("node is short of a resource, and there is no pod to evict", "resource", name, "signal", t.Signal)
		m.retryAt[name] = time.Now().Add(m.cfg.RetryGap)
	}
	return evicted
}

func (m *Monitor) reclaim(ctx context.Context, s Signal) error {
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	return m.cfg.Reclaim(ctx, s)
}

func (m *Monitor) observe(ctx context.Context) Observations {
	o, err := m.cfg.Node.Observe(ctx)
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	if problem != m.problem && ctx.Err() == nil {
		m.problem = problem
		if err != nil {
			slog.Error("not all of the node's resources are measured: thresholds of those that are not have no effect", "err", err)
		} else {
			slog.Info("all of the node's resources are measured again")
		}
	}
	return o
}

// evictOne evicts the first pod by rank that may be evicted.
func (m *Monitor) evictOne(ctx context.Context, t Threshold, due []Threshold, o Observations) *corev1.Pod {
	measured := time.Now()
	pods := m.cfg.Node.Pods(ctx)
	Rank(t.Signal, m.cfg.Node.OwnImages(), pods)
	for i := range pods {
		p := &pods[i]
		message, annotations := explain(t.Signal.resource(), p, due, o)
		grace := int64(pod.ImmediateGracePeriod)
		if !t.Hard {
			grace = int64(m.cfg.MaxPodGrace.Seconds())
			if own := p.Spec.TerminationGracePeriodSeconds; own != nil {
				grace = min(grace, *own)
			}
		}
		if m.cfg.Pods.Evict(p.UID, pod.Eviction{Message: message, Annotations: annotations, GracePeriod: grace, Disrupted: true}) {
			for _, met := range due {
				m.cfg.Metrics.statsAge.WithLabelValues(string(met.Signal)).Observe(time.Since(measured).Seconds())
			}
			m.cfg.Metrics.Count(string(t.Signal))
			return p.Pod
		}
	}
	return nil
}

// awaitRelease waits until the pod's resources are released, or the time limit is over.
func (m *Monitor) awaitRelease(ctx context.Context, evicted *corev1.Pod) {
	timeout := time.NewTimer(releaseTimeout)
	defer timeout.Stop()
	ticker := time.NewTicker(releasePeriod)
	defer ticker.Stop()
	for !m.cfg.Pods.Released(evicted.UID) {
		select {
		case <-ctx.Done():
			return
		case <-timeout.C:
			slog.Warn("evicted pod has not ended in time; checking whether another must be evicted", "pod", evicted.Namespace+"/"+evicted.Name, "uid", evicted.UID)
			return
		case <-ticker.C:
		}
	}
}

// show reports changes of the node's conditions.
func (m *Monitor) show(conditions []corev1.NodeConditionType) {
	if slices.Equal(conditions, m.shown) {
		return
	}
	before := m.shown
	m.shown = conditions
	m.cfg.SetPressure(slices.Clone(conditions))
	for _, kind := range Conditions {
		if is := slices.Contains(conditions, kind); is != slices.Contains(before, kind) {
			reason := conditionEvent(kind, is)
			m.cfg.Event(corev1.EventTypeNormal, reason, "Node "+m.cfg.NodeName+" status is now: "+reason)
		}
	}
}

func conditionEvent(kind corev1.NodeConditionType, is bool) string {
	reasons := map[corev1.NodeConditionType][2]string{
		corev1.NodeMemoryPressure: {"NodeHasSufficientMemory", "NodeHasInsufficientMemory"},
		corev1.NodeDiskPressure:   {"NodeHasNoDiskPressure", "NodeHasDiskPressure"},
		corev1.NodePIDPressure:    {"NodeHasSufficientPID", "NodeHasInsufficientPID"},
	}[kind]
	if is {
		return reasons[1]
	}
	return reasons[0]
}
