package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Kernel floor: 6.1 has every helper and link type that the programs need.
const floorMajor, floorMinor = 6, 1

// probe says in one line what the host lacks, before anything is changed.
func probe(o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("loading eBPF programs needs root: run as root")
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("read kernel version: %w", err)
	}
	if err := checkKernel(unix.ByteSliceToString(uts.Release[:]), "/sys/kernel/btf/vmlinux"); err != nil {
		return err
	}
	if err := onFilesystem(o.CgroupPath, unix.CGROUP2_SUPER_MAGIC); err != nil {
		return fmt.Errorf("cgroup %s is not in a cgroup v2 hierarchy: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified` (%w)", o.CgroupPath, err)
	}
	if err := onFilesystem(existingParent(o.PinDir), unix.BPF_FS_MAGIC); err != nil {
		return fmt.Errorf("pin folder %s is not on a BPF filesystem: mount one with `mount -t bpf bpf /sys/fs/bpf` (%w)", o.PinDir, err)
	}
	return nil
}

// checkKernel is given the file that has the kernel's types if it was built with
// them.
func checkKernel(release, types string) error {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return fmt.Errorf("kernel version %q is not understood: %w", release, err)
	}
	if major < floorMajor || (major == floorMajor && minor < floorMinor) {
		return fmt.Errorf("kernel %s is too old: %d.%d or later is needed", release, floorMajor, floorMinor)
	}
	if _, err := os.Stat(types); err != nil {
		return fmt.Errorf("kernel %s has no BTF (%s is missing): use a kernel built with CONFIG_DEBUG_INFO_BTF", release, types)
	}
	return nil
}

func onFilesystem(path string, magic int64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return err
	}
	if stat.Type != magic {
		return fmt.Errorf("filesystem type %#x", stat.Type)
	}
	return nil
}

func existingParent(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == filepath.Dir(path) {
			return path
		}
		path = filepath.Dir(path)
	}
}
