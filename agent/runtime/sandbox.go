package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"sort"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/cgroup"
	"github.com/skep-io/skep/agent/confine"
)

// SandboxConfig configures a pod's namespaces and cgroup.
type SandboxConfig struct {
	PodUID   string
	Hostname string
	// HostNetwork and HostIPC mean the node's namespace instead of a new one.
	HostNetwork, HostIPC bool
	// Users, if not 0, are the pod's own IDs; the pod is then in neither of these namespaces of the
	// node.
	Users Users
	// QOS is the pod's class of service, Limits what its containers may use together.
	QOS    corev1.PodQOSClass
	Limits cgroup.Limits
}

// Sandbox is a pod's set of pinned namespaces. An empty path means the
// node's own namespace.
type Sandbox struct {
	PodUID string
	NetNS  string
	IPCNS  string
	UTSNS  string
	UserNS string
	Users  Users  // of the user namespace
	Shm    string // a tmpfs that all containers of the pod see at /dev/shm
	Cgroup string // of the whole pod, as a path under each hierarchy's root
	QOS    corev1.PodQOSClass
}

const shmSize = "size=67108864"

func (r *Runtime) sandboxDir(podUID string) string {
	return filepath.Join(r.cfg.RunDir, "pods", podUID)
}

// CreateSandbox makes the pod's cgroup and its pinned namespaces, or returns those that are there
// already. An incomplete set (the agent ended in between) is removed and made again: no container
// can have joined it.
func (r *Runtime) CreateSandbox(c SandboxConfig) (Sandbox, bool, error) {
	dir := r.sandboxDir(c.PodUID)
	s := Sandbox{PodUID: c.PodUID, QOS: c.QOS, UTSNS: filepath.Join(dir, "ns", "uts"), Shm: filepath.Join(dir, "shm")}
	if !c.HostNetwork {
		s.NetNS = filepath.Join(dir, "ns", "net")
	}
	if c.HostIPC {
		s.Shm = "/dev/shm"
	} else {
		s.IPCNS = filepath.Join(dir, "ns", "ipc")
	}
	if s.Users = c.Users; s.Users != 0 {
		if c.HostNetwork || c.HostIPC {
			return s, false, errors.New("a pod with a user namespace of its own cannot be in the node's network or IPC namespace")
		}
		s.UserNS = filepath.Join(dir, "ns", "user")
	}
	if s.complete() {
		err := r.makeCgroup(&s, c)
		return s, false, err
	}
	if err := r.RemoveSandbox(c.PodUID); err != nil {
		return s, false, err
	}
	if err := r.makeCgroup(&s, c); err != nil {
		return s, false, err
	}
	if err := os.MkdirAll(filepath.Join(dir, "ns"), 0o711); err != nil {
		return s, false, fmt.Errorf("pod namespaces: %w", err)
	}
	if !c.HostIPC {
		if err := os.MkdirAll(s.Shm, 0o1777); err != nil {
			return s, false, fmt.Errorf("pod shared memory: %w", err)
		}
		if err := unix.Mount("shm", s.Shm, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=1777,uid=%d,gid=%d,%s", s.Users, s.Users, shmSize)); err != nil {
			return s, false, fmt.Errorf("mount pod shared memory at %s: %w", s.Shm, err)
		}
	}
	result := make(chan error, 1)
	create := makeNamespaces
	if s.Users != 0 {
		create = makeOwnedNamespaces
	}
	go func() { result <- create(s, c) }()
	if err := <-result; err != nil {
		return s, false, errors.Join(err, r.RemoveSandbox(c.PodUID))
	}
	return s, true, nil
}

// makeCgroup makes the pod's cgroup, or updates the limits of an existing one.
func (r *Runtime) makeCgroup(s *Sandbox, c SandboxConfig) (err error) {
	if s.Cgroup, err = r.cgroups.EnsurePod(c.PodUID, c.QOS, c.Limits); err != nil {
		return fmt.Errorf("pod cgroup: %w", err)
	}
	return nil
}

