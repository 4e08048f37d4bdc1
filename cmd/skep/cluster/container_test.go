package cluster

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/cmd/skep/images"
)

// A container of a host's own containerd is in the host's cgroup in every
// hierarchy, ends with the host, and leaves no folder, mount or process.
func TestContainersDieWithTheirHost(t *testing.T) {
	c := hosts(t, 1)
	n := node(t, c, "node1")
	run := func(argv ...string) string {
		t.Helper()
		var out bytes.Buffer
		if err := n.Exec(t.Context(), ExecOptions{Stdout: &out, Stderr: &out}, argv...); err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out.String())
		}
		return strings.TrimSpace(out.String())
	}
	shell, err := images.ShellImage()
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(n.StateDir(), "shell.tar")
	if err := images.WriteFile(archive, shell); err != nil {
		t.Fatal(err)
	}
	run("sh", "-c", "containerd --root "+n.StateDir()+"/containerd --state /run/containerd --address /run/containerd.sock >/dev/null 2>&1 &")
	ctr := func(argv ...string) string {
		t.Helper()
		return run(append([]string{"ctr", "--address", "/run/containerd.sock", "--connect-timeout", "20s"}, argv...)...)
	}
	// Between its socket and its first answer, containerd refuses connections, which --connect-timeout does not wait for.
	run("sh", "-c", "for i in $(seq 300); do ctr --address /run/containerd.sock version >/dev/null 2>&1 && exit 0; sleep 0.1; done; echo containerd does not answer; exit 1")
	ctr("images", "import", archive)
	image := ctr("images", "list", "-q") // as containerd writes the name in full
	cgroup := nodeCgroup(c.Name, "node1") + "/pods/p/c"
	ctr("run", "-d", "--cgroup", cgroup, "--memory-limit", "33554432", image, "c", "/bin/sleep", "1000")
	fields := strings.Fields(ctr("tasks", "list", "-q"))
	if len(fields) != 1 || fields[0] != "c" {
		t.Fatalf("tasks: %v", fields)
	}
	members, err := os.ReadFile(filepath.Join(c.cgroups.v2, cgroup, "cgroup.procs"))
	if err != nil || len(strings.Fields(string(members))) != 1 {
		t.Fatalf("the container's v2 cgroup has %q, %v; want one process", members, err)
	}
	for _, root := range c.cgroups.all() {
		if _, err := os.Stat(filepath.Join(root, cgroup)); err != nil {
			t.Errorf("the container has no folder in a hierarchy, so its removal would prove nothing: %v", err)
		}
	}
	var mounted unix.Statfs_t
	rootfs := "/run/containerd/io.containerd.runtime.v2.task/default/c/rootfs"
	inside, err := n.HostPath(rootfs)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(inside, &mounted); err != nil || mounted.Type != unix.OVERLAYFS_SUPER_MAGIC {
		t.Errorf("the container's root as the host sees it: type %x, %v; want an overlay", mounted.Type, err)
	}
	if err := unix.Statfs(rootfs, &mounted); err == nil {
		t.Error("the host's mounts show on the machine")
	}

	if err := n.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if populated, err := c.cgroups.populated(clusterCgroup(c.Name)); err != nil || populated {
		t.Errorf("after the kill the cgroup is populated: %v, %v", populated, err)
	}
	if err := Down(t.Context(), c.Name, c.Dir, t.Output()); err != nil {
		t.Fatal(err)
	}
	requireGone(t, c)
}
