package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Mount is one file or folder of the node mounted in a container.
type Mount struct {
	Source, Destination string
	ReadOnly            bool
	RecursiveReadOnly   bool   // with all that is mounted below it
	Propagation         string // private (default), rslave, rshared
}

// Security is what a container may do.
type Security struct {
	Privileged, ReadOnlyRootfs bool
	AllowPrivilegeEscalation   bool
	AddCapabilities            []string // without CAP_; ALL means every one
	DropCapabilities           []string
	RunAsUser, RunAsGroup      *int64
	RunAsNonRoot               bool
	SupplementalGroups         []int64 // fsGroup among them
	StrictGroups               bool    // without the groups in the image's files
	Seccomp, AppArmor          Profile
	UnmaskedProc               bool
}

// Resources are limits in the kernel's units; 0 means none.
type Resources struct {
	CPUShares   uint64
	CPUQuota    int64 // microseconds in a period
	CPUPeriod   uint64
	MemoryLimit int64 // bytes
	OOMScoreAdj int
}

// ContainerConfig is the configuration of one container.
type ContainerConfig struct {
	PodNamespace, PodName, PodUID string
	Name                          string
	Attempt                       int
	SpecHash                      string
	Command, Args                 []string
	Env                           []string // replaces the image's of the same name
	WorkingDir                    string
	Stdin, StdinOnce, TTY         bool
	Mounts                        []Mount
	Security                      Security
	Resources                     Resources
	Sandbox                       Sandbox
	HostPID                       bool
	PIDNS                         string // join this PID namespace (shareProcessNamespace)
	TerminationMessagePath        string
	TerminationMessagePolicy      string
}

// specVersion is a version that runc 1.1 and crun 1.8 both accept.
const specVersion = "1.0.2"

var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
	"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// buildSpec returns the OCI spec of a container, by its image and the pod.
func (r *Runtime) buildSpec(c *Container, cfg ContainerConfig, p *Prepared) (*specs.Spec, error) {
	args, err := arguments(cfg, p.image)
	if err != nil {
		return nil, err
	}
	user, err := r.resolveUser(cfg.Security, p)
	if err != nil {
		return nil, err
	}
	score := clampOOMScore(cfg.Resources.OOMScoreAdj)
	process := &specs.Process{
		Terminal: cfg.TTY,
		User:     user,
		Args:     args,
		Env:      environment(cfg, p.image),
		Cwd:      firstOf(cfg.WorkingDir, p.image.config.WorkingDir, "/"),
		// Privilege escalation is on unless the pod turns it off.
		NoNewPrivileges: !cfg.Security.AllowPrivilegeEscalation && !cfg.Security.Privileged,
		Capabilities:    capabilities(cfg.Security, user.UID),
		OOMScoreAdj:     &score,
	}
	spec := &specs.Spec{
		Version:     specVersion,
		Process:     process,
		Root:        &specs.Root{Path: "rootfs", Readonly: cfg.Security.ReadOnlyRootfs},
		Mounts:      r.mounts(c, cfg),
		Annotations: map[string]string{sandboxAnnotation: cfg.PodUID},
		Linux: &specs.Linux{
			CgroupsPath: c.CgroupPath,
			Namespaces:  r.linuxNamespaces(cfg),
			Resources:   r.linuxResources(cfg),
		},
	}
	c.User = &User{UID: user.UID, GID: user.GID, Groups: user.AdditionalGids}
	if err := r.confine(spec, cfg.Security); err != nil {
		return nil, err
	}
	if cfg.Security.Privileged {
		devices, err := hostDevices()
		if err != nil {
			return nil, err
		}
		spec.Linux.Devices = devices
		return spec, nil
	}
	if !cfg.Security.UnmaskedProc {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	return spec, nil
}

// arguments follow the rule of the pod API: a command replaces the image's
// entrypoint and its default arguments, arguments alone only the latter.
func arguments(cfg ContainerConfig, img Image) ([]string, error) {
	var args []string
	switch {
	case len(cfg.Command) > 0:
		args = append(append(args, cfg.Command...), cfg.Args...)
	case len(cfg.Args) > 0:
		args = append(append(args, img.config.Entrypoint...), cfg.Args...)
	default:
		args = append(append(args, img.config.Entrypoint...), img.config.Cmd...)
	}
	if len(args) == 0 {
		return nil, &ConfigError{ErrNoCommand}
	}
	return args, nil
}

// defaultPath is for images that set no PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func environment(cfg ContainerConfig, img Image) []string {
	var env []string
	index := map[string]int{}
	set := func(kv string) {
		name, _, _ := strings.Cut(kv, "=")
		if i, ok := index[name]; ok {
			env[i] = kv
			return
		}
		index[name] = len(env)
		env = append(env, kv)
	}
	set(defaultPath)
	if cfg.TTY {
		set("TERM=xterm")
	}
	for _, kv := range img.config.Env {
		set(kv)
	}
	for _, kv := range cfg.Env {
		set(kv)
	}
	return env
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func capabilities(s Security, uid uint32) *specs.LinuxCapabilities {
	set := map[string]bool{}
	add := func(names []string) {
		for _, name := range names {
			set[name] = true
		}
	}
	if s.Privileged {
		add(allCapabilities())
	} else {
		add(defaultCapabilities)
		for _, name := range s.DropCapabilities {
			if strings.EqualFold(name, "ALL") {
				clear(set)
			}
		}
		for _, name := range s.AddCapabilities {
			if strings.EqualFold(name, "ALL") {
				add(allCapabilities())
			} else {
				set[capabilityName(name)] = true
			}
		}
		for _, name := range s.DropCapabilities {
			delete(set, capabilityName(name))
		}
	}
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	caps := &specs.LinuxCapabilities{Bounding: names}
	if uid == 0 || s.Privileged {
		caps.Effective, caps.Permitted = names, names
	}
	return caps
}

func capabilityName(name string) string {
	name = strings.ToUpper(name)
	if strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

func (r *Runtime) linuxNamespaces(cfg ContainerConfig) []specs.LinuxNamespace {
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.UTSNamespace, Path: cfg.Sandbox.UTSNS}}
	if cfg.Sandbox.UserNS != "" {
		list = append(list, specs.LinuxNamespace{Type: specs.UserNamespace, Path: cfg.Sandbox.UserNS})
	}
	if cfg.Sandbox.NetNS != "" {
		list = append(list, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: cfg.Sandbox.NetNS})
	}
	if cfg.Sandbox.IPCNS != "" {
		list = append(list, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: cfg.Sandbox.IPCNS})
	}
	switch {
	case cfg.HostPID:
	case cfg.PIDNS != "":
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: cfg.PIDNS})
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if r.cgroups.Unified() {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return list
}

