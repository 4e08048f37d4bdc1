package service

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/sandbox"
)

const (
	envCgroup = "SKEP_TEST_CGROUP"
	envPins   = "SKEP_TEST_PINS"
	// deadline bounds every wait of a test; reaching it is a failure.
	deadline = 60 * time.Second
)

// children are what the test binary runs instead of tests when a test starts it as a child.
var children = map[string]func() error{}

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, children)) }

// stage is a cgroup and a pin folder of the test's own.
type stage struct{ cgroup, pins string }

// newStage makes both and removes them when the test ends.
func newStage(tb testing.TB) *stage {
	tb.Helper()
	s := &stage{cgroup: sandbox.NewCgroup(tb), pins: filepath.Join(sandbox.Pins(tb), "skep")}
	tb.Cleanup(func() {
		if err := Remove(s.pins); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// command runs the test binary again in the stage's cgroup and in a network
// namespace of its own.
func (s *stage) command(tb testing.TB, args ...string) *exec.Cmd {
	tb.Helper()
	cmd := sandbox.Command(tb, s.cgroup, unix.CLONE_NEWNET, args...)
	cmd.Env = append(cmd.Env, envCgroup+"="+s.cgroup, envPins+"="+s.pins)
	return cmd
}

// inside runs the calling test again on a stage, in its cgroup, or returns the
// stage if this is that run. The outer run gets nil and has to return.
func inside(t *testing.T) *stage {
	t.Helper()
	if cgroup := os.Getenv(envCgroup); cgroup != "" {
		if err := sandbox.Loopback(); err != nil {
			t.Fatal("set up the network namespace: ", err)
		}
		return &stage{cgroup: cgroup, pins: os.Getenv(envPins)}
	}
	s := newStage(t)
	cmd := s.command(t, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=300s")
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("on the stage:\n%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("the test did not run on the stage:\n%s", out)
	}
	return nil
}

// testLimits keep the maps of tests small.
var testLimits = Limits{Frontends: 4096, Services: 4096, Backends: 4096, Slots: 65536, Nodes: 256}

// open opens a Plane on the stage and closes it when the test ends.
func (s *stage) open(tb testing.TB) *Plane {
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
