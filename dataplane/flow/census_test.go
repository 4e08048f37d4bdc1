package flow

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/census"
	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
	"github.com/skep-io/skep/dataplane/service"
)

// count opens a census on every host and returns a function that adds up what it finds, by pod, and on which host.
func (w *world) count() (flows func(pods ...*fabrictest.Pod) map[string][]census.Connected, correct func()) {
	w.t.Helper()
	var all []*census.Census
	for i, h := range w.Hosts {
		c, err := census.New(census.Options{Plane: h.Plane, Flows: w.flows[i]})
		if err != nil {
			w.t.Fatal(err)
		}
		w.t.Cleanup(func() { c.Close() })
		all = append(all, c)
	}
	flows = func(pods ...*fabrictest.Pod) map[string][]census.Connected {
		w.t.Helper()
		found := map[string][]census.Connected{}
		for host, c := range all {
			counted, err := c.CountNow()
			if err != nil {
				w.t.Fatal(err)
			}
			for _, pod := range pods {
				if found[pod.ID] == nil {
					found[pod.ID] = make([]census.Connected, len(all))
				}
				for key, one := range counted {
					if key.Backend.Addr() == pod.Addr4() || key.Backend.Addr() == pod.Addr6() {
						found[pod.ID][host].Flows += one.Flows
						found[pod.ID][host].Weighed += one.Weighed
					}
				}
			}
		}
		return found
	}
	return flows, func() {
		w.t.Helper()
		for _, c := range all {
			if err := c.Correct(); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// Connections from outside are counted once in the cluster, whichever nodes they pass, until they end.
func TestCensusOfFlows(t *testing.T) {
	w := newWorld(t, 2)
	here, elsewhere, behind := w.Hosts[0].NewPod("here"), w.Hosts[1].NewPod("elsewhere"), w.Hosts[1].NewPod("behind")
	pods := []*fabrictest.Pod{here, elsewhere, behind}
	hangUp := make(chan struct{})
	serveName(t, here, hangUp)
	serveName(t, elsewhere, nil)
	serveName(t, behind, nil)
	w.SetService(nodePort("t/here:tcp", service.TCP, 30080, here))
	w.SetService(nodePort("t/elsewhere:tcp", service.TCP, 30081, elsewhere))
	snat := nodePort("t/behind:tcp", service.TCP, 30082, behind)
	snat.SNAT = true
	w.SetService(snat)
	flows, _ := w.count()
	want := func(when string, want map[string][]uint32) {
		t.Helper()
		for pod, hosts := range flows(pods...) {
			for host, c := range hosts {
				if c.Flows != want[pod][host] {
					t.Errorf("%s: host %d counts %d flows of %s, want %d", when, host, c.Flows, pod, want[pod][host])
				}
			}
		}
	}
	want("at first", map[string][]uint32{"here": {0, 0}, "elsewhere": {0, 0}, "behind": {0, 0}})
	callers := map[string]*caller{}
	for i, pod := range pods {
		c := &caller{t, w, netip.AddrPort{}, map[string][]net.Conn{}}
		for _, asked := range fabrictest.NodeIPs(0) {
			c.to = netip.AddrPortFrom(asked, uint16(30080+i))
			for range i + 2 {
				c.dial()
			}
		}
		callers[pod.ID] = c
	}
	// On the pod's node; with source translation, on the node that the client asked: the pod's node cannot distinguish it from any client.
	want("open", map[string][]uint32{"here": {4, 0}, "elsewhere": {0, 6}, "behind": {8, 0}})
	callers["elsewhere"].end("elsewhere")
	callers["behind"].end("behind")
	want("ended by clients", map[string][]uint32{"here": {4, 0}, "elsewhere": {0, 0}, "behind": {0, 0}})
	gone := make(chan struct{})
	for _, conn := range callers["here"].open["here"] {
		go func() { conn.Read(make([]byte, 1)); gone <- struct{}{} }()
	}
	for range 2 {
		hangUp <- struct{}{}
		<-gone
	}
	want("two ended by the backend", map[string][]uint32{"here": {2, 0}, "elsewhere": {0, 0}, "behind": {0, 0}})
}

// Flows that end without a packet are counted until the next correction.
func TestCorrectsWhatEndedInSilence(t *testing.T) {
	w := newWorld(t, 1)
	one, two := w.Hosts[0].NewPod("one"), w.Hosts[0].NewPod("two")
	serveName(t, one, nil)
	serveName(t, two, nil)
	s := nodePort("t/tcp", service.TCP, 30080, one, two)
	s.Selection = service.LeastConnections
	w.SetService(s)
	_, correct := w.count()
	c := &caller{t, w, netip.AddrPortFrom(fabrictest.NodeIPs(0)[0], 30080), map[string][]net.Conn{}}
	for range 6 {
		c.dial()
	}
	correct()
	w.wantWeights(0, map[string]int32{"one": 3, "two": 3}, one, two)
	// As if the kernel had evicted the flows of one pod's clients.
	flows := w.flows[0].maps.flows
	all, err := flows.All()
	if err != nil {
		t.Fatal(err)
	}
	for key, flow := range all {
		if addrPort(flow.Peer).Addr() == one.Addr4() {
			if err := flows.Delete(key); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.wantWeights(0, map[string]int32{"one": 3, "two": 3}, one, two)
	correct()
	w.wantWeights(0, map[string]int32{"one": 0, "two": 3}, one, two)
	for i := range 3 {
		if got := c.dial(); got != "one" {
			t.Errorf("connection %d went to %s, not to who has none", i, got)
		}
	}
}

// What a count costs with a flow map that is full.
func BenchmarkCensusOfFlows(b *testing.B) {
	s := newStage(b)
	to, at := netip.MustParseAddrPort("198.51.100.1:80"), netip.MustParseAddrPort("10.244.1.2:80")
	s.set(external("t/udp", service.UDP, to, backend(at, "node1")))
	s.run(udp(client4, to, "x").arriving())
	two, err := s.flows.maps.flows.All()
	if err != nil || len(two) != 2 {
		b.Fatalf("%d entries of one flow, %v", len(two), err)
	}
	for i := range uint32(s.flows.maps.flows.Map.MaxEntries() / 2) {
		for key, flow := range two {
			key.Source.Addr.Word[2] = binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, i))
			if err := s.flows.maps.flows.Put(key, flow); err != nil {
				b.Fatal(err)
			}
		}
	}
	c, err := census.New(census.Options{Plane: s.plane, Flows: s.flows})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	var flows uint32
	for b.Loop() {
		counted, err := c.CountFlows()
		if err != nil {
			b.Fatal(err)
		}
		flows = 0
		for _, one := range counted {
			flows += one.Flows
		}
	}
	b.ReportMetric(float64(flows), "flows")
}
