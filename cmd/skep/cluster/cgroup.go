package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoots says where the machine's cgroup hierarchies are mounted.
type cgroupRoots struct {
	v2 string
	// v1 holds the mount points of hierarchies that have controllers, empty on
	// a pure v2 machine.
	v1 []string
	// named holds hierarchies without controllers, such as systemd's beside v1.
	named []string
	// options are what v1 and named hierarchies are mounted with, by mount point.
	options map[string]string
}

func findCgroups() (cgroupRoots, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return cgroupRoots{}, err
	}
	defer f.Close()
	roots := cgroupRoots{options: map[string]string{}}
	seen := map[string]bool{}
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		before, after, ok := strings.Cut(scanner.Text(), " - ")
		fields, tail := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(tail) < 3 || fields[3] != "/" || seen[fields[4]] {
			continue
		}
		switch tail[0] {
		case "cgroup2":
			if roots.v2 == "" {
				roots.v2 = fields[4]
			}
		case "cgroup":
			seen[fields[4]] = true
			roots.options[fields[4]] = hierarchyOptions(tail[2])
			if strings.Contains(tail[2], "name=") {
				roots.named = append(roots.named, fields[4])
			} else {
				roots.v1 = append(roots.v1, fields[4])
			}
		}
	}
	if roots.v2 == "" {
		return roots, errors.New("no cgroup v2 hierarchy is mounted: mount one with `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`")
	}
	return roots, nil
}

// hierarchyOptions are the mount options that identify a hierarchy.
func hierarchyOptions(super string) string {
	var names []string
	for _, option := range strings.Split(super, ",") {
		switch key, _, _ := strings.Cut(option, "="); key {
		case "rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode", "release_agent":
		default:
			names = append(names, option)
		}
	}
	return strings.Join(names, ",")
}

// all is every hierarchy's mount point.
func (r cgroupRoots) all() []string {
	return append(append([]string{r.v2}, r.v1...), r.named...)
}

// make creates the folder in the v2 hierarchy. Where v2 has controllers (no
// v1), they are enabled in it, so that containers can be limited there.
func (r cgroupRoots) make(path string) error {
	folder := r.v2
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		if len(r.v1) == 0 {
			if err := delegateControllers(folder); err != nil {
				return err
			}
		}
		folder = filepath.Join(folder, part)
		if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup: %w", err)
		}
	}
	return nil
}

func delegateControllers(folder string) error {
	data, err := os.ReadFile(filepath.Join(folder, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("cgroup: %w", err)
	}
	for _, controller := range strings.Fields(string(data)) {
		switch controller {
		case "cpu", "cpuset", "io", "memory", "pids":
			err := os.WriteFile(filepath.Join(folder, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
			if err != nil {
				return fmt.Errorf("cgroup: enable %s for child cgroups of %s: %w", controller, folder, err)
			}
		}
	}
	return nil
}

// populated reports whether any process is in the folder or below it.
func (r cgroupRoots) populated(path string) (bool, error) {
	data, err := os.ReadFile(filepath.Join(r.v2, path, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.Contains(string(data), "populated 1"), err
}

// kill ends every process in the folder and below it with SIGKILL, also frozen
// ones, and returns when all have ended.
func (r cgroupRoots) kill(ctx context.Context, path string) error {
	folder := filepath.Join(r.v2, path)
	events, err := os.Open(filepath.Join(folder, "cgroup.events"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer events.Close()
	if err := os.WriteFile(filepath.Join(folder, "cgroup.kill"), []byte("1"), 0); err != nil {
		return fmt.Errorf("kill the processes of %s: %w", folder, err)
	}
	if err := awaitEvent(ctx, events, "populated 0"); err != nil {
		return fmt.Errorf("wait for the processes of %s to end: %w", folder, err)
	}
	return nil
}

// freeze stops or resumes all processes of the folder and waits until it is so.
func (r cgroupRoots) freeze(ctx context.Context, path string, frozen bool) error {
	folder := filepath.Join(r.v2, path)
	events, err := os.Open(filepath.Join(folder, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	value := "0"
	if frozen {
		value = "1"
	}
	if err := os.WriteFile(filepath.Join(folder, "cgroup.freeze"), []byte(value), 0); err != nil {
		return err
	}
	return awaitEvent(ctx, events, "frozen "+value)
}

func (r cgroupRoots) frozen(path string) bool {
	data, err := os.ReadFile(filepath.Join(r.v2, path, "cgroup.freeze"))
	return err == nil && strings.TrimSpace(string(data)) == "1"
}

// awaitEvent returns when the cgroup.events file holds the line; the kernel
// wakes pollers at each change.
func awaitEvent(ctx context.Context, events *os.File, line string) error {
	buf := make([]byte, 256)
	for {
		n, err := events.ReadAt(buf, 0)
		if n == 0 && err != nil {
			if errors.Is(err, syscall.ENODEV) { // the folder was removed: it has no processes
				return nil
			}
			return err
		}
		if strings.Contains(string(buf[:n]), line) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		poll := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, 200); err != nil && !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// remove deletes the folder and all below it in every hierarchy. What still
// runs in a v1 folder alone (moved there by hand) is ended first.
func (r cgroupRoots) remove(ctx context.Context, path string) error {
	if err := r.kill(ctx, path); err != nil {
		return err
	}
	var errs []error
	for _, root := range r.all() {
		errs = append(errs, removeCgroupTree(ctx, filepath.Join(root, path)))
	}
	return errors.Join(errs...)
}

func removeCgroupTree(ctx context.Context, folder string) error {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if entry.IsDir() {
			errs = append(errs, removeCgroupTree(ctx, filepath.Join(folder, entry.Name())))
		}
	}
	// An exiting process holds its folder for a moment after it has left the
	// populated count, so EBUSY is tried again for a while.
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := unix.Rmdir(folder)
		if err == nil || errors.Is(err, syscall.ENOENT) {
			return errors.Join(errs...)
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return errors.Join(append(errs, fmt.Errorf("remove cgroup %s: %w", folder, err))...)
		}
		killMembers(folder)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func killMembers(folder string) {
	data, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
	if err != nil {
		return
	}
	for _, field := range strings.Fields(string(data)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 && pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}
