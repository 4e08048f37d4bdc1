package eviction

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/stats"
	"github.com/skep-io/skep/agent/usage"
)

// HostConfig says what is measured of a node.
type HostConfig struct {
	// Cgroup is the node's, if several nodes share a machine: only its processes count. "/" for a node that is a whole
	// machine.
	Cgroup string
	// PodsCgroup is that of all pods, and PodsMemory the memory that they may use together.
	PodsCgroup string
	PodsMemory int64
	Capacity   Capacity
	StateDir   string // on nodefs
	// ImageFolder is on imagefs.
	ImageFolder func(context.Context) (string, error)
	// Pods are those that have not ended, Usages what they use.
	Pods   func() []*corev1.Pod
	Usages func(context.Context) []stats.Sampled
	// Disk is a pod's disk use; ok is false if unknown.
	Disk func(uid string) (disk usage.Pod, ok bool)
}

// Capacity is the node's total.
type Capacity struct{ Memory, Pids int64 }

// Host measures a node by its kernel's files.
type Host struct {
	cfg       HostConfig
	hierarchy *stats.Hierarchy

	mu        sync.Mutex
	cgroups   map[string]*stats.Cgroup // whose files are open
	buf       []byte
	images    string // folder on imagefs
	ownImages bool
}

// imageFolderTimeout bounds the request to containerd, which is repeated until it has answered once.
const imageFolderTimeout = 2 * time.Second

// NewHost measures nothing yet.
func NewHost(cfg HostConfig) (*Host, error) {
	h, err := stats.DetectHierarchy("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	return &Host{cfg: cfg, hierarchy: h, cgroups: map[string]*stats.Cgroup{}, buf: make([]byte, 16<<10)}, nil
}

// Close closes the files of cgroups.
func (h *Host) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for path, c := range h.cgroups {
		c.Close()
		delete(h.cgroups, path)
	}
}

// OwnImages implements Node.
func (h *Host) OwnImages() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ownImages
}

// Observe implements Node.
func (h *Host) Observe(ctx context.Context) (Observations, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := Observations{}
	return o, errors.Join(h.observeMemory(o), h.observePods(o), h.observeDisks(ctx, o))
}

// observeMemory measures memory and processes: of the machine, or of the node's cgroup.
func (h *Host) observeMemory(o Observations) error {
	c := h.cfg.Capacity
	if h.cfg.Cgroup != "/" {
		u, err := h.usage(h.cfg.Cgroup)
		if err != nil && !errors.Is(err, stats.ErrGone) { // a missing cgroup uses nothing
			return err
		}
		o[MemoryAvailable] = Observation{max(c.Memory-int64(u.WorkingSet), 0), c.Memory}
		o[PIDAvailable] = Observation{max(c.Pids-int64(u.Processes), 0), c.Pids}
		return nil
	}
	available, err := memAvailable()
	if err == nil {
		o[MemoryAvailable] = Observation{available, c.Memory}
	}
	running, failed := processes()
	if failed == nil {
		o[PIDAvailable] = Observation{max(c.Pids-running, 0), c.Pids}
	}
	return errors.Join(err, failed)
}

// observePods measures the memory of all pods together.
func (h *Host) observePods(o Observations) error {
	if h.cfg.PodsMemory <= 0 {
		return nil
	}
	u, err := h.usage(h.cfg.PodsCgroup)
	if err != nil && !errors.Is(err, stats.ErrGone) {
		return err
	}
	o[AllocatableMemory] = Observation{max(h.cfg.PodsMemory-int64(u.WorkingSet), 0), h.cfg.PodsMemory}
	return nil
}

func (h *Host) usage(path string) (u stats.Usage, err error) {
	c := h.cgroups[path]
	if c == nil {
		if c, err = h.hierarchy.Open(path); err != nil {
			return u, err
		}
		h.cgroups[path] = c
	}
	if u, err = c.Read(h.buf, false); err != nil {
		c.Close()
		delete(h.cgroups, path)
	}
	return u, err
}

func (h *Host) observeDisks(ctx context.Context, o Observations) error {
	device, err := observeDisk(o, h.cfg.StateDir, NodeFsAvailable, NodeFsInodesFree)
	if err != nil {
		return err
	}
	if h.images == "" {
		ctx, cancel := context.WithTimeout(ctx, imageFolderTimeout)
		defer cancel()
		if h.images, err = h.cfg.ImageFolder(ctx); err != nil {
			return err
		}
	}
	images, err := observeDisk(o, h.images, ImageFsAvailable, ImageFsInodesFree)
	h.ownImages = err == nil && images != device
	return err
}

// observeDisk returns the device of the folder's file system. One without a fixed number of inodes is never short of them.
func observeDisk(o Observations, dir string, room, inodes Signal) (device uint64, err error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("room on the file system of %s: %w", dir, err)
	}
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("file system of %s: %w", dir, err)
	}
	o[room] = Observation{int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize}
	if fs.Files > 0 {
		o[inodes] = Observation{int64(fs.Ffree), int64(fs.Files)}
	}
	return st.Dev, nil
}

// Pods implements Node.
func (h *Host) Pods(ctx context.Context) []Pod {
	type key struct{ uid, container string }
	used := map[key]stats.Usage{}
	running := map[string]bool{}
	for _, s := range h.cfg.Usages(ctx) {
		used[key{s.Pod.UID, s.Container}] = s.Usage
		running[s.Pod.UID] = true
	}
	var list []Pod
	for _, obj := range h.cfg.Pods() {
		uid := string(obj.UID)
		p := Pod{Pod: obj}
		total, measured := used[key{uid, ""}]
		p.Memory, p.Processes, p.NotMeasured = int64(total.WorkingSet), int64(total.Processes), running[uid] && !measured
		disk, ok := h.cfg.Disk(uid)
		p.Disk, p.DiskNotMeasured = diskOf(disk), !ok
		for _, containers := range [][]corev1.Container{obj.Spec.Containers, obj.Spec.InitContainers} {
			for _, c := range containers {
				p.Containers = append(p.Containers, Container{c.Name, int64(used[key{uid, c.Name}].WorkingSet), int64(disk.Container(c.Name).Bytes)})
			}
		}
		list = append(list, p)
	}
	return list
}

// diskOf separates the containers' writable layers, which are on the images' disk, from the rest.
func diskOf(used usage.Pod) (disk Disk) {
	for key, amount := range used.Trees {
		of := &disk.State
		switch key.Kind {
		case usage.Memory:
			continue
		case usage.Layer:
			of = &disk.Images
		}
		of.Bytes, of.Inodes = of.Bytes+int64(amount.Bytes), of.Inodes+int64(amount.Inodes)
	}
	return disk
}

// memAvailable is the kernel's own estimate of available memory, as in the node's statistics: unlike kubelet's sum it does not
// count the active page cache as unavailable (kubernetes 43916).
func memAvailable() (int64, error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}

// processes reads the second half of loadavg's "running/all": it counts threads, which use the same IDs.
func processes() (int64, error) {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0, err
	}
	if fields := strings.Fields(string(data)); len(fields) > 3 {
		if _, all, ok := strings.Cut(fields[3], "/"); ok {
			return strconv.ParseInt(all, 10, 64)
		}
	}
	return 0, fmt.Errorf("/proc/loadavg is %q: the number of processes is not in it", data)
}