func (r *Runtime) linuxResources(cfg ContainerConfig) *specs.LinuxResources {
	res := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: cfg.Security.Privileged, Access: "rwm"}}}
	if !cfg.Security.Privileged {
		res.Devices = append(res.Devices, defaultDevices()...)
	}
	cpu := &specs.LinuxCPU{}
	if n := cfg.Resources.CPUShares; n > 0 {
		cpu.Shares = &n
	}
	if quota, period := cfg.Resources.CPUQuota, cfg.Resources.CPUPeriod; quota > 0 {
		cpu.Quota, cpu.Period = &quota, &period
	}
	res.CPU = cpu
	if n := cfg.Resources.MemoryLimit; n > 0 {
		// No swap beyond the memory limit, which would otherwise limit nothing.
		swap := n
		res.Memory = &specs.LinuxMemory{Limit: &n, Swap: &swap}
	}
	if r.cgroups.Unified() {
		// If the out-of-memory killer kills one process of a container, it kills all.
		res.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return res
}

// defaultDevices may be used by any container; runc creates their device files.
func defaultDevices() []specs.LinuxDeviceCgroup {
	device := func(major, minor int64) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"}
	}
	all := int64(-1)
	list := []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Major: &all, Minor: &all, Access: "m"},
		{Allow: true, Type: "b", Major: &all, Minor: &all, Access: "m"},
		device(1, 3), device(1, 8), device(1, 7), device(5, 0), device(1, 5), device(1, 9), device(5, 1), device(5, 2),
	}
	pts := int64(136)
	return append(list, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &pts, Minor: &all, Access: "rwm"})
}

// mounts are the kernel's file systems first, then the pod's volumes from
// the shallowest path to the deepest, so that none hides another.
func (r *Runtime) mounts(c *Container, cfg ContainerConfig) []specs.Mount {
	sys, cgroup := "ro", "ro"
	if cfg.Security.Privileged {
		sys, cgroup = "rw", "rw"
	}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sys}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", cgroup}},
		{Destination: "/dev/shm", Type: "bind", Source: cfg.Sandbox.Shm, Options: []string{"rbind", "rprivate"}},
	}
	pod := append([]Mount(nil), cfg.Mounts...)
	if cfg.TerminationMessagePath != "" {
		pod = append(pod, Mount{Source: r.messagePath(c), Destination: cfg.TerminationMessagePath})
	}
	sort.SliceStable(pod, func(i, j int) bool {
		return strings.Count(filepath.Clean(pod[i].Destination), "/") < strings.Count(filepath.Clean(pod[j].Destination), "/")
	})
	for _, m := range pod {
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
		}
		options := []string{"rbind", firstOf(m.Propagation, "rprivate"), mode}
		if m.RecursiveReadOnly {
			options = append(options, "rro")
		}
		list = append(list, specs.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options})
	}
	return list
}

// hostDevices are the node's device files, for privileged containers.
func hostDevices() ([]specs.LinuxDevice, error) {
	var list []specs.LinuxDevice
	err := filepath.WalkDir("/dev", func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return nil // the device was removed meanwhile
		}
		switch path {
		case "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd":
			return filepath.SkipDir
		case "/dev/console":
			return nil
		}
		if device, ok := deviceOf(path, entry); ok {
			list = append(list, device)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	return list, nil
}