// complete says whether every pin is a namespace. The UTS pin is made last,
// so its presence proves the others.
func (s Sandbox) complete() bool {
	for _, path := range []string{s.UserNS, s.NetNS, s.IPCNS, s.UTSNS} {
		if path != "" && !isNamespace(path) {
			return false
		}
	}
	return true
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// The main thread stays with the main goroutine: it cannot end with a goroutine that has moved it
// to a pod's namespaces, and /proc/self would show those.
func init() { goruntime.LockOSThread() }

// makeNamespaces runs on a goroutine of its own and never unlocks its thread: the thread is in the
// new namespaces and must end with the goroutine.
func makeNamespaces(s Sandbox, c SandboxConfig) error {
	goruntime.LockOSThread()
	flags := unix.CLONE_NEWUTS
	if s.NetNS != "" {
		flags |= unix.CLONE_NEWNET
	}
	if s.IPCNS != "" {
		flags |= unix.CLONE_NEWIPC
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("create pod namespaces: %w", err)
	}
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", c.Hostname, err)
	}
	if s.NetNS != "" {
		if err := setUpNetNS(); err != nil {
			return err
		}
	}
	task := fmt.Sprintf("/proc/self/task/%d/ns/", unix.Gettid())
	for _, p := range []struct{ kind, path string }{{"net", s.NetNS}, {"ipc", s.IPCNS}, {"uts", s.UTSNS}} {
		if p.path == "" {
			continue
		}
		if err := pin(task+p.kind, p.path); err != nil {
			return err
		}
	}
	return nil
}

func setUpNetNS() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("pod loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("pod loopback up: %w", err)
	}
	// Containers may bind low ports and ping without a capability, as is the default with other
	// runtimes.
	for name, value := range map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	} {
		if err := setSysctl(Sandbox{NetNS: "the thread's"}, Sysctl{name, value}, -1); err != nil {
			return err
		}
	}
	return nil
}

// RemoveSandbox removes the pod's cgroup folders, with what still runs in them, its pins and shared memory. What is missing is no
// error.
func (r *Runtime) RemoveSandbox(podUID string) error {
	r.reapPod(podUID, true)
	if err := r.cgroups.RemovePod(podUID); err != nil {
		return err
	}
	// This also detaches the pins and the shared memory.
	if err := confine.RemoveAll(r.sandboxDir(podUID)); err != nil {
		return fmt.Errorf("remove pod run folder: %w", err)
	}
	return nil
}

// NetNamespaces lists the paths of pods' pinned network namespaces; some may have been removed
// meanwhile.
func (r *Runtime) NetNamespaces() []string {
	var paths []string
	for _, uid := range r.Sandboxes() {
		paths = append(paths, r.NetNamespace(uid))
	}
	return paths
}

// Sandboxes lists the UIDs of pods that have a run folder.
func (r *Runtime) Sandboxes() []string {
	entries, err := os.ReadDir(filepath.Join(r.cfg.RunDir, "pods"))
	if err != nil {
		return nil
	}
	uids := make([]string, 0, len(entries))
	for _, e := range entries {
		uids = append(uids, e.Name())
	}
	return uids
}

// PodUIDs lists every pod that has anything on this node: containers, records, a state folder,
// pinned namespaces, or cgroup folders.
func (r *Runtime) PodUIDs() []string {
	seen := map[string]bool{}
	for _, c := range r.Containers() {
		seen[c.PodUID] = true
	}
	for _, uid := range append(r.Sandboxes(), r.cgroups.Pods()...) {
		seen[uid] = true
	}
	for _, dir := range []string{filepath.Dir(r.PodDir("uid")), filepath.Dir(r.VolumeRecordDir("uid"))} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), ".") {
				seen[e.Name()] = true
			}
		}
	}
	uids := make([]string, 0, len(seen))
	for uid := range seen {
		uids = append(uids, uid)
	}
	sort.Strings(uids)
	return uids
}
