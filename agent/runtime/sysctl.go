package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/agent/sysctl"
)

// Sysctl is a kernel parameter that a pod sets in its own namespaces.
type Sysctl struct{ Name, Value string }

// SetSysctls writes the pod's kernel parameters, in order, once for its namespaces. It does not rely on earlier checks: a parameter
// is written only if the pod has a namespace of the parameter's kind, and only to a file that is not the host's.
func (r *Runtime) SetSysctls(s Sandbox, list []Sysctl) error {
	if len(list) == 0 {
		return nil
	}
	written := filepath.Join(r.sandboxDir(s.PodUID), "sysctls-written")
	if _, err := os.Stat(written); err == nil {
		return nil
	}
	// The host's own files are held open while the pod's are compared with them: a file that both share has one inode.
	host := make([]int, len(list))
	for i, l := range list {
		fd, err := openSysctl(l.Name, unix.O_PATH)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		host[i] = fd
		defer unix.Close(fd)
	}
	result := make(chan error, 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine, in the pod's namespaces.
		goruntime.LockOSThread()
		result <- setSysctls(s, list, host)
	}()
	if err := <-result; err != nil {
		return err
	}
	if err := os.WriteFile(written, nil, 0o600); err != nil {
		return fmt.Errorf("pod's sysctls: %w", err)
	}
	return nil
}

func setSysctls(s Sandbox, list []Sysctl, host []int) error {
	for _, ns := range []struct {
		path string
		flag int
	}{{s.NetNS, unix.CLONE_NEWNET}, {s.IPCNS, unix.CLONE_NEWIPC}, {s.UTSNS, unix.CLONE_NEWUTS}} {
		if ns.path == "" {
			continue
		}
		if err := enterNamespace(ns.path, ns.flag); err != nil {
			return err
		}
	}
	for i, l := range list {
		if err := setSysctl(s, l, host[i]); err != nil {
			return err
		}
	}
	return nil
}

// enterNamespace moves the calling thread to a namespace.
func enterNamespace(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, kind); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return nil
}

func setSysctl(s Sandbox, l Sysctl, host int) error {
	separate := false
	switch sysctl.NamespaceOf(l.Name) {
	case sysctl.Net:
		separate = s.NetNS != ""
	case sysctl.IPC:
		separate = s.IPCNS != ""
	case sysctl.UTS:
		separate = s.UTSNS != ""
	}
	if !separate {
		return fmt.Errorf("sysctl %q is not in a separate kernel namespace", l.Name)
	}
	err := writeSysctl(l, host)
	if s.Users != 0 && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		err = asOwner(s.Users, func() error { return writeSysctl(l, host) })
	}
	return err
}

// writeSysctl refuses a file that is the host's as well.
func writeSysctl(l Sysctl, host int) error {
	fd, err := openSysctl(l.Name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A parameter of the UTS namespace has one file for all namespaces, which accesses the one of the writing thread.
	if host >= 0 && sysctl.NamespaceOf(l.Name) != sysctl.UTS {
		same, err := sameFile(fd, host)
		if err != nil {
			return fmt.Errorf("sysctl %q: %w", l.Name, err)
		}
		if same {
			return fmt.Errorf("sysctl %q is not in a separate kernel namespace", l.Name)
		}
	}
	if _, err := unix.Write(fd, []byte(l.Value)); err != nil {
		return fmt.Errorf("sysctl %q: value %q: %w", l.Name, l.Value, err)
	}
	return nil
}

// openSysctl opens the parameter's file as the calling thread's namespaces show it, and nothing outside of /proc/sys.
func openSysctl(name string, flags uint64) (int, error) {
	path, err := sysctl.Path(name)
	if err != nil {
		return -1, err
	}
	root, err := unix.Open("/proc/sys", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("/proc/sys: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return -1, fmt.Errorf("sysctl %q: %w", name, err)
	}
	return fd, nil
}

func sameFile(a, b int) (bool, error) {
	var x, y unix.Stat_t
	if err := errors.Join(unix.Fstat(a, &x), unix.Fstat(b, &y)); err != nil {
		return false, err
	}
	return x.Dev == y.Dev && x.Ino == y.Ino, nil
}
