package runtime

import (
	"bufio"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const cgroupRoot = "/sys/fs/cgroup"

// podCgroup is the pod's cgroup path under every hierarchy's root.
func (r *Runtime) podCgroup(podUID string) string {
	return filepath.Join("/", r.cfg.CgroupParent, "pods", podUID)
}

// hierarchies are the mounted cgroup roots: the v2 root alone, or every v1
// controller and the v2 tree beside them.
func hierarchies() []string {
	if unifiedOnly() {
		return []string{cgroupRoot}
	}
	entries, _ := os.ReadDir(cgroupRoot)
	var roots []string
	for _, e := range entries {
		if e.IsDir() {
			roots = append(roots, filepath.Join(cgroupRoot, e.Name()))
		}
	}
	return roots
}

func unifiedOnly() bool {
	_, err := os.Stat(filepath.Join(cgroupRoot, "cgroup.controllers"))
	return err == nil
}

// removePodCgroups removes the pod's empty folders. runc removes only the
// container's own. A folder that is still busy stays: the next removal of the
// pod or the orphan clean-up takes it.
func (r *Runtime) removePodCgroups(podUID string) {
	for _, root := range hierarchies() {
		dir := filepath.Join(root, r.podCgroup(podUID))
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() {
				_ = os.Remove(filepath.Join(dir, e.Name()))
			}
		}
		_ = os.Remove(dir)
	}
}

// podsWithCgroups lists the UIDs that have a folder in any hierarchy.
func (r *Runtime) podsWithCgroups() []string {
	var uids []string
	for _, root := range hierarchies() {
		entries, _ := os.ReadDir(filepath.Dir(filepath.Join(root, r.podCgroup("uid"))))
		for _, e := range entries {
			if e.IsDir() {
				uids = append(uids, e.Name())
			}
		}
	}
	return uids
}

// oomKilled says whether the kernel's out-of-memory killer took a process of
// the cgroup. The folder exists until the task is deleted, so asking between
// the exit and the deletion is exact.
func oomKilled(cgroupPath string) bool {
	for _, file := range []string{
		filepath.Join(cgroupRoot, "memory", cgroupPath, "memory.oom_control"),
		filepath.Join(cgroupRoot, cgroupPath, "memory.events"),
	} {
		f, err := os.Open(file)
		if err != nil {
			continue
		}
		defer f.Close()
		for scan := bufio.NewScanner(f); scan.Scan(); {
			if name, value, _ := strings.Cut(scan.Text(), " "); name == "oom_kill" {
				n, err := strconv.Atoi(value)
				return err == nil && n > 0
			}
		}
	}
	return false
}
