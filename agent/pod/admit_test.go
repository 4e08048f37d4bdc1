package pod_test

import (
	"os"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// A pod that asks for a kernel parameter of the host is rejected before anything is created for it, as kubelet
// rejects it (CVE-2022-0811), also by an agent that has restarted.
func TestForbiddenSysctls(t *testing.T) {
	c := newCluster(t, nil)
	const file = "/proc/sys/kernel/core_pipe_limit"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{"dots": "kernel.core_pipe_limit", "slashes": "kernel/core_pipe_limit"} {
		c.create(newPod(name, func(spec *corev1.PodSpec) {
			spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: s, Value: "7"}}}
		}))
	}
	check := func(name string) {
		t.Helper()
		p := c.await(name, "rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		const why = `forbidden sysctl: "kernel.core_pipe_limit" not allowlisted`
		if p.Status.Reason != "SysctlForbidden" || p.Status.Message != "Pod was rejected: "+why || len(p.Status.ContainerStatuses) != 0 {
			t.Errorf("%s: %s: %s; %d containers", name, p.Status.Reason, p.Status.Message, len(p.Status.ContainerStatuses))
		}
		c.awaitEvent("Warning SysctlForbidden " + why)
	}
	check("dots")
	check("slashes")
	c.restartAgent(func() {})
	c.create(newPod("allowed", func(spec *corev1.PodSpec) {
		spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{
			{Name: "net.ipv4.ip_local_port_range", Value: "20000 30000"}, {Name: "kernel/shm_rmid_forced", Value: "1"},
		}}
		spec.Containers[0] = container("main", "cd /proc/sys; set -- $(cat net/ipv4/ip_local_port_range kernel/shm_rmid_forced); echo $@ > /dev/termination-log; exit 1")
		spec.RestartPolicy = corev1.RestartPolicyNever
	}))
	p := c.await("allowed", "ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := p.Status.ContainerStatuses; len(s) != 1 || s[0].State.Terminated == nil || s[0].State.Terminated.Message != "20000 30000 1\n" {
		t.Errorf("allowed parameters: %s", describe(p))
	}
	check("dots")
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the host's %s was %q and is %q (%v)", file, before, after, err)
	}
	if sandboxes := c.node.Sandboxes(); len(sandboxes) != 1 {
		t.Errorf("namespaces of %v", sandboxes)
	}
}

// A pod that asks for a port of the node's own programs is rejected as kubelet does where ports are taken.
func TestHostPortsOfTheNodeAreRefused(t *testing.T) {
	c := newCluster(t, nil)
	c.create(newPod("thief", func(spec *corev1.PodSpec) {
		spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8443, HostPort: 10250, Protocol: corev1.ProtocolTCP}}
	}))
	p := c.await("thief", "rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	const why = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports: 0.0.0.0:10250/TCP is for this node's own programs"
	if p.Status.Reason != "NodePorts" || p.Status.Message != "Pod was rejected: "+why {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
	c.awaitEvent("Warning NodePorts " + why)
}
