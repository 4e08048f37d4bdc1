// Package lab gives tests of the data plane a place of their own: a network
// namespace that plays the host, others that play pods, a cgroup and a BPF
// filesystem, all of which end with the test process.
//
// It owns nothing that outlives a test, and never touches the machine's own
// namespaces.
package lab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Deadline bounds every wait of a test; reaching it is a failure.
const Deadline = 60 * time.Second

const (
	envCgroup = "SKEP_LAB_CGROUP"
	envChild  = "SKEP_LAB_CHILD"
)

// The main thread stays in the host's namespaces: /proc/self is its.
func init() { runtime.LockOSThread() }

// Main runs a package's tests again, in a network and mount namespace and a
// cgroup of their own, and returns the exit code. children are what the test
// binary does instead of testing when Child starts it.
func Main(m *testing.M, children map[string]func() error) int {
	if name := os.Getenv(envChild); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
		return 0
	}
	if os.Getenv(envCgroup) != "" {
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the lab:", err)
			return 1
		}
		return m.Run()
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, "make a lab (root is needed):", err)
		return 1
	}
	return code
}

// again runs this process's command in the lab, and removes the lab.
func again() (code int, err error) {
	root, err := cgroupRoot()
	if err != nil {
		return 0, err
	}
	cgroup := filepath.Join(root, fmt.Sprintf("skep-lab-%d", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, removeCgroups(cgroup)) }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envCgroup+"="+cgroup)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := start(cmd, cgroup, unix.CLONE_NEWNET|unix.CLONE_NEWNS); err != nil {
		return 0, err
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(1, exit.ExitCode()), nil
	}
	return 0, err
}

// start starts a command in a cgroup. It dies with this process.
func start(cmd *exec.Cmd, cgroup string, flags uintptr) error {
	folder, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer folder.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  flags,
		UseCgroupFD: true,
		CgroupFD:    int(folder.Fd()),
		Pdeathsig:   unix.SIGKILL,
	}
	return cmd.Start()
}

// Child is a process of the test's own.
type Child struct {
	Stdout io.Reader
	cmd    *exec.Cmd
}

// StartChild starts the test binary in the lab's cgroup, to do what Main was given under that name.
func StartChild(tb testing.TB, name string, env ...string) *Child {
	tb.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), envChild+"="+name), env...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := start(cmd, Cgroup(), 0); err != nil {
		tb.Fatal(err)
	}
	child := &Child{stdout, cmd}
	tb.Cleanup(func() { child.Kill() })
	return child
}

// Kill ends the process with SIGKILL and waits for it. An error if it had ended before.
func (c *Child) Kill() error {
	if c.cmd.ProcessState != nil {
		return nil
	}
	if err := c.cmd.Process.Kill(); err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	c.cmd.Wait()
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() {
		return fmt.Errorf("it had ended by itself: %s", c.cmd.ProcessState)
	}
	return nil
}

// Cgroup is the folder of the lab's cgroup, which the tests are in.
func Cgroup() string { return os.Getenv(envCgroup) }

func cgroupRoot() (string, error) {
	mounts, err := os.Open("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	for scan := bufio.NewScanner(mounts); scan.Scan(); {
		if fields := strings.Fields(scan.Text()); len(fields) > 2 && fields[2] == "cgroup2" {
			return fields[1], nil
		}
	}
	return "", errors.New("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// removeCgroups removes a folder and those below, whose processes have ended.
func removeCgroups(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeCgroups(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(path)
}

// furnish gives this process its mounts, which nobody else sees.
func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts private: %w", err)
	}
	return loopback()
}

// Pins is a folder on a BPF filesystem of the test's own.
func Pins(tb testing.TB) string {
	tb.Helper()
	mount := tb.TempDir()
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		tb.Fatal("mount BPF filesystem: ", err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(mount, 0); err != nil {
			tb.Error("unmount BPF filesystem: ", err)
		}
	})
	return filepath.Join(mount, "skep")
}

// Join moves the test process into a cgroup below the lab's, made if absent, and
// back when the returned function is called. "..": beside the lab's.
func Join(tb testing.TB, name string) (leave func()) {
	tb.Helper()
	home := filepath.Join(Cgroup(), "cgroup.procs")
	folder := filepath.Join(Cgroup(), name)
	if name == ".." {
		folder = Cgroup() + "-outside"
	}
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		tb.Fatal(err)
	}
	move := func(to string) {
		if err := os.WriteFile(to, []byte("0"), 0); err != nil {
			tb.Fatal("change cgroup: ", err)
		}
	}
	move(filepath.Join(folder, "cgroup.procs"))
	tb.Cleanup(func() {
		if err := os.Remove(folder); err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Error(err)
		}
	})
	return func() { move(home) }
}
