package podnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// tunnel is a tun interface of a host, at which a test puts packets.
type tunnel struct{ file *os.File }

func openTunnel(t *testing.T, host *namespace, addrs ...string) *tunnel {
	t.Helper()
	tun := &tunnel{}
	host.Do(func() error {
		link := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN, Queues: 1, Flags: netlink.TUNTAP_NO_PI}
		if err := netlink.LinkAdd(link); err != nil {
			return err
		}
		tun.file = link.Fds[0]
		failed := []error{os.WriteFile("/proc/sys/net/ipv4/conf/tun0/rp_filter", []byte("0"), 0)}
		for _, a := range addrs {
			failed = append(failed, addressed("tun0", a))
		}
		return errors.Join(failed...)
	})
	t.Cleanup(func() { tun.file.Close() })
	return tun
}

func (tun *tunnel) send(t *testing.T, from, to netip.AddrPort) {
	t.Helper()
	const payload = "forged"
	udp := binary.BigEndian.AppendUint16(nil, from.Port())
	udp = binary.BigEndian.AppendUint16(udp, to.Port())
	udp = binary.BigEndian.AppendUint16(udp, uint16(8+len(payload)))
	udp = append(append(udp, 0, 0), payload...)
	var packet []byte
	if from.Addr().Is4() { // without a sum, as UDP over IPv4 may be
		packet = []byte{0x45, 0, 0, byte(20 + len(udp)), 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		packet = append(append(packet, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
		binary.BigEndian.PutUint16(packet[10:], checksum(packet))
	} else {
		packet = []byte{0x60, 0, 0, 0, 0, byte(len(udp)), unix.IPPROTO_UDP, 64}
		packet = append(append(packet, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
		pseudo := append(append([]byte{}, packet[8:40]...), 0, 0, 0, byte(len(udp)), 0, 0, 0, unix.IPPROTO_UDP)
		binary.BigEndian.PutUint16(udp[6:], checksum(append(pseudo, udp...)))
	}
	if _, err := tun.file.Write(append(packet, udp...)); err != nil {
		t.Fatal(err)
	}
}

func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// dropped are the packets that the family's rules for such interfaces have dropped: by a pod's address, and wrapped.
func dropped(t *testing.T, host *namespace, f *family) (counts [2]uint64) {
	t.Helper()
	host.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		rules, err := c.GetRules(f.header().ownTable(), &nftables.Chain{Name: "prerouting"})
		if err != nil {
			return err
		}
		if len(rules) != len(counts) {
			return fmt.Errorf("%d rules", len(rules))
		}
		for i, r := range rules {
			for _, e := range r.Exprs {
				if counter, ok := e.(*expr.Counter); ok {
					counts[i] = counter.Packets
				}
			}
		}
		return nil
	})
	return counts
}

// Interfaces without Ethernet headers have none of the programs that check packets against the cluster's nodes: a host behind one can
// neither send as a pod nor wrap packets as a node.
func TestForgedPacketsWithoutEthernetHeaders(t *testing.T) {
	f := newFabric(t, 2)
	n := f.network(t, 0)
	f.join(t, n, f.network(t, 1))
	tun := openTunnel(t, f.hosts[0], "172.16.1.1/24", "fd00:172::1/64")
	for i, family := range n.families {
		here := []netip.Addr{netip.MustParseAddr("172.16.1.1"), netip.MustParseAddr("fd00:172::1")}[i]
		neighbour := []netip.Addr{netip.MustParseAddr("172.16.1.9"), netip.MustParseAddr("fd00:172::9")}[i]
		pod := []netip.Addr{netip.MustParseAddr("10.244.2.7"), netip.MustParseAddr("fd00:10:244:2::7")}[i]
		peer := []netip.Addr{f.nodeIP(1), f.nodeIP6(1)}[i]
		for _, c := range []struct {
			name  string
			from  netip.Addr
			port  uint16
			rule  int
			moves bool
		}{
			{"a pod's address", pod, 80, 0, true},
			{"wrapped by a stranger", neighbour, VXLANPort, 1, true},
			{"wrapped by a node", peer, VXLANPort, 1, false},
			{"a neighbour's own packet", neighbour, 80, 0, false},
			{"a neighbour's own packet", neighbour, 80, 1, false},
		} {
			before := dropped(t, f.hosts[0], family)
			tun.send(t, netip.AddrPortFrom(c.from, 4000), netip.AddrPortFrom(here, c.port))
			want, last := before, c.rule
			if c.moves {
				want[c.rule]++
			} else { // what is dropped after it says that it has been looked at
				tun.send(t, netip.AddrPortFrom(pod, 4000), netip.AddrPortFrom(here, 80))
				want[0]++
				last = 0
			}
			after := before
			for end := time.Now().Add(10 * time.Second); after[last] == before[last] && time.Now().Before(end); time.Sleep(time.Millisecond) {
				after = dropped(t, f.hosts[0], family)
			}
			if after != want {
				t.Errorf("%s, %s to port %d: dropped %v, want %v", family, c.name, c.port, after, want)
			}
		}
	}
	// The next process keeps the nodes of the set until it gets others.
	f.hosts[0].Do(func() error {
		next, err := New(n.cfg)
		if err != nil {
			return err
		}
		defer next.Close()
		c, err := nftables.New()
		if err != nil {
			return err
		}
		if known := knownPeers(c, next.families[0]); len(known) != 1 {
			t.Errorf("%d nodes are known after a restart, want 1", len(known))
		}
		if err := next.SyncRoutes(nil); err != nil {
			return err
		}
		if known := knownPeers(c, next.families[0]); len(known) != 0 {
			t.Errorf("%d nodes are known when there are none", len(known))
		}
		return nil
	})
}
