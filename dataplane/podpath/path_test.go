package podpath_test

import (
	"net/netip"
	"os"
	"testing"

	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// bothWays runs a test with the kernel's default, tcx or clsact, and with clsact.
func bothWays(t *testing.T, test func(t *testing.T, change func(*podpath.Options))) {
	t.Run("chosen", func(t *testing.T) { test(t, nil) })
	t.Run("clsact", func(t *testing.T) { test(t, func(o *podpath.Options) { o.Clsact = true }) })
}

func TestPodsOfOneNodeTalkAroundTheStack(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.New(t, 1)
		h := f.Hosts[0]
		h.OpenPath(change)
		a, b := h.NewPod("a"), h.NewPod("b")
		for i, addr := range b.Addrs {
			target := netip.AddrPortFrom(addr, 8080)
			serve(t, b.Namespace, target)
			serveUDP(t, b.Namespace, target)
			for _, network := range []string{"tcp", "udp"} {
				before := counters(t, h)
				if got := ask(t, a.Namespace, network, target); got.Addr() != a.Addrs[i] {
					t.Errorf("%s %s saw %s, want %s", network, target, got, a.Addrs[i])
				}
				wantMovedBeside(t, network+" to "+target.String(), before, counters(t, h), neighbourTalk, "from_pod/peer")
			}
			pump(t, a.Namespace, target, 16<<20)
		}
	})
}

func TestPodsOfTwoNodesTalkAroundTheStacks(t *testing.T) {
	bothWays(t, func(t *testing.T, change func(*podpath.Options)) {
		f := fabrictest.New(t, 2)
		for _, h := range f.Hosts {
			h.OpenPath(change)
		}
		a, b := f.Hosts[0].NewPod("a"), f.Hosts[1].NewPod("b")
		for i, addr := range b.Addrs {
			target := netip.AddrPortFrom(addr, 8080)
			serve(t, b.Namespace, target)
			serveUDP(t, b.Namespace, target)
			for _, network := range []string{"tcp", "udp"} {
				before := []map[string]uint64{counters(t, f.Hosts[0]), counters(t, f.Hosts[1])}
				if got := ask(t, a.Namespace, network, target); got.Addr() != a.Addrs[i] {
					t.Errorf("%s %s saw %s, want %s", network, target, got, a.Addrs[i])
				}
				for k, h := range f.Hosts {
					wantMovedBeside(t, h.Name+": "+network+" to "+target.String(), before[k], counters(t, h),
						neighbourTalk, "from_pod/neighbour_node", "from_uplink/peer")
				}
			}
			pump(t, a.Namespace, target, 16<<20)
		}
	})
}

func TestServiceByThePacket(t *testing.T) {
	f := fabrictest.New(t, 2)
	f.OpenPaths()
	client := f.Hosts[0].NewPod("client")
	for _, where := range []struct {
		name   string
		port   uint16 // one each: connections that end late are not mistaken for another's
		server *fabrictest.Pod
	}{
		{"here", 80, f.Hosts[0].NewPod("here")},
		{"elsewhere", 81, f.Hosts[1].NewPod("elsewhere")},
	} {
		t.Run(where.name, func(t *testing.T) {
			for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
				s, frontends := serviceFor("default/"+where.name+":"+protocol.String(), protocol, where.port, 8080, where.server)
				f.SetService(s)
				for i, frontend := range frontends {
					backend := netip.AddrPortFrom(where.server.Addrs[i], 8080)
					network := "tcp"
					if protocol == service.UDP {
						network = "udp"
						serveUDP(t, where.server.Namespace, backend)
					} else {
						serve(t, where.server.Namespace, backend)
					}
					before := counters(t, f.Hosts[0])
					if got := ask(t, client.Namespace, network, frontend); got.Addr() != client.Addrs[i] {
						t.Errorf("%s %s saw %s, want %s", network, frontend, got, client.Addrs[i])
					}
					changed := moved(before, counters(t, f.Hosts[0]))
					if changed["from_pod/event_new_flow"] != 1 {
						t.Errorf("%s %s: %v, want one new flow", network, frontend, changed)
					}
					if network == "tcp" {
						pump(t, client.Namespace, frontend, 16<<20)
						continue
					}
					conn := dial(t, client.Namespace, "udp", frontend)
					for _, size := range []int{1, 1400, 9000, 60000} { // the last two in fragments
						echoUDP(t, conn, size)
					}
				}
			}
		})
	}
}

