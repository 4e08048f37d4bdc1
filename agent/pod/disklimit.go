package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skep-io/skep/agent/usage"
)

// limitDisk evicts a pod that uses more of the node's disk than it may.
func (p *Pods) limitDisk(uid string, disk usage.Pod) {
	w := p.worker(uid)
	if w == nil {
		return
	}
	if excess := diskExcess(w.ref, disk); excess != "" {
		p.Evict(types.UID(uid), Eviction{Message: excess, GracePeriod: ImmediateGracePeriod})
	}
}

// diskExcess says, in kubelet's words, which of its limits on local storage a pod exceeds; "" if none. Volumes in memory are not
// checked: the kernel enforces their limits.
func diskExcess(pod *corev1.Pod, disk usage.Pod) string {
	exceeds := func(used usage.Amount, limit *resource.Quantity) bool {
		return resource.NewQuantity(int64(used.Bytes), resource.BinarySI).Cmp(*limit) > 0
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if exceeds(disk.Trees[usage.Key{Kind: usage.Volume, Name: v.Name}], v.EmptyDir.SizeLimit) {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	if limit, ok := limits[corev1.ResourceEphemeralStorage]; ok && exceeds(disk.Total(), &limit) {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	var staying []*corev1.Container
	for i := range pod.Spec.Containers {
		staying = append(staying, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(pod, c) {
			staying = append(staying, c)
		}
	}
	for _, c := range staying {
		limit := c.Resources.Limits.StorageEphemeral()
		if !limit.IsZero() && exceeds(disk.Container(c.Name), limit) {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}
