package service

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/skep-io/skep/bpf"
)

// tables is the desired state: what callers asked for, indexed so that every
// change finds what it affects without a search.
type tables struct {
	services  map[string]Service
	asked     map[string]Service // those with frontends Here, with all that was asked for
	problems  map[string][]Problem
	claims    map[Frontend][]claim    // by precedence; the first owns it
	contested map[string]struct{}     // services whose conflicts may have changed
	byAddr    map[netip.Addr][]string // backend address -> services: most often one
	withdrawn map[netip.Addr]int      // address -> withdrawals not restored
	nodesDown map[string]struct{}
	hosts     hosts
	node      string // this one
}

func newTables(node string) *tables {
	return &tables{
		node:      node,
		services:  map[string]Service{},
		asked:     map[string]Service{},
		problems:  map[string][]Problem{},
		claims:    map[Frontend][]claim{},
		contested: map[string]struct{}{},
		byAddr:    map[netip.Addr][]string{},
		withdrawn: map[netip.Addr]int{},
		nodesDown: map[string]struct{}{},
		hosts:     hosts{nodes: map[string][]netip.Addr{}, withoutTunnels: map[string]struct{}{}},
	}
}

// set stores a service and returns the names of all services whose maps may
// change by it: itself, and those that lose or win a frontend.
func (t *tables) set(s Service) []string {
	s, problems := s.normalise()
	touched := t.delete(s.Name)
	if slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Here }) {
		t.asked[s.Name] = s
		var foreign []Problem
		s.Frontends, foreign = t.atHome(s)
		problems = append(problems, foreign...)
	}
	t.services[s.Name] = s
	if len(problems) > 0 {
		t.problems[s.Name] = problems
	}
	for _, f := range s.Frontends {
		c := claim{given: f.Given, since: s.Since, name: s.Name}
		f = f.identity()
		claims := t.claims[f]
		at, _ := slices.BinarySearchFunc(claims, c, claim.compare)
		if at == 0 && len(claims) > 0 {
			touched = append(touched, claims[0].name)
		}
		t.claims[f] = slices.Insert(claims, at, c)
		t.contest(t.claims[f])
	}
	for _, b := range s.Backends {
		if names := t.byAddr[b.Addr]; !slices.Contains(names, s.Name) {
			t.byAddr[b.Addr] = append(names, s.Name)
		}
	}
	return touched
}

func (t *tables) delete(name string) []string {
	touched := []string{name}
	old, ok := t.services[name]
	if !ok {
		return touched
	}
	for _, f := range old.Frontends {
		c := claim{given: f.Given, since: old.Since, name: name}
		f = f.identity()
		claims := t.claims[f]
		t.contest(claims)
		at, _ := slices.BinarySearchFunc(claims, c, claim.compare)
		claims = slices.Delete(claims, at, at+1)
		if len(claims) == 0 {
			delete(t.claims, f)
			continue
		}
		t.claims[f] = claims
		if at == 0 {
			touched = append(touched, claims[0].name)
		}
	}
	delete(t.services, name)
	delete(t.asked, name)
	delete(t.problems, name)
	for _, b := range old.Backends {
		others := slices.DeleteFunc(t.byAddr[b.Addr], func(other string) bool { return other == name })
		if len(others) == 0 {
			delete(t.byAddr, b.Addr)
		} else {
			t.byAddr[b.Addr] = others
		}
	}
	return touched
}

// withdraw counts one withdrawal of an address, or undoes one, and returns
// the services that have a backend there.
func (t *tables) withdraw(addr netip.Addr, by int) []string {
	t.withdrawn[addr] += by
	if t.withdrawn[addr] <= 0 {
		delete(t.withdrawn, addr)
	}
	return slices.Sorted(slices.Values(t.byAddr[addr]))
}

func (t *tables) isWithdrawn(s Service, b Backend) bool {
	return !s.Unconditional && t.withdrawn[b.Addr] > 0
}

func (t *tables) owner(f Frontend) (string, bool) {
	claims := t.claims[f.identity()]
	if len(claims) == 0 {
		return "", false
	}
	return claims[0].name, true
}

// claim is what a service asks for a frontend with.
type claim struct {
	given bool
	since int64
	name  string
}

// compare sorts the owner first: a service that was given the address before one
// that only asks for it, then the older, so that none takes a frontend from one
// in use, and by name those of the same age.
func (c claim) compare(other claim) int {
	return cmp.Or(compareBools(other.given, c.given), cmp.Compare(c.since, other.since), cmp.Compare(c.name, other.name))
}

// contest notes that the owner of a frontend that several claim may have changed.
func (t *tables) contest(claims []claim) {
	if len(claims) < 2 {
		return
	}
	for _, c := range claims {
		t.contested[c.name] = struct{}{}
	}
}

