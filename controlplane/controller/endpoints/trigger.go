package endpoints

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
)

// trigger records since when a service's endpoints have been out of date: the annotation
// last-change-trigger-time is for measuring how long changes take.
func (c *Controller) trigger(key controller.Key, old, cur *corev1.Pod) {
	when := triggerTime(old, cur)
	if when.IsZero() {
		return
	}
	// A condition's time has whole seconds: of a change within the last one, the moment at which it is seen is closer.
	if now := time.Now(); now.After(when) && now.Sub(when) < time.Second {
		when = now
	}
	c.triggersMu.Lock()
	defer c.triggersMu.Unlock()
	if first, ok := c.triggers[key]; !ok || when.Before(first) {
		c.triggers[key] = when
	}
}

// triggerTime is when a pod became or ceased to be ready, if that is what changed.
func triggerTime(old, cur *corev1.Pod) time.Time {
	if cur == nil || old == nil || controller.PodReady(old) == controller.PodReady(cur) {
		return time.Time{}
	}
	if cond := controller.PodCondition(cur, corev1.PodReady); cond != nil {
		return cond.LastTransitionTime.Time
	}
	return time.Time{}
}

// popTrigger returns the annotation for the next write, or nil.
func (c *Controller) popTrigger(key controller.Key) map[string]string {
	c.triggersMu.Lock()
	defer c.triggersMu.Unlock()
	when, ok := c.triggers[key]
	if !ok {
		return nil
	}
	delete(c.triggers, key)
	return map[string]string{corev1.EndpointsLastChangeTriggerTime: when.UTC().Format(time.RFC3339Nano)}
}

func controllerRef(owner metav1.Object, kind string) metav1.OwnerReference {
	return *metav1.NewControllerRef(owner, corev1.SchemeGroupVersion.WithKind(kind))
}

// restoreTrigger restores the trigger time of a write that failed.
func (c *Controller) restoreTrigger(key controller.Key, annotations map[string]string) {
	when, err := time.Parse(time.RFC3339Nano, annotations[corev1.EndpointsLastChangeTriggerTime])
	if err != nil {
		return
	}
	c.triggersMu.Lock()
	defer c.triggersMu.Unlock()
	if first, ok := c.triggers[key]; !ok || when.Before(first) {
		c.triggers[key] = when
	}
}
