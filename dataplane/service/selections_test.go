package service

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/bpf/selectiontest"
)

// fleet is a service of n backends, spread over nodes node0, node1, ...
func fleet(name, address string, n, nodes int) Service {
	s := Service{Name: name, Frontends: []Frontend{frontend(address, TCP)}}
	addr := netip.MustParseAddr("10.244.0.1")
	for i := range n {
		s.Backends = append(s.Backends, Backend{Addr: addr, Port: 8080, Node: fmt.Sprintf("node%d", i%nodes)})
		addr = addr.Next()
	}
	return s
}

// dumbService is a simple model of a service: it walks a list.
type dumbService struct {
	all, local []Backend
	cursor     map[bool]int
}

func dumb(s Service) *dumbService {
	d := &dumbService{cursor: map[bool]int{}}
	pick := func(among []Backend) []Backend {
		for _, state := range []State{Active, Terminating} {
			var found []Backend
			for _, b := range among {
				if b.State == state {
					found = append(found, b)
				}
			}
			if len(found) > 0 {
				return found
			}
		}
		return nil
	}
	var here []Backend
	for _, b := range s.Backends {
		if b.Node == "node1" {
			here = append(here, b)
		}
	}
	d.all, d.local = pick(s.Backends), pick(here)
	return d
}

// next is the backend whose turn it is, false if there is none.
func (d *dumbService) next(local bool) (Backend, bool) {
	run := d.all
	if local {
		run = d.local
	}
	if len(run) == 0 {
		return Backend{}, false
	}
	b := run[d.cursor[local]%len(run)]
	d.cursor[local]++
	return b, true
}

// Round robin agrees with its model turn by turn, for both runs, whatever the
// states and nodes of the backends.
func TestRoundRobinAgreesWithItsTwin(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 7))
		service := fleet(fmt.Sprintf("default/s%d:p", seed), fmt.Sprintf("10.96.%d.1:80", seed), 1+random.IntN(40), 3)
		policy := service.Frontends[0]
		policy.Port, policy.Local = 81, true
		service.Frontends = append(service.Frontends, policy)
		for i := range service.Backends {
			service.Backends[i].State = State(random.IntN(3))
		}
		p.SetService(service)
		flush(t, p)
		twin := dumb(service)
		for turn := range 100 {
			local := random.IntN(3) == 0
			asked := service.Frontends[0]
			if local {
				asked = policy
			}
			want, ok := twin.next(local)
			got, why := s.run(asked.identity(), 1)
			if ok != (why == bpf.SocketCounterREASON_TRANSLATED) || (ok && got.Addr != want.Addr) {
				t.Fatalf("seed %d turn %d local %v: %v (%s), twin says %v %v", seed, turn, local, got.Addr, counterLabels[why], want.Addr, ok)
			}
			if !ok && local != (why == bpf.SocketCounterREASON_NO_LOCAL_BACKEND) {
				t.Fatalf("seed %d turn %d local %v: refused with %s", seed, turn, local, counterLabels[why])
			}
		}
		p.DeleteService(service.Name)
	}
}

func TestRoundRobinSharesEvenlyWithoutDownNodes(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := fleet("default/web:http", "10.96.0.1:80", 12, 4)
	p.SetService(service)
	p.SetNodeDown("node2", true)
	flush(t, p)
	shares := map[netip.Addr]int{}
	const rounds = 30
	for range 9 * rounds {
		got, why := s.run(service.Frontends[0], 1)
		if why != bpf.SocketCounterREASON_TRANSLATED {
			t.Fatal(counterLabels[why])
		}
		shares[got.Addr]++
	}
	for i, b := range service.Backends {
		if b.Node == "node2" {
			if shares[b.Addr] != 0 {
				t.Errorf("backend %d of a down node got %d", i, shares[b.Addr])
			}
			continue
		}
		// The one after a down backend gets its turns too.
		if n := shares[b.Addr]; n < rounds*3/4 || n > rounds*3/2 {
			t.Errorf("backend %d got %d of %d, want about %d", i, n, 9*rounds, rounds)
		}
	}
}

// For counts that a test sets, the kernel chooses as a model does that reads all
// of them.
func TestLeastConnectionsAgreesWithItsTwin(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 3))
		service := fleet("default/web:http", "10.96.0.1:80", 1+random.IntN(64), 3)
		service.Selection = LeastConnections
		p.SetService(service)
		flush(t, p)
		ids := map[netip.Addr]uint32{}
		for _, b := range dump(t, p).Backends {
			ids[b.Address.Addr()] = b.ID
		}
		for range 50 {
			least := uint32(1 << 31)
			for _, id := range ids {
				active := random.Uint32N(5)
				p.maps.backends.at(id).Active = active
				least = min(least, active)
			}
			got, why := s.run(service.Frontends[0], 1)
			if why != bpf.SocketCounterREASON_TRANSLATED {
				t.Fatal(counterLabels[why])
			}
			if active := p.maps.backends.at(ids[got.Addr]).Active; active != least {
				t.Fatalf("seed %d: chose one with %d sockets, the least has %d", seed, active, least)
			}
		}
	}
}

