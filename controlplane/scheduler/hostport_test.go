package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// TestHostPorts places a pod beside one that has a host port: they conflict if port and
// protocol are the same and the addresses overlap.
func TestHostPorts(t *testing.T) {
	port := func(ip string, protocol corev1.Protocol, number int32) corev1.ContainerPort {
		return corev1.ContainerPort{ContainerPort: 80, HostPort: number, HostIP: ip, Protocol: protocol}
	}
	with := func(name string, ports ...corev1.ContainerPort) *corev1.Pod {
		pod := testPod(name, "app", 1, 0)
		pod.Spec.Containers[0].Ports = ports
		return pod
	}
	initWith := func(restart *corev1.ContainerRestartPolicy, p corev1.ContainerPort) *corev1.Pod {
		pod := testPod("wants", "app", 1, 0)
		pod.Spec.InitContainers = []corev1.Container{{Name: "i", RestartPolicy: restart, Ports: []corev1.ContainerPort{p}}}
		return pod
	}
	have := with("has", port("10.0.0.1", corev1.ProtocolTCP, 8080), port("", corev1.ProtocolUDP, 53), port("::1", corev1.ProtocolTCP, 9090))
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		fits bool
	}{
		"the same":                 {with("wants", port("10.0.0.1", corev1.ProtocolTCP, 8080)), false},
		"the same, at all":         {with("wants", port("", "", 8080)), false},
		"another address":          {with("wants", port("10.0.0.2", corev1.ProtocolTCP, 8080)), true},
		"loopback":                 {with("wants", port("127.0.0.1", corev1.ProtocolTCP, 8080)), true},
		"another protocol":         {with("wants", port("10.0.0.1", corev1.ProtocolUDP, 8080)), true},
		"another port":             {with("wants", port("10.0.0.1", corev1.ProtocolTCP, 8081)), true},
		"one address of all":       {with("wants", port("10.0.0.9", corev1.ProtocolUDP, 53)), false},
		"all, of another protocol": {with("wants", port("", corev1.ProtocolSCTP, 53)), true},
		"all IPv6":                 {with("wants", port("::", corev1.ProtocolTCP, 9090)), false},
		"no host port":             {with("wants", port("", corev1.ProtocolTCP, 0)), true},
		"one of several":           {with("wants", port("", corev1.ProtocolTCP, 1), port("", corev1.ProtocolUDP, 53)), false},
		"a sidecar":                {initWith(ptr.To(corev1.ContainerRestartPolicyAlways), port("", corev1.ProtocolUDP, 53)), false},
		"an init container":        {initWith(nil, port("", corev1.ProtocolUDP, 53)), true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(DefaultConfiguration())
			c.setNode(testNode("node1", "", 1000, 10))
			bound := have.DeepCopy()
			bound.Spec.NodeName = "node1"
			c.place(newRequest(bound))
			choose := func() bool {
				c.mu.Lock()
				defer c.mu.Unlock()
				h, _ := c.choose(newRequest(tc.pod))
				return h != nil
			}
			if got := choose(); got != tc.fits {
				t.Errorf("fits is %v, want %v", got, tc.fits)
			}
			// When the other pod is removed, its ports are free.
			c.free(bound)
			if !choose() {
				t.Error("does not fit alone")
			}
		})
	}
}
