package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// PinPIDNamespace gives the PID namespace of a running container's first process a path that stays valid when the process ends,
// for another container of the pod to join. It lasts until the sandbox is removed or another is pinned.
func (r *Runtime) PinPIDNamespace(id string) (string, error) {
	c, ok := r.Container(id)
	if !ok || c.State != Running || c.Pid <= 0 {
		return "", fmt.Errorf("container %s: %w", id, ErrNotRunning)
	}
	dir := filepath.Join(r.sandboxDir(c.PodUID), "ns")
	path := filepath.Join(dir, pidPin+c.ID)
	if isNamespace(path) {
		return path, nil
	}
	ns, err := openOfProcess(&c, "ns/pid")
	if err != nil {
		return "", err
	}
	defer ns.Close()
	for _, name := range pinsIn(dir) {
		if strings.HasPrefix(name, pidPin) {
			if err := unpin(filepath.Join(dir, name)); err != nil {
				return "", err
			}
		}
	}
	if err := pin(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path); err != nil {
		return "", fmt.Errorf("PID namespace of container %s: %w", id, err)
	}
	return path, nil
}

// pidPin is the prefix of names of pinned PID namespaces; the ID of the container whose first process holds the namespace
// follows.
const pidPin = "pid-"

// openOfProcess opens a file of /proc/PID of the container's first process. The PID alone proves nothing: another process can
// have it as soon as the shim has waited for this one. So the process's pidfd is opened first; what is read while that process
// exists is its own; and its cgroup shows which container it belongs to.
func openOfProcess(c *Container, name string) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(c.Pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d of container %s: %w", c.Pid, c.ID, err)
	}
	defer unix.Close(pidfd)
	proc := fmt.Sprintf("/proc/%d/", c.Pid)
	f, err := os.Open(proc + name)
	if err != nil {
		return nil, fmt.Errorf("process of container %s: %w", c.ID, err)
	}
	cgroups, err := os.ReadFile(proc + "cgroup")
	if err == nil && !inCgroup(string(cgroups), c.ID) {
		err = fmt.Errorf("process %d is another's by now", c.Pid)
	}
	if err == nil {
		err = unix.PidfdSendSignal(pidfd, 0, nil, 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("process of container %s: %w", c.ID, err)
	}
	return f, nil
}

// inCgroup says whether one of the cgroups in the form of /proc/PID/cgroup is the container's, or below it.
func inCgroup(cgroups, id string) bool {
	for line := range strings.Lines(cgroups) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":/"); ok && slices.Contains(strings.Split(path, "/"), id) {
			return true
		}
	}
	return false
}

// pin binds a namespace to a path that does not exist yet.
func pin(source, path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("pin namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin namespace at %s: %w", path, err)
	}
	return nil
}

func unpin(path string) error {
	if err := unmountAll(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("unpin namespace: %w", err)
	}
	return nil
}

// unmountAll detaches all mounts at path itself, one by one, and none below.
func unmountAll(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

func pinsIn(dir string) (names []string) {
	entries, _ := os.ReadDir(dir) // none: no namespace is pinned
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// NetNamespace is the path of the pinned network namespace of a pod that has its own.
func (r *Runtime) NetNamespace(podUID string) string {
	return filepath.Join(r.sandboxDir(podUID), "ns", "net")
}
