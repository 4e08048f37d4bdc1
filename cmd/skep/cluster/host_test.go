package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain lets the test binary run as the programs of the hosts under test: their
// first process, and in the agent's place a TCP echo server.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "node-init":
		if err := RunInit(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case slices.Contains(os.Args, "--node-name"):
		fmt.Fprintln(os.Stderr, serveEcho())
		os.Exit(1)
	default:
		os.Exit(m.Run())
	}
}

func serveEcho() error {
	listener, err := net.Listen("tcp", ":7000")
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

// hosts makes virtual hosts without a control plane. Their cluster is removed at the end.
func hosts(t *testing.T, count int) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, as virtual hosts do")
	}
	name := fmt.Sprintf("t%d-%d", os.Getpid(), time.Now().UnixNano()%100000)
	c, err := newCluster(name, filepath.Join(t.TempDir(), name), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Down(context.Background(), c.Name, c.Dir, t.Output()); err != nil {
			t.Error(err)
		}
	})
	raise(t, c, count)
	return c
}

func raise(t *testing.T, c *Cluster, count int) []string {
	t.Helper()
	return raiseWith(t, c, Options{Nodes: count, Zones: 2})
}

func raiseWith(t *testing.T, c *Cluster, o Options) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Bin = Binaries{Agent: self, Init: []string{self, "node-init"}}
	if err := c.prepare(o); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(c.skepdDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.skepdDir(), "join-token"), []byte("skep2.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	started, err := c.bootMissing(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return started
}

func node(t *testing.T, c *Cluster, name string) *Node {
	t.Helper()
	n, err := c.Node(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// dial connects from one host to the echo server of another, which may still be starting.
func dial(t *testing.T, from, to *Node) net.Conn {
	t.Helper()
	return dialAddr(t, from, to, to.Addr)
}

func dialAddr(t *testing.T, from, to *Node, addr netip.Addr) net.Conn {
	t.Helper()
	var conn net.Conn
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := from.InNetwork(func() (err error) {
			conn, err = net.DialTimeout("tcp", net.JoinHostPort(addr.String(), "7000"), time.Second)
			return err
		})
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s to %s at %s: %v\n%s", from.Name, to.Name, addr, err, tail(to.LogPath(), 20))
		}
	}
}

// echo sends a line and returns how long its echo took.
func echo(conn net.Conn, patience time.Duration) (time.Duration, error) {
	begin := time.Now()
	line := fmt.Sprintf("%d\n", begin.UnixNano())
	if _, err := conn.Write([]byte(line)); err != nil {
		return 0, err
	}
	if err := conn.SetReadDeadline(begin.Add(patience)); err != nil {
		return 0, err
	}
	back, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && back != line {
		err = fmt.Errorf("sent %q, got back %q", line, back)
	}
	return time.Since(begin), err
}

func TestHostIsItsOwn(t *testing.T) {
	c := hosts(t, 2)
	n := node(t, c, "node2")
	script := `hostname; cat /proc/self/cgroup | grep ^0::; stat -f -c %T /sys/fs/bpf /run; ls /run/netns 2>&1 | wc -l; cat /etc/hostname; grep node1 /etc/hosts; cat /proc/self/mountinfo | grep -c shared: || true`
	var out strings.Builder
	if err := n.Exec(t.Context(), ExecOptions{Stdout: &out, Stderr: &out}, "sh", "-c", script); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	want := []string{"node2", "0::/skep-" + c.Name + "/node2/system", "bpf_fs", "tmpfs", "1", "node2", node(t, c, "node1").Addr.String() + " node1", "0"}
	// Only the stat of newer coreutils has a name for BPF's file system.
	if len(lines) > 2 && strings.Contains(lines[2], "cafe4a11") {
		lines[2] = "bpf_fs"
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the host sees\n%q, want\n%q", lines, want)
	}
	if host, _ := os.Hostname(); host == "node2" {
		t.Error("the machine itself got the host's name")
	}
	err := n.Exec(t.Context(), ExecOptions{}, "sh", "-c", "exit 7")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("exit code of a command: %v, want 7", err)
	}
}

func TestPortTransmitsForXDP(t *testing.T) {
	c := hosts(t, 1)
	port, err := ownLink(c.Name, portName(c.Name, 1))
	if err != nil || port == nil {
		t.Fatalf("port: %v, %v", port, err)
	}
	xdp := port.Attrs().Xdp
	if xdp == nil || !xdp.Attached || xdp.AttachMode != 1 { // XDP_ATTACHED_DRV
		t.Errorf("XDP at the port: %+v, want one attached natively", xdp)
	}
	out, err := exec.Command("cat", "/sys/class/net/"+port.Attrs().Name+"/ifalias").Output()
	if err != nil || strings.TrimSpace(string(out)) != linkAlias(c.Name) {
		t.Errorf("alias %q, %v", out, err)
	}
	if on, err := transmitChecksums(port.Attrs().Name); err != nil || on {
		t.Errorf("transmit checksum offload: %v, %v; want off", on, err)
	}
	if on, err := transmitChecksums("lo"); err != nil || !on {
		t.Errorf("loopback's transmit checksum offload reads %v, %v: the check itself is wrong", on, err)
	}
}