// Equal backends get turns: an unused service does not send all to the first.
func TestLeastConnectionsBreaksTiesInTurn(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := fleet("default/web:http", "10.96.0.1:80", 5, 1)
	service.Selection = LeastConnections
	p.SetService(service)
	flush(t, p)
	for turn := range 15 {
		if got, _ := s.run(service.Frontends[0], 1); got.Addr != service.Backends[turn%5].Addr {
			t.Fatalf("turn %d went to %v", turn, got.Addr)
		}
	}
}

func TestRandomReachesAllAlike(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := fleet("default/web:http", "10.96.0.1:80", 8, 1)
	service.Selection = Random
	p.SetService(service)
	flush(t, p)
	shares, repeats, last := map[netip.Addr]int{}, 0, netip.Addr{}
	const each = 500
	for range 8 * each {
		got, _ := s.run(service.Frontends[0], 1)
		if got.Addr == last {
			repeats++
		}
		last = got.Addr
		shares[got.Addr]++
	}
	for addr, n := range shares { // 7 standard deviations
		if n < each-147 || n > each+147 {
			t.Errorf("%v got %d of %d", addr, n, 8*each)
		}
	}
	if len(shares) != 8 || repeats == 0 {
		t.Errorf("%d of 8 backends, %d repeats: that is not random", len(shares), repeats)
	}
}

// The backend that another node chose is found by the end of its address; if it is
// not here any more, another one of this node answers, never one of another node.
func TestSelectLocalFollowsTheHint(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	for _, selection := range []Selection{RoundRobin, Maglev} {
		service := fleet("default/web:http", "10.96.0.1:80", 40, 4)
		service.Selection = selection
		p.SetService(service)
		flush(t, p)
		for i, b := range service.Backends {
			addr := b.Addr.As4()
			hint := uint32(addr[2])<<8 | uint32(addr[3])
			out := s.ask(s.objects.SkepTestSelectLocal, service.Frontends[0], selectiontest.SelectionSelection{Backend: hint})
			got := peerOf(out)
			here := slices.IndexFunc(service.Backends, func(b Backend) bool { return b.Addr == got.Addr })
			if here%4 != 1 || (i%4 == 1 && here != i) {
				t.Errorf("%v: hint of backend %d led to backend %d", selection, i, here)
			}
			if bpf.SocketBackendFlags(out.BackendFlags)&bpf.SocketBackendFlagsBACKEND_LOCAL == 0 {
				t.Errorf("%v: backend %d is not marked as local", selection, here)
			}
		}
	}
	elsewhere := fleet("default/web:http", "10.96.0.1:80", 3, 1)
	p.SetService(elsewhere)
	flush(t, p)
	out := s.ask(s.objects.SkepTestSelectLocal, elsewhere.Frontends[0], selectiontest.SelectionSelection{})
	if why := bpf.SocketCounter(out.Reason); why != bpf.SocketCounterREASON_NO_LOCAL_BACKEND {
		t.Errorf("no backend here: %s", counterLabels[why])
	}
}

func TestSourceRanges(t *testing.T) {
	p := newStage(t).open(t)
	s := newSelector(t, p)
	service := Service{
		Name: "default/web:http",
		Frontends: []Frontend{
			{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80, Protocol: TCP, Scope: ScopeExternal, Restricted: true},
			{Addr: netip.MustParseAddr("2001:db8::1"), Port: 80, Protocol: TCP, Scope: ScopeExternal, Restricted: true},
			{Addr: netip.MustParseAddr("10.0.0.1"), Port: 30080, Protocol: TCP, Scope: ScopeExternal},
			{Addr: netip.MustParseAddr("203.0.113.1"), Port: 80, Protocol: TCP, Restricted: true},
		},
		Backends: []Backend{
			{Addr: netip.MustParseAddr("10.244.0.1"), Port: 80},
			{Addr: netip.MustParseAddr("fd00::1"), Port: 80},
		},
		SourceRanges: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/25"), netip.MustParsePrefix("2001:db8:1::/48")},
	}
	p.SetService(service)
	flush(t, p)
	check := func(f Frontend, client string, want bpf.SocketCounter) {
		t.Helper()
		var request selectiontest.SelectionSelection
		request.Client.Word = toAddress(netip.MustParseAddr(client)).Word
		out := s.ask(s.objects.SkepTestSelect, f.identity(), request)
		if got := bpf.SocketCounter(out.Reason); got != want {
			t.Errorf("%s asks for %v: %s, want %s", client, f, counterLabels[got], counterLabels[want])
		}
	}
	const in, out = bpf.SocketCounterREASON_TRANSLATED, bpf.SocketCounterREASON_SOURCE_REFUSED
	check(service.Frontends[0], "198.51.100.127", in)
	check(service.Frontends[0], "198.51.100.128", out)
	check(service.Frontends[1], "2001:db8:1:2::3", in)
	check(service.Frontends[1], "2001:db8:2::3", out)
	check(service.Frontends[2], "198.51.100.128", in)
	check(service.Frontends[3], "198.51.100.128", in)
	// Changed ranges take effect, and without any no client is allowed.
	service.SourceRanges = []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25")}
	p.SetService(service)
	flush(t, p)
	check(service.Frontends[0], "198.51.100.127", out)
	check(service.Frontends[0], "198.51.100.128", in)
	check(service.Frontends[1], "2001:db8:1:2::3", out)
	p.DeleteService(service.Name)
	flush(t, p)
	if left, err := p.maps.sources.All(); err != nil || len(left) != 0 {
		t.Errorf("source ranges left behind: %v, %v", left, err)
	}
}
