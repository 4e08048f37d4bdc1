package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/eviction"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// victim is a pod that is deleted so that another one fits.
type victim struct {
	pod  controller.Key
	uid  types.UID
	by   types.UID
	node string
	// scheduler is the profile of the pod for which it is deleted.
	scheduler string
}

// preempt looks for pods to delete so that one of higher priority fits, has them deleted and keeps their room for it. why says afterwards what
// came of it. Pods whose victims are on their way out keep their nomination. The cluster's lock is held since why was found.
func (s *Scheduler) preempt(req *request, why *misfit) (result nomination) {
	c := s.cluster
	if !c.profileOf(req).preempts {
		return nomination{}
	}
	preemptionAttempts.Inc()
	best, refusal := c.preempt(req, c.checksFor(req), why)
	if best == nil {
		why.preemption = refusal
		if refusal == waitsForVictims || refusal == neverPreempts {
			return nomination{}
		}
		if host := c.denominate(req); host != "" {
			s.roomOn(host)
		}
		return nomination{set: req.pod.Status.NominatedNodeName != ""}
	}
	why.preemption = fmt.Sprintf(foundPlacement, best.host.name, len(best.victims))
	preemptionVictims.Observe(float64(len(best.victims)))
	for _, p := range best.victims {
		p.preempted = true
		if !p.request.deleting {
			s.victims.Add(victim{pod: controller.KeyOf(p.request.pod), uid: p.request.uid, by: req.uid, node: best.host.name, scheduler: c.profileOf(req).name})
		}
	}
	for _, other := range c.dropNominees(best.host, req.priority) {
		s.reports.Add(report{pod: controller.KeyOf(other.pod), uid: other.uid, nomination: nomination{set: true}})
		s.queue.wake(func(r *request) bool { return r.uid == other.uid })
	}
	c.nominate(req, best.host)
	return nomination{set: true, node: best.host.name}
}

// remove says in a victim's conditions why it goes, and deletes it with its grace period.
func (s *Scheduler) remove(ctx context.Context, v victim) error {
	_, err := s.registry.Modify(ctx, kinds.Pods, "status", v.pod.Namespace, v.pod.Name, resource.UpdateOptions{Preconditions: &metav1.Preconditions{UID: &v.uid}},
		func(current resource.Object) (resource.Object, error) {
			pod := current.(*corev1.Pod)
			if pod.DeletionTimestamp != nil {
				return pod, nil
			}
			pod = pod.DeepCopy()
			eviction.SetDisruptionTarget(pod, corev1.PodReasonPreemptionByScheduler, v.scheduler+": preempting to accommodate a higher priority pod")
			return pod, nil
		})
	var deleted resource.Object
	if err == nil {
		deleted, _, err = s.registry.Delete(ctx, kinds.Pods, v.pod.Namespace, v.pod.Name, &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &v.uid}})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	if apierrors.IsConflict(err) {
		now, getErr := s.registry.Get(ctx, kinds.Pods, v.pod.Namespace, v.pod.Name, "")
		if apierrors.IsNotFound(getErr) || getErr == nil && now.GetUID() != v.uid {
			return nil // it is gone, perhaps with another of its name in its place
		}
	}
	if err != nil {
		return err
	}
	s.recorders[v.scheduler].Eventf(deleted, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", v.by, v.node)
	return nil
}
