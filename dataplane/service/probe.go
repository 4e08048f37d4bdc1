package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/kernelfloor"
)

// probe says in one line what the host lacks, before anything is changed.
func probe(o Options) error {
	if os.Geteuid() != 0 {
		return errors.New("loading eBPF programs needs root: run as root")
	}
	if err := kernelfloor.Check(); err != nil {
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