// kubernetes 20475: a pod reaches itself through its service.
func TestPodReachesItselfThroughItsService(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	pod := f.Hosts[0].NewPod("self")
	hairpins := []string{"169.254.1.1", "fd73:6b65:7000::1"}
	for _, protocol := range []service.Protocol{service.TCP, service.UDP} {
		s, frontends := serviceFor("default/self:"+protocol.String(), protocol, 80, 8080, pod)
		f.SetService(s)
		for i, frontend := range frontends {
			network := "tcp"
			if protocol == service.UDP {
				network = "udp"
				serveUDP(t, pod.Namespace, netip.AddrPortFrom(pod.Addrs[i], 8080))
			} else {
				serve(t, pod.Namespace, netip.AddrPortFrom(pod.Addrs[i], 8080))
			}
			before := counters(t, f.Hosts[0])
			if got := ask(t, pod.Namespace, network, frontend); got.Addr().String() != hairpins[i] {
				t.Errorf("%s %s: the pod sees itself at %s, want %s", network, frontend, got, hairpins[i])
			}
			wantMovedBeside(t, network+" to itself through "+frontend.String(), before, counters(t, f.Hosts[0]), neighbourTalk,
				"from_pod/peer", "from_pod/event_new_flow", "from_pod/event_translated", "from_pod/event_hairpin", "from_pod/event_reversed")
			if network == "tcp" {
				pump(t, pod.Namespace, frontend, 4<<20)
			} else {
				echoUDP(t, dial(t, pod.Namespace, "udp", frontend), 20000)
			}
		}
	}
}

func TestQueuedPodIsReachedThroughItsQueue(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	client := h.NewPod("client")
	server := h.NewLimitedPod("server", podnet.Bandwidth{Ingress: 1 << 30})
	if !server.Shaped {
		t.Fatalf("the pod has no queue: %v", server.Unlimited)
	}
	target := netip.AddrPortFrom(server.Addr4(), 8080)
	serve(t, server.Namespace, target)
	before := counters(t, h)
	if got := ask(t, client.Namespace, "tcp", target); got.Addr() != client.Addr4() {
		t.Errorf("%s saw %s, want %s", target, got, client.Addr4())
	}
	wantMovedBeside(t, "to a pod with a queue", before, counters(t, h), neighbourTalk, "from_pod/queue", "from_pod/peer", "to_pod/delivered")
	// And in the other direction by a service address, so that what enters the queue was translated.
	s, frontends := serviceFor("default/back:http", service.TCP, 80, 8080, client)
	f.SetService(s)
	serve(t, client.Namespace, netip.AddrPortFrom(client.Addr4(), 8080))
	if got := ask(t, server.Namespace, "tcp", frontends[0]); got.Addr() != server.Addr4() {
		t.Errorf("%s saw %s, want %s", frontends[0], got, server.Addr4())
	}
	pump(t, server.Namespace, frontends[0], 1<<20)
}

// Pods of a range that is added while the programs run take the fast path from then on.
func TestPodRangeIsAdded(t *testing.T) {
	f := fabrictest.New(t, 2)
	for _, h := range f.Hosts {
		h.OpenPath(func(o *podpath.Options) { o.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix("10.250.0.0/16")} })
	}
	a, b := f.Hosts[0].NewPod("a"), f.Hosts[1].NewPod("b")
	for _, added := range []bool{false, true} {
		for _, h := range f.Hosts {
			if added {
				if err := h.Path.SetClusterCIDRs(append([]netip.Prefix{netip.MustParsePrefix("10.250.0.0/16")}, fabrictest.ClusterRanges()...)); err != nil {
					t.Fatal(err)
				}
			}
		}
		for i, addr := range b.Addrs {
			target := netip.AddrPortFrom(addr, 8080)
			if !added {
				serve(t, b.Namespace, target)
			}
			before := counters(t, f.Hosts[0])["from_pod/neighbour_node"]
			if got := ask(t, a.Namespace, "tcp", target); added && got.Addr() != a.Addrs[i] {
				t.Errorf("%s saw %s, want %s", target, got, a.Addrs[i])
			}
			if fast := counters(t, f.Hosts[0])["from_pod/neighbour_node"] > before; fast != added {
				t.Errorf("%s: the range is added: %t, and its packets pass the host's stack: %t", target, added, !fast)
			}
		}
	}
	if err := f.Hosts[0].Path.SetClusterCIDRs(make([]netip.Prefix, 9)); err == nil {
		t.Error("nine ranges are accepted, and the programs hold eight")
	}
}
