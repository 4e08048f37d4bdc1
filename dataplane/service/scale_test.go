package service

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/bpf"
)

// kubernetes 135639: very many endpoints. 250,000 in 50,000 services fit the
// default limits, and one more change among them costs no more than among few.
func TestFullLoad(t *testing.T) {
	s := newStage(t)
	p, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup, Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	const services, each = 50_000, 5
	service := func(i int) Service {
		s := Service{
			Name:      fmt.Sprintf("default/s%d:p", i),
			Frontends: []Frontend{{Addr: number(10, 96, i), Port: 80, Protocol: TCP}, {Addr: netip.IPv4Unspecified(), Port: uint16(1 + i), Protocol: TCP}},
		}
		for k := range each {
			s.Backends = append(s.Backends, Backend{Addr: number(10, 128, i*each+k), Port: 8080, Node: fmt.Sprintf("node%d", k*997%1000)})
		}
		return s
	}
	start := time.Now()
	for i := range services {
		p.SetService(service(i))
	}
	flush(t, p)
	t.Logf("%d services with %d endpoints in %v", services, services*each, time.Since(start).Round(time.Millisecond))
	if problems := p.Problems(); len(problems) > 0 {
		t.Fatalf("%d problems, the first: %v", len(problems), problems[0])
	}
	selector := newSelector(t, p)
	for _, i := range []int{0, 4711, services - 1} {
		for k := range each {
			if got, why := selector.run(service(i).Frontends[0], 1); got.Addr != service(i).Backends[k].Addr {
				t.Errorf("service %d turn %d: %v, %s", i, k, got, counterLabels[why])
			}
		}
	}
	changed := service(4711)
	changed.Backends = changed.Backends[1:]
	start = time.Now()
	p.SetService(changed)
	flush(t, p)
	t.Logf("one change among them in %v", time.Since(start))
	var memory uint64
	for _, m := range p.Maps() {
		if info, err := m.Info(); err == nil {
			if bytes, ok := info.Memlock(); ok {
				memory += bytes
			}
		}
	}
	t.Logf("maps hold %d MiB", memory>>20)
	p.Close()
	start = time.Now()
	next, err := Open(Options{PinDir: s.pins, CgroupPath: s.cgroup, Node: "node1"})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	t.Logf("adopted in %v", time.Since(start).Round(time.Millisecond))
}

func number(a, b byte, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{a, b + byte(n>>16), byte(n >> 8), byte(n)})
}

// 1,000 endpoints in a service, and 200 ports.
func TestLargeServices(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	big := fleet("default/big:http", "10.96.0.1:80", 1000, 10)
	p.SetService(big)
	for port := range 200 {
		p.SetService(fleet(fmt.Sprintf("default/ports:p%d", port), fmt.Sprintf("10.96.0.2:%d", 1000+port), 3, 3))
	}
	flush(t, p)
	seen := map[netip.Addr]bool{}
	for range 1000 {
		got, _ := s.run(big.Frontends[0], 1)
		seen[got.Addr] = true
	}
	if len(seen) != 1000 {
		t.Errorf("1000 turns reached %d of 1000 backends", len(seen))
	}
	for port := range 200 {
		if _, why := s.run(frontend(fmt.Sprintf("10.96.0.2:%d", 1000+port), TCP), 1); why != bpf.SocketCounterREASON_TRANSLATED {
			t.Errorf("port %d: %s", port, counterLabels[why])
		}
	}
}

// A full map is named, what fits is installed, other services are not affected, and
// room that becomes free is used.
func TestFullMapIsAProblemOfItsService(t *testing.T) {
	for what, limits := range map[string]Limits{
		"backends are in use":  {Backends: 8, Slots: 256, Frontends: 64, Services: 64, Nodes: 64},
		"frontends are in use": {Backends: 64, Slots: 256, Frontends: 3, Services: 64, Nodes: 64},
		"services are in use":  {Backends: 64, Slots: 256, Frontends: 64, Services: 3, Nodes: 64},
		"nodes are in use":     {Backends: 64, Slots: 256, Frontends: 64, Services: 64, Nodes: 4},
	} {
		p, _ := newStage(t).recording(t, limits)
		selector := newSelector(t, p)
		for i := range 3 {
			s := fleet(fmt.Sprintf("default/s%d:p", i), fmt.Sprintf("10.96.0.%d:80", i), 2, 1)
			s.Backends[0].Node = fmt.Sprintf("node%d", i)
			p.SetService(s)
		}
		flush(t, p)
		over := fleet("default/over:p", "10.96.0.9:80", 4, 4)
		for i := range over.Backends {
			over.Backends[i].Node = fmt.Sprintf("other%d", i%3)
		}
		p.SetService(over)
		if err := p.awaitError(); !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), "--table-sizes") {
			t.Errorf("error %v, want it to name: %s", err, what)
		}
		if problems := p.Problems(); len(problems) != 1 || problems[0].Service != "default/over:p" || !strings.Contains(problems[0].Reason, what) {
			t.Errorf("%s: problems %v", what, problems)
		}
		for i := range 3 {
			if _, why := selector.run(frontend(fmt.Sprintf("10.96.0.%d:80", i), TCP), 1); why != bpf.SocketCounterREASON_TRANSLATED {
				t.Errorf("%s: service %d: %s", what, i, counterLabels[why])
			}
		}
		p.DeleteService("default/s0:p")
		p.DeleteService("default/s1:p")
		p.DeleteService("default/s2:p")
		flush(t, p)
		if problems := p.Problems(); len(problems) != 0 {
			t.Errorf("%s: with room again: %v", what, problems)
		}
		if d := dump(t, p); len(d.Services) != 1 || len(d.Services[0].Slots) != 4 {
			t.Errorf("%s: with room again: %+v", what, d.Services)
		}
		p.Close()
	}
}
