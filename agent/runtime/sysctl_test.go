package runtime_test

import (
	"os"
	"strings"
	"testing"

	"github.com/skep-io/skep/agent/runtime"
)

// Whatever a pod asks for, nothing of the host changes: kernel.core_pattern of the host, set by a pod, was root on the host
// (CVE-2022-0811, where + joined a second parameter to an allowed one). The list of what is allowed is asked elsewhere; this is
// what stands when it errs.
func TestSysctlsStayInThePod(t *testing.T) {
	n := startNode(t)
	host := func(path string) string {
		t.Helper()
		data, err := os.ReadFile("/proc/sys/" + path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := map[string]string{}
	for _, path := range []string{"kernel/core_pipe_limit", "kernel/core_pattern", "kernel/shmmni", "net/core/somaxconn", "kernel/domainname", "vm/max_map_count", "net/ipv4/tcp_mem", "user/max_user_namespaces"} {
		before[path] = host(path)
	}
	own, _, err := n.CreateSandbox(runtime.SandboxConfig{PodUID: "own", Hostname: "own"})
	if err != nil {
		t.Fatal(err)
	}
	nodes, _, err := n.CreateSandbox(runtime.SandboxConfig{PodUID: "nodes", Hostname: "nodes", HostNetwork: true, HostIPC: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		sandbox     runtime.Sandbox
		name, value string
	}{
		{own, "kernel.core_pipe_limit", "7"},
		{own, "kernel/core_pipe_limit", "7"},
		{own, "kernel.core_pattern", "|/bin/true"},
		{own, "vm.max_map_count", "65531"},
		{own, "user.max_user_namespaces", "3"},
		{own, "net.ipv4.tcp_mem", "1 2 3"}, // of the machine, though its name begins with net
		{own, "net.ipv4.conf.../../kernel/core_pipe_limit", "7"},
		{own, "kernel.shmmni+kernel.core_pipe_limit", "7"},
		{own, "kernel.shmmni=9\nkernel.core_pipe_limit", "7"},
		{own, "/proc/sys/kernel/core_pipe_limit", "7"},
		{nodes, "kernel.shmmni", "1234"},
		{nodes, "net.core.somaxconn", "1234"},
	} {
		if err := n.SetSysctls(c.sandbox, []runtime.Sysctl{{Name: c.name, Value: c.value}}); err == nil {
			t.Errorf("%q was set to %q in the pod %s", c.name, c.value, c.sandbox.PodUID)
		}
	}
	// Its own are set, in both forms of the name.
	if err := n.SetSysctls(own, []runtime.Sysctl{
		{Name: "kernel.shmmni", Value: "1234"}, {Name: "net/core/somaxconn", Value: "1234"}, {Name: "net.ipv4.tcp_rmem", Value: "4096 65536 65536"}, {Name: "kernel.domainname", Value: "example"},
	}); err != nil {
		t.Fatal(err)
	}
	for path, value := range before {
		if now := host(path); now != value {
			t.Errorf("the host's %s was %q and is %q", path, value, now)
		}
	}
	c := run(t, n, "own", "main", func(c *runtime.ContainerConfig) {
		c.Sandbox = own
		c.Command = []string{"sh", "-c", "cd /proc/sys; cat kernel/shmmni net/core/somaxconn net/ipv4/tcp_rmem kernel/domainname"}
	})
	waitExit(t, n, c.ID)
	if got, want := strings.Join(strings.Fields(n.Logs.Text(c.ID)), " "), "1234 1234 4096 65536 65536 example"; got != want {
		t.Errorf("the pod sees %q, want %q", got, want)
	}
	// Once in its life: what a privileged container has changed since stays through a restart of the agent.
	if err := n.SetSysctls(own, []runtime.Sysctl{{Name: "kernel.shmmni", Value: "no number"}}); err != nil {
		t.Errorf("written again: %v", err)
	}
}