// conflicts lists the frontends that name asked for and another service holds.
func (t *tables) conflicts(name string) []Problem {
	var problems []Problem
	for _, f := range t.services[name].Frontends {
		first := t.claims[f.identity()][0]
		if first.name == name {
			continue
		}
		why := "which is as old and comes first by name"
		switch {
		case first.given && !f.Given:
			why = "which was given that address"
		case first.since < t.services[name].Since:
			why = "which is older"
		}
		problems = append(problems, Problem{
			Service: name, Frontend: f, Owner: first.name,
			Reason: "frontend " + f.String() + " belongs to " + first.name + ", " + why,
		})
	}
	return problems
}

// poolKey names the part of a service that shares backends, slots and cursor.
type poolKey struct {
	name     string
	ip6      bool
	protocol Protocol
}

func poolOf(name string, f Frontend) poolKey {
	return poolKey{name: name, ip6: f.Addr.Is6(), protocol: f.Protocol}
}

// desiredPool is what one pool's maps should hold.
type desiredPool struct {
	key             poolKey
	frontends       []Frontend // those that the service owns, as it listed them
	backends        []desiredBackend
	flags           bpf.SocketServiceFlags
	affinitySeconds uint32
	sources         []netip.Prefix // of the pool's family
}

type desiredBackend struct {
	key            backendKey
	inRun, inLocal bool // gets connections from everywhere, by traffic policy Local
	local          bool
	withdrawn      bool
}

// flags of its record, but for what depends on other services.
func (b desiredBackend) flags() (flags bpf.SocketBackendFlags) {
	if b.inRun {
		flags |= bpf.SocketBackendFlagsBACKEND_IN_RUN
	}
	if b.inLocal {
		flags |= bpf.SocketBackendFlagsBACKEND_IN_LOCAL_RUN
	}
	if b.local {
		flags |= bpf.SocketBackendFlagsBACKEND_LOCAL
	}
	if !b.withdrawn && (b.inRun || b.inLocal || b.key.endpoint.Protocol != UDP) {
		flags |= bpf.SocketBackendFlagsBACKEND_SERVING
	}
	return flags
}

// backendKey identifies a backend of a pool. Scope is always ScopeCluster.
type backendKey struct {
	endpoint Frontend
	node     string
}

// desired computes the pools of one service; none if it has no frontend.
func (t *tables) desired(name string) map[poolKey]*desiredPool {
	s, ok := t.services[name]
	if !ok {
		return nil
	}
	pools := map[poolKey]*desiredPool{}
	for _, f := range s.Frontends {
		if owner, _ := t.owner(f); owner != name {
			continue
		}
		key := poolOf(name, f)
		pool := pools[key]
		if pool == nil {
			pool = t.desiredPool(s, key)
			pools[key] = pool
		}
		pool.frontends = append(pool.frontends, f)
	}
	return pools
}

func (t *tables) desiredPool(s Service, key poolKey) *desiredPool {
	pool := &desiredPool{
		key:             key,
		backends:        t.desiredBackends(s, key),
		flags:           bpf.SocketServiceFlags(s.Selection),
		affinitySeconds: seconds(s.AffinityTimeout),
	}
	if s.SNAT {
		pool.flags |= bpf.SocketServiceFlagsSERVICE_SNAT
	}
	for _, prefix := range s.SourceRanges {
		if prefix.Addr().Is6() == key.ip6 {
			pool.sources = append(pool.sources, prefix)
		}
	}
	return pool
}

func (t *tables) desiredBackends(s Service, key poolKey) []desiredBackend {
	local := func(b Backend) bool { return b.Node != "" && b.Node == t.node }
	anywhere := func(Backend) bool { return true }
	everywhere := t.usable(s, key, func(b Backend) bool { return !b.Distant }, anywhere)
	// Without traffic policy Local, other nodes send connections here that they
	// selected for this node's backends, among all.
	here := t.usable(s, key, anywhere)
	if slices.ContainsFunc(s.Frontends, func(f Frontend) bool { return f.Local && poolOf(s.Name, f) == key }) {
		here = t.usable(s, key, local)
	}
	var backends []desiredBackend
	for _, b := range s.Backends {
		if b.Addr.Is6() != key.ip6 {
			continue
		}
		backends = append(backends, desiredBackend{
			key: backendKey{
				endpoint: Frontend{Addr: b.Addr, Port: b.Port, Protocol: key.protocol},
				node:     b.Node,
			},
			inRun:     everywhere(b),
			inLocal:   local(b) && here(b),
			local:     local(b),
			withdrawn: t.isWithdrawn(s, b),
		})
	}
	return backends
}

// usable says which backends get new connections: the active ones of the first
// circle that has any, else the terminating ones of the first that has any
// (KEP-1669).
func (t *tables) usable(s Service, key poolKey, circles ...func(Backend) bool) func(Backend) bool {
	for _, state := range []State{Active, Terminating} {
		for _, within := range circles {
			wanted := func(b Backend) bool {
				return b.Addr.Is6() == key.ip6 && b.State == state && !t.isWithdrawn(s, b) && within(b)
			}
			if slices.ContainsFunc(s.Backends, wanted) {
				return wanted
			}
		}
	}
	return func(Backend) bool { return false }
}

func seconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min(int64((d+time.Second-1)/time.Second), math.MaxUint32))
}
