// Package sandbox gives tests and benchmarks of the data plane mounts, a network namespace and a cgroup of their own, which
// are removed with the test process, however it ends.
//
// It owns cgroups whose names begin with "skep-test-". All else that tests make is in namespaces that no file outside
// names, so that the kernel removes it with the last process; cgroups of a killed process are removed by the next
// one. It does not depend on services, and is never part of a program.
package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	envCgroup = "SKEP_SANDBOX_CGROUP"
	envBare   = "SKEP_SANDBOX_BARE" // its mounts and network are still to be made
	envChild  = "SKEP_SANDBOX_CHILD"
)

// Threads of other namespaces end with their goroutine; the main thread cannot end, so it must never enter one. A child
// with a parent death signal dies with the thread that started it.
func init() { runtime.LockOSThread() }

// Main runs a package's tests again in a sandbox, and returns the exit code. children are what the test binary runs instead
// of tests when AsChild says so.
func Main(m *testing.M, children map[string]func() error) int {
	if name := os.Getenv(envChild); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
		return 0
	}
	if os.Getenv(envBare) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the sandbox:", err)
			return 1
		}
	}
	if Cgroup() != "" {
		return m.Run()
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a sandbox (root is needed):", err)
		return 1
	}
	return code
}

// again runs this process's command in a sandbox, and removes the sandbox.
func again() (code int, err error) {
	root, err := cgroupRoot()
	if err != nil {
		return 0, err
	}
	place, err := makePlace(root)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, place.remove()) }()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	cmd, err := command(place.tests(), unix.CLONE_NEWNET|unix.CLONE_NEWNS, os.Args[1:]...)
	if err != nil {
		return 0, err
	}
	cmd.Env = append(cmd.Env, envCgroup+"="+place.tests(), envBare+"=1", "TMPDIR="+place.files)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		<-signals
		cmd.Process.Kill()
	}()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// furnish gives this process private mounts, temporary files that need no removal, and a loopback.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", os.TempDir(), "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount temporary files: %w", err)
	}
	return errors.Join(os.Unsetenv(envBare), Loopback())
}

// Cgroup is the folder of the cgroup that the tests are in.
func Cgroup() string { return os.Getenv(envCgroup) }

// Command runs the test binary again in a cgroup. It dies with the thread that starts it: see Start.
func Command(tb testing.TB, cgroup string, namespaces uintptr, args ...string) *exec.Cmd {
	tb.Helper()
	cmd, err := command(cgroup, namespaces, args...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { unix.Close(cmd.SysProcAttr.CgroupFD) })
	return cmd
}

// Start starts a command that has a parent death signal, from a thread that lasts as long as the command: the signal comes when the thread
// ends that started it, and threads that have entered another namespace do.
func Start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		// It is left to be waited for. An error says that it was.
		for unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return <-started
}

// AsChild makes the command do what Main was given under that name.
func AsChild(cmd *exec.Cmd, name string, env ...string) *exec.Cmd {
	cmd.Env = append(append(cmd.Env, envChild+"="+name), env...)
	return cmd
}

func command(cgroup string, namespaces uintptr, args ...string) (*exec.Cmd, error) {
	folder, err := unix.Open(cgroup, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup %s: %w", cgroup, err)
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = os.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces, UseCgroupFD: true, CgroupFD: folder, Pdeathsig: unix.SIGKILL}
	return cmd, nil
}

// Pins is a BPF filesystem of the test's own.
func Pins(tb testing.TB) string {
	tb.Helper()
	mount := tb.TempDir()
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		tb.Fatal("mount a BPF filesystem (root is needed): ", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			tb.Error("unmount a BPF filesystem: ", err)
		}
	})
	return mount
}

var cgroups atomic.Int32

// NewCgroup makes a cgroup below the tests', which is removed when the test ends.
func NewCgroup(tb testing.TB) string {
	tb.Helper()
	folder := filepath.Join(Cgroup(), fmt.Sprintf("%d-%d", os.Getpid(), cgroups.Add(1)))
	if err := os.Mkdir(folder, 0o755); err != nil {
		tb.Fatal("make a cgroup: ", err)
	}
	tb.Cleanup(func() {
		if err := os.Remove(folder); err != nil {
			tb.Error("remove a cgroup: ", err)
		}
	})
	return folder
}
