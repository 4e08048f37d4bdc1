package controlplane

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/scheme"
)

// dnsViews are the keys that cluster DNS may read, and which parts of their values: only what answers are made from.
var dnsViews = map[string]etcd.View{
	kinds.Services.Prefix():       nil,
	kinds.EndpointSlices.Prefix(): nil,
	kinds.Namespaces.Prefix():     nil,
	kinds.Pods.Prefix():           podForDNS,
}

// podForDNS keeps only a pod's name and addresses: its environment, commands and annotations hold secrets of users.
func podForDNS(value []byte) []byte {
	obj, err := scheme.Codec.Decode(value, 0)
	if err != nil {
		return nil
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	seen := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Spec:       corev1.PodSpec{Hostname: pod.Spec.Hostname, Subdomain: pod.Spec.Subdomain, HostNetwork: pod.Spec.HostNetwork},
		Status:     corev1.PodStatus{Phase: pod.Status.Phase, PodIP: pod.Status.PodIP, PodIPs: pod.Status.PodIPs},
	}
	seen.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	reduced, err := scheme.Codec.Encode(seen)
	if err != nil {
		return nil
	}
	return reduced
}
