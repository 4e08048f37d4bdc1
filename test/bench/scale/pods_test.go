package scale

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// runPods reports the pods that are bound to the node as running, and ends those that are deleted.
func (h *hollow) runPods(ctx context.Context) {
	addresses := map[types.UID]netip.Addr{}
	for ctx.Err() == nil {
		if err := h.followPods(ctx, addresses); err != nil && ctx.Err() == nil {
			slog.Warn("a hollow node's watch of its pods has ended", "node", h.name, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

func (h *hollow) followPods(ctx context.Context, addresses map[types.UID]netip.Addr) error {
	w, err := h.client.CoreV1().Pods("").Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", h.name).String()})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			return apierrors.FromObject(event.Object)
		}
		switch {
		case event.Type == watch.Deleted:
			delete(addresses, pod.UID)
		case pod.DeletionTimestamp != nil:
			err = h.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		case pod.Status.Phase == corev1.PodPending:
			if !addresses[pod.UID].IsValid() {
				addresses[pod.UID] = h.freeAddress(addresses)
			}
			err = h.reportRunning(ctx, pod, addresses[pod.UID])
		}
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// freeAddress is one of the node's range that no pod has. The range is larger than the number of pods that a node may have.
func (h *hollow) freeAddress(taken map[types.UID]netip.Addr) netip.Addr {
	used := map[netip.Addr]bool{}
	for _, a := range taken {
		used[a] = true
	}
	a := h.podIPs.Addr().Next()
	for used[a] {
		a = a.Next()
	}
	return a
}

// reportRunning writes the status as an agent does, by a patch.
func (h *hollow) reportRunning(ctx context.Context, pod *corev1.Pod, address netip.Addr) error {
	now := metav1.Now()
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: address.String(), PodIPs: []corev1.PodIP{{IP: address.String()}},
		HostIP: h.address.String(), HostIPs: []corev1.HostIP{{IP: h.address.String()}},
	}
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	for _, c := range pod.Spec.Containers {
		started := true
		status.ContainerStatuses = append(status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, ImageID: c.Image, ContainerID: "hollow://" + string(pod.UID) + c.Name, Ready: true, Started: &started,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = h.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{}, "status")
	return err
}
