package eviction

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Kubelet's annotations of an eviction's event.
const (
	starvedResource          = "starved_resource"
	offendingPod             = "offending_pod"
	offendingPodUsage        = "offending_pod_usage"
	offendingContainers      = "offending_containers"
	offendingContainersUsage = "offending_containers_usage"
)

// quantity shows an amount as kubelet does.
func quantity(name corev1.ResourceName, amount int64) string {
	format := resource.BinarySI
	if name == resourceInodes || name == resourcePids {
		format = resource.DecimalSI
	}
	return resource.NewQuantity(amount, format).String()
}

// explain says in kubelet's words why the pod is evicted: what the node is short of, by which threshold, and which containers
// use more than they request.
func explain(name corev1.ResourceName, pod *Pod, due []Threshold, o Observations) (message string, annotations map[string]string) {
	annotations = map[string]string{}
	var m strings.Builder
	fmt.Fprintf(&m, "The node was low on resource: %v. ", name)
	if i := slices.IndexFunc(due, func(t Threshold) bool { return t.Signal.resource() == name }); i >= 0 {
		if seen, ok := o[due[i].Signal]; ok {
			least := resource.NewQuantity(due[i].Value.Of(seen.Capacity), resource.BinarySI).String()
			if due[i].Value.Part == 0 {
				least = due[i].Value.text
			}
			fmt.Fprintf(&m, "Threshold quantity: %s, available: %s. ", least, quantity(name, seen.Available))
		}
	}
	if name == corev1.ResourceMemory && resourcehelper.IsPodLevelResourcesSet(pod.Pod) && !pod.NotMeasured {
		if request, ok := pod.Spec.Resources.Requests[name]; ok {
			used := quantity(name, pod.Memory)
			fmt.Fprintf(&m, "Pod %s was using %s, request is %s, has larger consumption of %v. ", pod.Name, used, &request, name)
			annotations[offendingPod], annotations[offendingPodUsage] = pod.Name, used
		}
	}
	var names, usages []string
	for _, c := range pod.Containers {
		amount := int64(0)
		switch name {
		case corev1.ResourceMemory:
			amount = c.Memory
		case corev1.ResourceEphemeralStorage:
			amount = c.Disk
		}
		request := containerRequest(pod.Pod, c.Name, name)
		if used := resource.NewQuantity(amount, resource.BinarySI); used.Cmp(request) > 0 {
			fmt.Fprintf(&m, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, used, &request, name)
			names, usages = append(names, c.Name), append(usages, used.String())
		}
	}
	annotations[offendingContainers] = strings.Join(names, ",")
	annotations[offendingContainersUsage] = strings.Join(usages, ",")
	annotations[starvedResource] = string(name)
	return m.String(), annotations
}

func containerRequest(pod *corev1.Pod, container string, name corev1.ResourceName) (request resource.Quantity) {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == container {
				return list[i].Resources.Requests[name]
			}
		}
	}
	return request
}
