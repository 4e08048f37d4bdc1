package flow

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/pinned"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

const deadline = 60 * time.Second

const (
	xdpDrop = 1
	xdpPass = 2
	xdpTX   = 3
)

// The stage of the packet tests: one node with two neighbours whose addresses are known.
var (
	node4, node6     = netip.MustParseAddr("192.0.2.11"), netip.MustParseAddr("2001:db8:2::11")
	peer4, peer6     = netip.MustParseAddr("192.0.2.12"), netip.MustParseAddr("2001:db8:2::12")
	third4           = netip.MustParseAddr("192.0.2.13")
	router4, router6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8:2::1")
	client4, client6 = netip.MustParseAddrPort("203.0.113.9:40000"), netip.MustParseAddrPort("[2001:db8:9::9]:40000")
)

// stage is a network namespace with one uplink that runs the program over a plane of its own.
type stage struct {
	*fabrictest.Namespace
	tb      testing.TB
	plane   *service.Plane
	flows   *Flows
	program *ebpf.Program
	index   int
	pins    string
	options Options
}

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

func newStage(tb testing.TB) *stage {
	tb.Helper()
	s := &stage{Namespace: sandbox.NewNamespace(tb), tb: tb, pins: sandbox.Pins(tb)}
	s.Do(s.wire)
	s.openPlane()
	s.options = Options{
		PinDir:  filepath.Join(s.pins, "flow"),
		Plane:   s.plane,
		Uplinks: []string{"eth0"},
		NodeIPs: []netip.Addr{node4, node6},
	}
	s.open()
	tb.Cleanup(func() {
		if err := errors.Join(s.flows.Close(), s.program.Close(), s.Try(func() error { return Remove(s.options.PinDir) })); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func (s *stage) wire() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = "eth0", nodeMAC[:]
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far"}); err != nil {
		return err
	}
	uplink, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	s.index = uplink.Attrs().Index
	far, err := netlink.LinkByName("far")
	if err != nil {
		return err
	}
	failed := []error{
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/all/forwarding", []byte("1"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0),
		os.WriteFile("/proc/sys/net/ipv6/conf/far/disable_ipv6", []byte("1"), 0), // nothing of its own arrives
		netlink.LinkSetUp(uplink), netlink.LinkSetUp(far),
	}
	for _, cidr := range []string{node4.String() + "/24", node6.String() + "/64"} {
		addr, err := netlink.ParseAddr(cidr)
		failed = append(failed, err, netlink.AddrAdd(uplink, addr))
	}
	for addr, mac := range map[netip.Addr][6]byte{router4: routerMAC, router6: routerMAC, peer4: peerMAC, peer6: peerMAC} {
		failed = append(failed, netlink.NeighSet(&netlink.Neigh{LinkIndex: s.index, IP: addr.AsSlice(),
			HardwareAddr: mac[:], State: netlink.NUD_PERMANENT}))
	}
	for _, gateway := range []netip.Addr{router4, router6} {
		failed = append(failed, netlink.RouteAdd(&netlink.Route{LinkIndex: s.index, Gw: gateway.AsSlice()}))
	}
	return errors.Join(failed...)
}

func (s *stage) openPlane() {
	s.tb.Helper()
	pins := filepath.Join(s.pins, "service")
	var err error
	s.plane, err = service.Open(service.Options{PinDir: pins, CgroupPath: sandbox.NewCgroup(s.tb), Node: "node1",
		Limits: service.Limits{Frontends: 1024, Services: 1024, Backends: 1024, Slots: 131072, Nodes: 64}})
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() {
		if err := errors.Join(s.plane.Close(), service.Remove(pins)); err != nil {
			s.tb.Error(err)
		}
	})
	s.plane.SetAddresses([]netip.Addr{node4, node6})
	s.plane.SetNodeAddresses("node1", []netip.Addr{node4, node6})
	s.plane.SetNodeAddresses("node2", []netip.Addr{peer4, peer6})
	s.plane.SetNodeAddresses("node3", []netip.Addr{third4})
	s.plane.SetNodeAddresses("node6", []netip.Addr{netip.MustParseAddr("2001:db8:2::16")})
}

