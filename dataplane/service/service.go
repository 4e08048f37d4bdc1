package service

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/skep-io/skep/bpf"
)

// Protocol is an IANA protocol number.
type Protocol uint8

const (
	TCP  Protocol = 6
	UDP  Protocol = 17
	SCTP Protocol = 132
)

func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return fmt.Sprintf("protocol %d", uint8(p))
}

// Scope says from where a frontend is reachable.
type Scope uint8

const (
	// ScopeCluster frontends answer the node's own sockets.
	ScopeCluster = Scope(bpf.SocketFrontendScopeSCOPE_CLUSTER)
	// ScopeExternal frontends answer packets from outside only.
	ScopeExternal = Scope(bpf.SocketFrontendScopeSCOPE_EXTERNAL)
)

func (s Scope) String() string {
	switch s {
	case ScopeCluster:
		return "cluster"
	case ScopeExternal:
		return "external"
	}
	return fmt.Sprintf("scope %d", uint8(s))
}

// State is what a backend may be used for.
type State uint8

const (
	// Active backends get new connections.
	Active State = iota
	// Terminating backends get new connections only while no backend is Active.
	Terminating
	// Unready backends get no new connections; on those that they have, getpeername
	// still returns the service address.
	Unready
)

func (s State) String() string {
	switch s {
	case Active:
		return "active"
	case Terminating:
		return "terminating"
	case Unready:
		return "unready"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Selection is how a service chooses among its backends.
type Selection uint8

const (
	// RoundRobin selects them in turn, exactly.
	RoundRobin = Selection(bpf.SocketServiceFlagsSELECT_ROUND_ROBIN)
	// LeastConnections selects the one that this node's sockets have the fewest
	// open connections to.
	LeastConnections = Selection(bpf.SocketServiceFlagsSELECT_LEAST_CONNECTIONS)
	// Random selects any.
	Random = Selection(bpf.SocketServiceFlagsSELECT_RANDOM)
	// Maglev selects the same one for the same flow on every node.
	Maglev = Selection(bpf.SocketServiceFlagsSELECT_MAGLEV)
)

func (s Selection) String() string {
	switch s {
	case RoundRobin:
		return "round-robin"
	case LeastConnections:
		return "least-connections"
	case Random:
		return "random"
	case Maglev:
		return "maglev"
	}
	return fmt.Sprintf("selection %d", uint8(s))
}

// Frontend is an address that clients connect to. An IPv4-mapped IPv6 address is
// the same as the IPv4 address; an unspecified one is every address of this
// node (node ports, host ports). Two frontends of a service that differ in their
// last four fields only are the same: the last one counts.
type Frontend struct {
	Addr       netip.Addr
	Port       uint16
	Protocol   Protocol
	Scope      Scope
	Local      bool // leads to this node's backends only (traffic policy)
	Restricted bool // only for clients in SourceRanges; for packets, not sockets
	Given      bool // the cluster gave the service this address: a service that only asks for it does not get it
	Here       bool // only while the address is one of this node's; else it is as if it had not been set
}

func (f Frontend) String() string {
	return fmt.Sprintf("%s/%s", netip.AddrPortFrom(f.Addr, f.Port), f.Protocol)
}

// identity is what distinguishes frontends.
func (f Frontend) identity() Frontend {
	f.Local, f.Restricted, f.Given, f.Here = false, false, false, false
	return f
}

// Backend is an address that connections go to.
type Backend struct {
	Addr  netip.Addr
	Port  uint16
	Node  string // "" if no node: it is never down
	State State
	// Distant backends are not for this node's clients, by topology: they get
	// connections by traffic policy Local and from other nodes only, and all
	// where there is no other backend.
	Distant bool
}

// Service is one port of a service: every frontend leads to the backends of its
// own address family.
type Service struct {
	Name            string     // "namespace/name:port"
	Frontends       []Frontend // the first of a family is what getpeername derives
	Backends        []Backend
	AffinityTimeout time.Duration // 0: each connection gets the next backend
	Selection       Selection
	SNAT            bool           // packets to backends on other nodes have this node's address as source
	SourceRanges    []netip.Prefix // who may use Restricted frontends; none: nobody
	// Unconditional services keep a backend whose address was withdrawn: they
	// lead to pods whether or not those are ready.
	Unconditional bool
	// Since is when it was created, in seconds: of services that ask for the same
	// frontend, all of them Given it or none, the older has it.
	Since int64
}

// Problem is a part of a service that could not be installed.
type Problem struct {
	Service  string
	Frontend Frontend // zero if a backend is the cause
	Backend  Backend  // zero if a frontend is the cause
	Owner    string   // the service that holds Frontend, if another one does
	Reason   string
}

func (p Problem) Error() string { return fmt.Sprintf("service %s: %s", p.Service, p.Reason) }

// normalise returns a copy whose addresses are unmapped and free of duplicates,
// whose backends are sorted, and which has no entries that no map can hold; it reports those.
func (s Service) normalise() (Service, []Problem) {
	var problems []Problem
	reject := func(p Problem, format string, args ...any) {
		p.Service, p.Reason = s.Name, fmt.Sprintf(format, args...)
		problems = append(problems, p)
	}
	out := s
	out.Frontends, out.Backends = nil, nil
	at := map[Frontend]int{}
	for _, f := range s.Frontends {
		f.Addr = plain(f.Addr)
		if !f.Addr.IsValid() || f.Port == 0 || f.Protocol == 0 {
			reject(Problem{Frontend: f}, "frontend %v: needs an address, a port and a protocol", f)
			continue
		}
		// The sender of a packet is known there, the client of a socket is not.
		f.Restricted = f.Restricted && f.Scope == ScopeExternal
		if i, twice := at[f.identity()]; twice {
			out.Frontends[i] = f
			continue
		}
		at[f.identity()] = len(out.Frontends)
		out.Frontends = append(out.Frontends, f)
	}
	for _, b := range s.Backends {
		b.Addr = plain(b.Addr)
		if !b.Addr.IsValid() || b.Addr.IsUnspecified() || b.Port == 0 {
			reject(Problem{Backend: b}, "backend %v port %d: needs an address and a port", b.Addr, b.Port)
			continue
		}
		out.Backends = append(out.Backends, b)
	}
	slices.SortFunc(out.Backends, func(a, b Backend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.State, b.State), cmp.Compare(a.Node, b.Node), compareBools(a.Distant, b.Distant))
	})
	// The same endpoint twice: its most usable state wins.
	out.Backends = slices.CompactFunc(out.Backends, func(a, b Backend) bool {
		return a.Addr == b.Addr && a.Port == b.Port
	})
	out.SourceRanges = nil
	for _, prefix := range s.SourceRanges {
		if !prefix.IsValid() {
			reject(Problem{}, "source range %v: needs an address and a length", prefix)
			continue
		}
		out.SourceRanges = append(out.SourceRanges, plainPrefix(prefix))
	}
	slices.SortFunc(out.SourceRanges, netip.Prefix.Compare)
	out.SourceRanges = slices.Compact(out.SourceRanges)
	return out, problems
}

func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// plainPrefix is prefix without its host bits, and of IPv4 if it
// lies in the mapped range.
func plainPrefix(prefix netip.Prefix) netip.Prefix {
	if prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked()
}

func compareBools(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func compareFrontends(a, b Frontend) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Port, b.Port),
		cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Scope, b.Scope))
}
