package service

import (
	"errors"
	"fmt"
	"slices"

	"github.com/skep-io/skep/bpf"
)

// primaryOf picks the frontend that represents a pool when a socket's peer is
// derived: the first that sockets can connect to by one address.
func primaryOf(frontends []Frontend) Frontend {
	for _, f := range frontends {
		if f.Scope == ScopeCluster && !f.Addr.IsUnspecified() {
			return f.identity()
		}
	}
	return Frontend{}
}

// putFrontends leads every wanted frontend to the pool and returns the names of
// the services that lost one by it. The primary is written when no other frontend
// is flagged as the primary, and its frontend is flagged after that: in between,
// what sockets asked for is stored.
func (in *installed) putFrontends(p *pool, frontends []Frontend) (again []string, err error) {
	primary := primaryOf(frontends)
	var full error
	put := func(f Frontend, flags bpf.SocketFrontendFlags) error {
		taken, err := in.putFrontend(p, f, flags)
		if taken != "" {
			again = append(again, taken)
		}
		if errors.Is(err, errFull) {
			full = err
			return nil
		}
		return err
	}
	if old, ok := p.frontends[p.primary]; ok && p.primary != primary && p.primary.Port != 0 {
		if err := put(p.primary, old.flags&^bpf.SocketFrontendFlagsFRONTEND_PRIMARY); err != nil {
			return again, err
		}
	}
	if p.primary != primary {
		if err := in.putPrimary(p, primary); err != nil {
			return again, err
		}
	}
	for _, f := range frontends {
		flags := f.flags()
		if f.identity() == primary {
			flags |= bpf.SocketFrontendFlagsFRONTEND_PRIMARY
		}
		if err := put(f, flags); err != nil {
			return again, err
		}
	}
	return again, full
}

func (f Frontend) flags() (flags bpf.SocketFrontendFlags) {
	if f.Local {
		flags |= bpf.SocketFrontendFlagsFRONTEND_LOCAL
	}
	if f.Restricted {
		flags |= bpf.SocketFrontendFlagsFRONTEND_RESTRICTED
	}
	return flags
}

func (in *installed) putPrimary(p *pool, primary Frontend) error {
	var key bpf.SocketEndpoint
	if primary.Addr.IsValid() {
		key = toNetwork(primary)
	}
	if err := in.write.PutPrimary(p.id, key); err != nil {
		return err
	}
	p.primary = primary
	return nil
}

// putFrontend leads a frontend to the pool, in one write, and returns the name
// of the service that it was taken from, if any.
func (in *installed) putFrontend(p *pool, f Frontend, flags bpf.SocketFrontendFlags) (taken string, err error) {
	f = f.identity()
	want := entry{service: p.id, flags: flags}
	owner := in.owners[f]
	if owner == p && p.frontends[f] == want {
		return "", nil
	}
	key := toNetwork(f)
	if owner == nil && uint32(len(in.owners)) >= in.limits.Frontends {
		return "", fmt.Errorf("%w: all %d frontends are in use: give more with --table-sizes of skep-agent", errFull, in.limits.Frontends)
	}
	if err := in.write.PutFrontend(key, want); err != nil {
		return "", err
	}
	if owner != nil {
		delete(owner.frontends, f)
	}
	p.frontends[f] = want
	in.owners[f] = p
	if owner != nil && owner != p {
		return owner.key.name, nil
	}
	return "", nil
}

func (in *installed) dropFrontends(p *pool, want []Frontend, claimed func(Frontend) bool) error {
	for f := range p.frontends {
		wanted := func(w Frontend) bool { return w.identity() == f }
		if slices.ContainsFunc(want, wanted) || claimed(f) {
			continue
		}
		if err := in.deleteFrontend(toNetwork(f)); err != nil {
			return err
		}
		delete(p.frontends, f)
		delete(in.owners, f)
	}
	return nil
}

func (in *installed) deleteFrontend(key bpf.SocketEndpoint) error {
	cell, was, err := in.write.DeleteFrontend(key)
	if was {
		in.retired.cells = append(in.retired.cells, cell)
	}
	return err
}
