package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skep-io/skep/agent/pod/life"
	"github.com/skep-io/skep/durable"
)

// ReasonEvicted is the reason of pods that the node ended, or rejected, because it was short of a resource.
const ReasonEvicted = "Evicted"

// Eviction is why and how the node ends a pod by itself.
type Eviction struct {
	Message string `json:"message"`
	// Annotations are the event's.
	Annotations map[string]string `json:"annotations,omitempty"`
	// GracePeriod replaces the pod's, in seconds.
	GracePeriod int64 `json:"gracePeriod"`
	// Disrupted gives the pod the condition DisruptionTarget: it is ended for the node's sake, not for what it did itself.
	Disrupted bool `json:"disrupted,omitempty"`
}

// ImmediateGracePeriod is kubelet's grace period of pods that it evicts at once, in seconds.
const ImmediateGracePeriod = 1

// Evict ends a pod, which counts as failed from then on: its containers end within the grace period, and its resources are
// released. It returns before that (see Released), as soon as the decision is recorded on disk, or recording has failed. It
// returns false for pods that are not on this node, that have ended or are evicted already, and for those that the cluster
// itself depends on.
func (p *Pods) Evict(uid types.UID, e Eviction) bool {
	w := p.worker(string(uid))
	if w == nil || isCritical(w.ref) {
		return false
	}
	if status := w.published(); status != nil && (status.Phase == corev1.PodSucceeded || status.Phase == corev1.PodFailed) {
		return false
	}
	if !w.evicted.CompareAndSwap(false, true) {
		return false
	}
	if err := writeEviction(w.evictionFile(), e); err != nil {
		// A full disk is one of the reasons for evictions.
		w.log().Error("eviction not recorded: should the agent end now, its successor has to decide anew", "err", err)
	}
	w.post(w.eviction(e))
	return true
}

// Released says whether a pod has ended on this node and its resources are released.
func (p *Pods) Released(uid types.UID) bool {
	w := p.worker(string(uid))
	return w == nil || w.released.Load()
}

// eviction is the event of the decision, made now or by an earlier agent.
func (w *worker) eviction(e Eviction) life.Event {
	grace := time.Duration(max(e.GracePeriod, 1)) * time.Second
	w.log().Warn("pod evicted", "message", e.Message, "grace", grace)
	return life.Evicted{Message: e.Message, Annotations: e.Annotations, Grace: grace, Disrupted: e.Disrupted}
}

func (w *worker) evictionFile() string {
	return filepath.Join(w.pods.cfg.Runtime.PodDir(w.uid), "eviction.json")
}

func writeEviction(path string, e Eviction) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return err
	}
	return durable.WriteFile(path, data, 0o600)
}

// recordedEviction is what an earlier agent decided, if it did.
func (w *worker) recordedEviction() (event life.Event, ok bool) {
	e, err := readEviction(w.evictionFile())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false
	case err != nil:
		w.log().Error("record of an eviction not read: the pod runs on", "err", err)
		return nil, false
	}
	w.evicted.Store(true)
	return w.eviction(e), true
}

func readEviction(path string) (e Eviction, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// admitPressed rejects new pods that a node short of a resource must not run. A pod that has begun stays.
func (p *Pods) admitPressed(pod *corev1.Pod) *rejection {
	if p.cfg.Pressure == nil {
		return nil
	}
	conditions := p.cfg.Pressure()
	if len(conditions) == 0 || isCritical(pod) || len(p.containersOf(string(pod.UID))) > 0 {
		return nil
	}
	if len(conditions) == 1 && conditions[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if qosClass(pod) != corev1.PodQOSBestEffort || corev1helpers.TolerationsTolerateTaint(klog.Logger{}, pod.Spec.Tolerations, &taint, false) {
			return nil
		}
	}
	return &rejection{ReasonEvicted, fmt.Sprintf("The node had condition: %v. ", conditions)}
}
