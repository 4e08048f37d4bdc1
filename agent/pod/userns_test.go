package pod_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// Root of a pod with hostUsers: false has no user's ID on the node, and no ID of another pod; it still owns its volumes, files
// and parameters, also after a restart of the agent. That protects the node if a container escapes from its namespaces as root
// (CVE-2019-5736, CVE-2024-21626).
func TestUserNamespace(t *testing.T) {
	c := newCluster(t, nil)
	if !c.node.Features().UserNamespaces {
		t.Fatal("this kernel, runc or file system cannot map IDs")
	}
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "of-root"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	unmasked := corev1.UnmaskedProcMount
	own := func(name, script string) *corev1.Pod {
		return newPod(name, func(spec *corev1.PodSpec) {
			spec.HostUsers = ptr.To(false)
			spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{
				{Name: "kernel.shm_rmid_forced", Value: "1"}, {Name: "net.ipv4.ip_local_port_range", Value: "20000 30000"},
			}}
			spec.Volumes = []corev1.Volume{
				{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: host}}},
				{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
				{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
			}
			spec.Containers[0] = container("main", script)
			spec.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: &unmasked}
			spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "host", MountPath: "/host"}, {Name: "empty", MountPath: "/empty"}, {Name: "memory", MountPath: "/memory"}}
		})
	}
	const script = `exec 2>&1
id -u; stat -c %u /bin/busybox / /etc/hosts /host/of-root /dev/shm | while read n; do echo $n; done
cat /host/of-root > /host/copy; touch /empty/x /memory/x /dev/shm/x /made
stat -c %u /host/copy /empty/x /memory/x /dev/shm/x /made
cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range
echo 7 > /proc/sys/kernel/core_pipe_limit && echo escaped
hostname
trap 'exit 0' TERM; while :; do sleep 1000 & wait $!; done`
	first, second := c.create(own("first", script)), c.create(own("second", "sleep 1000"))
	running := func(p *corev1.Pod) bool { // or says why not
		return p.Status.Phase == corev1.PodRunning || len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Terminated != nil ||
			len(p.Status.ContainerStatuses) > 0 && p.Status.ContainerStatuses[0].State.Waiting != nil && p.Status.ContainerStatuses[0].State.Waiting.Message != ""
	}
	uid := func(name string) int {
		t.Helper()
		p := c.await(name, "running", running)
		for _, ctr := range c.node.Containers() {
			if ctr.PodName != name || ctr.State != runtime.Running {
				continue
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", ctr.Pid))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(status)) {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "Uid:" {
					n, err := strconv.Atoi(f[1])
					if err != nil {
						t.Fatal(err)
					}
					return n
				}
			}
		}
		t.Fatalf("%s: no process: %s", name, describe(p))
		return 0
	}
	one, two := uid("first"), uid("second")
	text := func() string {
		for _, ctr := range c.node.Containers() {
			if ctr.PodName == "first" {
				return c.node.Logs.Text(ctr.ID)
			}
		}
		return ""
	}
	runtimetest.Eventually(t, "the first pod has said all", func() bool { return strings.HasSuffix(text(), "first\n") })
	want := strings.Repeat("0\n", 11) + "1\n20000\t30000\nsh: can't create /proc/sys/kernel/core_pipe_limit: Permission denied\nfirst\n"
	if got := text(); got != want {
		t.Errorf("the first pod said %q, want %q", got, want)
	}
	if one < 65536 || two < 65536 || one%65536 != 0 || two%65536 != 0 || one == two {
		t.Errorf("root of the pods is %d and %d on the node", one, two)
	}
	c.restartAgent(func() {})
	remove := func(p *corev1.Pod) {
		t.Helper()
		if err := c.client.CoreV1().Pods("default").Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		runtimetest.Eventually(t, "the range is free", func() bool {
			_, err := os.Stat(filepath.Join(c.node.PodDir(string(p.UID)), "userns"))
			return os.IsNotExist(err)
		})
	}
	remove(second)
	if again := uid("first"); again != one {
		t.Errorf("after a restart of the agent, root is %d, and was %d", again, one)
	}
	if users, err := c.node.AllocateUsers(string(first.UID)); err != nil || int(users) != one {
		t.Errorf("the pod's range is at %d (%v), its root at %d", users, err, one)
	}
	remove(first)
}