func TestCutAndHeal(t *testing.T) {
	c := hosts(t, 2)
	one, two := node(t, c, "node1"), node(t, c, "node2")
	conn := dial(t, one, two)
	if _, err := echo(conn, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if err := two.Cut(); err != nil {
		t.Fatal(err)
	}
	if took, err := echo(conn, 300*time.Millisecond); err == nil {
		t.Fatalf("an echo came in %v from a host that is cut off", took)
	}
	if power, err := two.Power(); err != nil || power.String() != "running, cut off" {
		t.Errorf("power %q, %v", power, err)
	}
	begin := time.Now()
	if err := two.Heal(); err != nil {
		t.Fatal(err)
	}
	// Data sent meanwhile arrives now: TCP sends it again.
	if err := conn.SetReadDeadline(begin.Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatalf("the connection did not survive the cut: %v", err)
	}
	t.Logf("the old connection answered %v after healing", time.Since(begin))
}

func TestKillIsSilentAndStartBootsAgain(t *testing.T) {
	c := hosts(t, 2)
	one, two := node(t, c, "node1"), node(t, c, "node2")
	conn := dial(t, one, two)
	before, err := two.Power()
	if err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(two.StateDir(), "kept")
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := two.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := echo(conn, 300*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("the dead host's peer got %v, want silence", err)
	}
	if power, err := two.Power(); err != nil || power.Running {
		t.Errorf("after kill: %v, %v", power, err)
	}
	if err := two.Exec(t.Context(), ExecOptions{}, "true"); err == nil || !strings.Contains(err.Error(), "node2 is not running") {
		t.Errorf("exec on a dead host: %v", err)
	}
	if err := two.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := two.Power()
	if err != nil || !after.Running || after.PID == before.PID {
		t.Errorf("after start: %+v, %v; before: %+v", after, err, before)
	}
	if _, err := echo(dial(t, one, two), 5*time.Second); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Errorf("the host's disk did not survive: %v", err)
	}
}

func TestPauseAndResume(t *testing.T) {
	c := hosts(t, 2)
	one, two := node(t, c, "node1"), node(t, c, "node2")
	conn := dial(t, one, two)
	if err := two.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	if took, err := echo(conn, 300*time.Millisecond); err == nil {
		t.Fatalf("a paused host answered in %v", took)
	}
	if err := two.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(conn).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
}

func TestInitRestartsAgent(t *testing.T) {
	c := hosts(t, 1)
	n := node(t, c, "node1")
	dial(t, n, n)
	pids := agentPIDs(t, c, "node1")
	if len(pids) != 1 {
		t.Fatalf("agents: %v, want one", pids)
	}
	agent, err := unix.PidfdOpen(pids[0], 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(agent)
	if err := unix.Kill(pids[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Its end first: an exiting process may still have its listener.
	if _, err := unix.Poll([]unix.PollFd{{Fd: int32(agent), Events: unix.POLLIN}}, 5000); err != nil {
		t.Fatal(err)
	}
	dial(t, n, n)
	if again := agentPIDs(t, c, "node1"); len(again) != 1 || again[0] == pids[0] {
		t.Errorf("agents after the kill: %v, before: %v", again, pids)
	}
}

// agentPIDs are the members of the host's cgroup but its first process.
func agentPIDs(t *testing.T, c *Cluster, name string) []int {
	t.Helper()
	power, err := node(t, c, name).Power()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(c.cgroups.v2, nodeCgroup(c.Name, name), "system", "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, field := range strings.Fields(string(data)) {
		var pid int
		fmt.Sscan(field, &pid)
		if pid != power.PID {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestUpAgain(t *testing.T) {
	c := hosts(t, 2)
	pid := func(name string) int {
		power, err := node(t, c, name).Power()
		if err != nil || !power.Running {
			t.Fatalf("%s: %v, %v", name, power, err)
		}
		return power.PID
	}
	first := pid("node1")
	if started := raise(t, c, 3); !slices.Equal(started, []string{"node3"}) {
		t.Errorf("with one host more, started %v", started)
	}
	if pid("node1") != first {
		t.Error("a running host was started again")
	}
	// All processes are killed at once, and nothing cleans up.
	if err := c.cgroups.kill(t.Context(), clusterCgroup(c.Name)); err != nil {
		t.Fatal(err)
	}
	if started := raise(t, c, 0); !slices.Equal(started, []string{"node1", "node2", "node3"}) {
		t.Errorf("after the death of all, started %v", started)
	}
	if _, err := echo(dial(t, node(t, c, "node1"), node(t, c, "node3")), 5*time.Second); err != nil {
		t.Error(err)
	}
}

func transmitChecksums(link string) (bool, error) {
	value, err := ethtool(link, unix.ETHTOOL_GTXCSUM, 0)
	return value != 0, err
}
