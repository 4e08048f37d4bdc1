package service

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const envArena = "SKEP_BENCH_ARENA"

// TestMain runs the benchmarks again in a network namespace of their own, with
// two cgroups to choose from: one has the hooks, the other none.
func TestMain(m *testing.M) {
	if os.Getenv(envArena) != "" {
		if err := prepareNetwork(); err != nil {
			fmt.Fprintln(os.Stderr, "set up the network namespace:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := runInArena()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(code)
}

type arena struct{ hooked, plain, pins string }

func arenaAt(root, mount string) arena {
	return arena{filepath.Join(root, "hooked"), filepath.Join(root, "plain"), filepath.Join(mount, "skep")}
}

func currentArena() arena {
	root, mount, _ := strings.Cut(os.Getenv(envArena), ":")
	return arenaAt(root, mount)
}

func runInArena() (code int, err error) {
	hierarchy, err := cgroup2()
	if err != nil {
		return 1, err
	}
	root := filepath.Join(hierarchy, "skep-bench-"+strconv.Itoa(os.Getpid()))
	mount, err := os.MkdirTemp("", "skep-bench")
	if err != nil {
		return 1, err
	}
	defer os.Remove(mount)
	a := arenaAt(root, mount)
	for _, dir := range []string{root, a.hooked, a.plain} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return 1, fmt.Errorf("make cgroup (root is needed): %w", err)
		}
		defer os.Remove(dir)
	}
	if err := unix.Mount("bpf", mount, "bpf", 0, ""); err != nil {
		return 1, fmt.Errorf("mount BPF filesystem (root is needed): %w", err)
	}
	defer unix.Unmount(mount, unix.MNT_DETACH)
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envArena+"="+root+":"+mount)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err = cmd.Run()
	if _, exited := err.(*exec.ExitError); exited {
		return cmd.ProcessState.ExitCode(), nil
	}
	return 0, err
}

func cgroup2() (string, error) {
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
	return "", fmt.Errorf("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

func prepareNetwork() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// enter moves this process into a cgroup. A socket belongs for ever to the
// cgroup in which it was made.
func enter(b *testing.B, cgroup string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(cgroup, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		b.Fatal(err)
	}
}