// open opens, or reopens, the flows and the running program.
func (s *stage) open() {
	s.tb.Helper()
	s.Do(func() (err error) {
		s.flows, err = Open(s.options)
		return err
	})
	s.program = s.running()
}

func (s *stage) running() *ebpf.Program {
	s.tb.Helper()
	pins, err := pinned.LinksByInterface(s.options.PinDir)
	if err != nil || len(pins[s.index]) != 1 {
		s.tb.Fatalf("pinned links of eth0: %v, %v, want one", pins, err)
	}
	ours, err := link.LoadPinnedLink(pins[s.index][0], nil)
	if err != nil {
		s.tb.Fatal(err)
	}
	defer ours.Close()
	info, err := ours.Info()
	if err != nil {
		s.tb.Fatal(err)
	}
	program, err := ebpf.NewProgramFromID(info.Program)
	if err != nil {
		s.tb.Fatal(err)
	}
	return program
}

func (s *stage) set(services ...service.Service) {
	s.tb.Helper()
	for _, one := range services {
		s.plane.SetService(one)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := s.plane.Flush(ctx); err != nil {
		s.tb.Fatal(err)
	}
}

// xdpContext is struct xdp_md.
type xdpContext struct{ Data, DataEnd, DataMeta, IngressIfindex, RxQueueIndex, EgressIfindex uint32 }

// run gives the program one packet. The counters that it moved are in moved.
func (s *stage) run(in []byte) (verdict uint32, out []byte, moved map[string]uint64) {
	s.tb.Helper()
	before, err := s.flows.Counters()
	if err != nil {
		s.tb.Fatal(err)
	}
	options := &ebpf.RunOptions{
		Data:    in,
		DataOut: make([]byte, len(in)+256),
		Context: xdpContext{DataEnd: uint32(len(in)), IngressIfindex: uint32(s.index)},
	}
	s.Do(func() error {
		if err := onOneCPU(); err != nil {
			return err
		}
		verdict, err = s.program.Run(options)
		return err
	})
	after, err := s.flows.Counters()
	if err != nil {
		s.tb.Fatal(err)
	}
	for name, n := range after {
		after[name] = n - before[name]
	}
	maps.DeleteFunc(after, func(_ string, n uint64) bool { return n == 0 })
	return verdict, options.DataOut, after
}

// step is one packet in, and its whole outcome.
type step struct {
	name    string
	in      []byte
	verdict uint32
	out     []byte // nil: as it came
	counts  []string
}

func (s *stage) check(t *testing.T, steps ...step) {
	t.Helper()
	for _, step := range steps {
		verdict, out, moved := s.run(step.in)
		delete(moved, "event_hop_lookup") // depends on the clock
		want := map[string]uint64{}
		for _, name := range step.counts {
			want[name]++
		}
		if !maps.Equal(moved, want) {
			t.Errorf("%s: counters %v, want %v", step.name, moved, want)
		}
		if verdict != step.verdict {
			t.Errorf("%s: verdict %d, want %d", step.name, verdict, step.verdict)
		}
		if step.out == nil {
			step.out = step.in
		}
		if verdict != xdpDrop && !bytes.Equal(out, step.out) {
			t.Log(step.name)
			diffFrames(t, out, step.out)
		}
	}
}

// prime sends a packet so that the next one to the same neighbour is not handed to the stack first.
func (s *stage) prime(t *testing.T, frame []byte) {
	t.Helper()
	if _, _, moved := s.run(frame); moved["handed_over"]+moved["encapsulated"]+moved["translated_out"] != 1 {
		t.Fatalf("a packet to prime a neighbour: counters %v", moved)
	}
}

// onOneCPU keeps the thread on the first CPU it may run on, so that what the program keeps for each CPU is found again.
func onOneCPU() error {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return err
	}
	for cpu := range 1024 {
		if allowed.IsSet(cpu) {
			one.Set(cpu)
			return unix.SchedSetaffinity(0, &one)
		}
	}
	return errors.New("no CPU may be used")
}
