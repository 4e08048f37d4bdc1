package service

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	envCgroup = "SKEP_TEST_CGROUP"
	envPins   = "SKEP_TEST_PINS"
	envChild  = "SKEP_TEST_CHILD" // name of the function in children to run
	// deadline bounds every wait of a test; reaching it is a failure.
	deadline = 60 * time.Second
)

var sandboxes atomic.Int32

// children are what the test binary does instead of testing when it is started
// with envChild.
var children = map[string]func() error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(envChild); name != "" {
		if err := children[name](); err != nil {
			fmt.Fprintln(os.Stderr, name+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// sandbox is a cgroup and a BPF filesystem of the test's own.
type sandbox struct {
	cgroup, pins string
	mount        string
}

// newSandbox makes both and removes them when the test ends.
func newSandbox(tb testing.TB) *sandbox {
	tb.Helper()
	root, err := cgroupRoot()
	if err != nil {
		tb.Fatal(err)
	}
	s := &sandbox{
		cgroup: filepath.Join(root, fmt.Sprintf("skep-test-%d-%d", os.Getpid(), sandboxes.Add(1))),
		mount:  tb.TempDir(),
	}
	s.pins = filepath.Join(s.mount, "skep")
	if err := os.Mkdir(s.cgroup, 0o755); err != nil {
		tb.Fatal("make cgroup (root is needed): ", err)
	}
	if err := unix.Mount("bpf", s.mount, "bpf", 0, ""); err != nil {
		os.Remove(s.cgroup)
		tb.Fatal("mount BPF filesystem (root is needed): ", err)
	}
	tb.Cleanup(func() {
		if err := Remove(s.pins); err != nil {
			tb.Error(err)
		}
		if err := unix.Unmount(s.mount, 0); err != nil {
			tb.Error("unmount: ", err)
		}
		if err := os.Remove(s.cgroup); err != nil {
			tb.Error("remove cgroup: ", err)
		}
	})
	return s
}

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
	return "", fmt.Errorf("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

// command runs the test binary again in the sandbox's cgroup and in a network
// namespace of its own.
func (s *sandbox) command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	folder, err := os.Open(s.cgroup)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { folder.Close() })
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), envCgroup+"="+s.cgroup, envPins+"="+s.pins)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWNET,
		UseCgroupFD: true,
		CgroupFD:    int(folder.Fd()),
		Pdeathsig:   unix.SIGKILL,
	}
	return cmd
}

// inside runs the calling test again in a sandbox, or returns the sandbox if
// this is that run. The outer run gets nil and has to return.
func inside(t *testing.T) *sandbox {
	t.Helper()
	if cgroup := os.Getenv(envCgroup); cgroup != "" {
		if err := loopback(); err != nil {
			t.Fatal("set up the network namespace: ", err)
		}
		return &sandbox{cgroup: cgroup, pins: os.Getenv(envPins)}
	}
	s := newSandbox(t)
	cmd := s.command(t, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=300s")
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("in the sandbox:\n%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("the test did not run in the sandbox:\n%s", out)
	}
	return nil
}

// loopback brings lo up with an IPv6 prefix, so that any address of
// 127.0.0.0/8 and the listed fd00:: ones can be listened on.
func loopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for i := 1; i <= 9; i++ {
		addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(fmt.Sprintf("fd00::%d", i)), Mask: net.CIDRMask(128, 128)}, Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrReplace(lo, addr); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(lo)
}

// testLimits keep the maps of tests small.
var testLimits = Limits{Frontends: 4096, Services: 4096, Backends: 4096, Slots: 65536, Nodes: 256}

// open opens a Plane in the sandbox and closes it when the test ends.
func (s *sandbox) open(tb testing.TB) *Plane {
	tb.Helper()
	p, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup, Node: "node1", Limits: testLimits})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { p.Close() })
	return p
}

func flush(tb testing.TB, p *Plane) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		tb.Fatal(err)
	}
}

func dump(tb testing.TB, p *Plane) *Dump {
	tb.Helper()
	d, err := p.Dump()
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// frontend and backend read "10.96.0.1:80".
func frontend(address string, protocol Protocol) Frontend {
	a := netip.MustParseAddrPort(address)
	return Frontend{Addr: a.Addr(), Port: a.Port(), Protocol: protocol}
}

func backend(address string) Backend {
	a := netip.MustParseAddrPort(address)
	return Backend{Addr: a.Addr(), Port: a.Port(), Node: "node1"}
}

// serve answers every connection, or datagram, at an address with that address.
func serve(tb testing.TB, protocol Protocol, address string) {
	tb.Helper()
	if protocol == UDP {
		conn, err := net.ListenPacket("udp", address)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { conn.Close() })
		go func() {
			buffer := make([]byte, 512)
			for {
				_, from, err := conn.ReadFrom(buffer)
				if err != nil {
					return
				}
				conn.WriteTo([]byte(address), from)
			}
		}()
		return
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.WriteString(conn, address+"\n")
				io.Copy(conn, conn)
			}()
		}
	}()
}

// ask connects over TCP and returns the address of the backend that answered.
func ask(network, address string) (backend string, err error) {
	conn, err := net.DialTimeout(network, address, deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(deadline))
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
