package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A bare host is a machine before Skep is installed: no agent is started on it,
// what is written to its /etc, /usr/local and /var/lib stays on its own disk, and
// its programs have a cgroup root of their own, so that their paths are the same
// as on any other machine.

// overlaid folders show the machine's files and keep what the host writes.
var overlaid = []string{"/etc", "/usr/local"}

// fresh folders start empty: the data of the machine's own services is not the
// host's, and container snapshots cannot be on an overlay.
var fresh = []string{"/var/lib"}

// isolateBare is the first half of a bare host's first process. It ends by
// executing itself: a cgroup namespace begins at the cgroups of the process that
// makes it, and holds for one thread until then. false: this was done already.
func isolateBare(config *hostConfig) (bool, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false, err
	}
	if !strings.Contains(string(self), "0::"+config.Cgroup+"\n") {
		return false, nil
	}
	roots, err := findCgroups()
	if err != nil {
		return false, err
	}
	for _, root := range append(roots.v1, roots.named...) {
		if err := joinV1Cgroup(root, config.Cgroup); err != nil {
			return false, err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return false, fmt.Errorf("make mounts private: %w", err)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return false, fmt.Errorf("cgroup namespace: %w", err)
	}
	if err := mountOwnCgroups(roots); err != nil {
		return false, err
	}
	return true, leaveCgroupRoot(roots)
}

// joinV1Cgroup moves this process. A cpuset folder accepts none before it has CPUs and memory nodes.
func joinV1Cgroup(root, cgroup string) error {
	folder := root
	for _, part := range strings.Split(strings.Trim(cgroup, "/"), "/") {
		above := folder
		folder = filepath.Join(folder, part)
		if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
			value, err := os.ReadFile(filepath.Join(above, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(folder, name), value, 0o644)
			}
			if err != nil {
				return fmt.Errorf("cgroup: %w", err)
			}
		}
	}
	if err := os.WriteFile(filepath.Join(folder, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("cgroup: join: %w", err)
	}
	return nil
}

// mountOwnCgroups mounts every hierarchy anew: a mount shows the root of the namespace that it was made in.
func mountOwnCgroups(roots cgroupRoots) error {
	for _, point := range roots.all() {
		kind := "cgroup"
		if point == roots.v2 {
			kind = "cgroup2"
		}
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
		if err := unix.Mount(kind, point, kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, roots.options[point]); err != nil {
			return fmt.Errorf("mount %s: %w", point, err)
		}
	}
	return nil
}

// leaveCgroupRoot moves processes out of the root: v2 enables controllers below a folder only if it has none.
func leaveCgroupRoot(roots cgroupRoots) error {
	system := filepath.Join(roots.v2, "system")
	if err := os.Mkdir(system, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("cgroup: %w", err)
	}
	if err := os.WriteFile(filepath.Join(system, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return fmt.Errorf("cgroup: join %s: %w", system, err)
	}
	if len(roots.v1) > 0 {
		return nil
	}
	return delegateControllers(roots.v2)
}

// mountDisk gives a bare host its own files.
func mountDisk(disk string) error {
	for _, dir := range append(append([]string{}, overlaid...), fresh...) {
		own := filepath.Join(disk, strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"))
		upper, work := filepath.Join(own, "files"), filepath.Join(own, "work")
		for _, folder := range []string{upper, work} {
			if err := os.MkdirAll(folder, 0o755); err != nil {
				return err
			}
		}
	}
	for _, dir := range overlaid {
		own := filepath.Join(disk, strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"))
		options := fmt.Sprintf("lowerdir=%s,upperdir=%s/files,workdir=%s/work", dir, own, own)
		if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
			return fmt.Errorf("mount an overlay over %s with its files in %s: %w", dir, own, err)
		}
	}
	for _, dir := range fresh {
		own := filepath.Join(disk, strings.ReplaceAll(strings.Trim(dir, "/"), "/", "-"), "files")
		if err := unix.Mount(own, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s over %s: %w", own, dir, err)
		}
	}
	return nil
}
