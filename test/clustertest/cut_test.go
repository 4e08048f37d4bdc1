package clustertest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/skep-io/skep/dataplane/sandbox"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// ownCgroup is the folder of this process in the v2 hierarchy.
func ownCgroup(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		if path, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			for _, root := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
				if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
					return filepath.Join(root, string(path))
				}
			}
		}
	}
	t.Fatalf("no cgroup v2 in %s", data)
	return ""
}

// connects says whether a connection to a port of this host is established.
func connects(t *testing.T, address string) bool {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func TestCutServer(t *testing.T) {
	if err := sandbox.Loopback(); err != nil {
		t.Fatal(err)
	}
	peers, clients := fmt.Sprintf("127.0.0.1:%d", peerPort), "127.0.0.1:6443"
	for _, address := range []string{peers, clients} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
	}
	want := func(when string, peer, client bool) {
		t.Helper()
		if got := connects(t, peers); got != peer {
			t.Errorf("%s: a peer connects: %v", when, got)
		}
		if got := connects(t, clients); got != client {
			t.Errorf("%s: a client connects: %v", when, got)
		}
	}
	want("before", true, true)
	for _, way := range []Way{In, Out, Both} {
		for _, peersOnly := range []bool{true, false} {
			cut, err := cutCgroup(ownCgroup(t), way, peersOnly)
			if err != nil {
				t.Fatal(err)
			}
			want(fmt.Sprintf("cut off, way %d, peers only %v", way, peersOnly), false, peersOnly)
			if err := cut.Heal(); err != nil {
				t.Fatal(err)
			}
			want("healed", true, true)
		}
	}
}

func TestCutHost(t *testing.T) {
	bridge, host := sandbox.Host(t), sandbox.NewNamespace(t)
	var port int
	bridge.Do(func() error {
		veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "port"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(host.FD())}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		port = veth.Attrs().Index
		return up("port", "192.0.2.1/24")
	})
	host.Do(func() error { return up("eth0", "192.0.2.2/24") })
	var out, in net.PacketConn
	host.Do(func() (err error) { out, err = net.ListenPacket("udp", "192.0.2.2:9"); return err })
	bridge.Do(func() (err error) { in, err = net.ListenPacket("udp", "192.0.2.1:9"); return err })
	defer out.Close()
	defer in.Close()
	const packets = 400
	arrived := func(from, to net.PacketConn) (count int) {
		for err := error(nil); err == nil; { // what came late
			_ = to.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _, err = to.ReadFrom(make([]byte, 1))
		}
		for range packets {
			if _, err := from.WriteTo([]byte("x"), to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_ = to.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
			if _, _, err := to.ReadFrom(make([]byte, 1)); err == nil {
				count++
			}
		}
		return count
	}
	arrived(out, in) // neighbours
	arrived(in, out)
	for _, c := range []struct {
		way                      Way
		part                     float64
		outMin, outMax, inn, inm int
	}{
		{Both, 1, 0, 0, 0, 0},
		{Out, 1, 0, 0, packets * 9 / 10, packets},
		{In, 1, packets * 9 / 10, packets, 0, 0},
		{Both, 0.3, packets / 2, packets * 85 / 100, packets / 2, packets * 85 / 100},
	} {
		cut, err := loseAt(port, c.way, c.part)
		if err != nil {
			t.Fatal(err)
		}
		if n := arrived(out, in); n < c.outMin || n > c.outMax {
			t.Errorf("way %d, part %v: of %d packets from the host %d arrived", c.way, c.part, packets, n)
		}
		if n := arrived(in, out); n < c.inn || n > c.inm {
			t.Errorf("way %d, part %v: of %d packets to the host %d arrived", c.way, c.part, packets, n)
		}
		if err := cut.Heal(); err != nil {
			t.Fatal(err)
		}
	}
	if n := arrived(out, in); n < packets*9/10 {
		t.Errorf("healed, of %d packets from the host %d arrived", packets, n)
	}
}

func up(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}
