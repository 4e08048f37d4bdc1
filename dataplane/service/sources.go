package service

import (
	"net/netip"

	"github.com/skep-io/skep/bpf"
)

func sourceKey(p *pool, prefix netip.Prefix) bpf.SocketSourceKey {
	bits := 32 + prefix.Bits()
	if prefix.Addr().Is4() {
		bits += 96 // mapped
	}
	return bpf.SocketSourceKey{Prefix: uint32(bits), Service: p.id, Addr: toAddress(prefix.Addr())}
}

func sourcePrefix(key bpf.SocketSourceKey) netip.Prefix {
	addr, bits := fromAddress(key.Addr), int(key.Prefix)-32
	if addr.Is4() {
		bits -= 96
	}
	return netip.PrefixFrom(addr, bits)
}

func (in *installed) putSources(p *pool, want []netip.Prefix) error {
	for _, prefix := range want {
		key := sourceKey(p, prefix)
		if _, ok := p.sources[key]; ok {
			continue
		}
		if err := in.write.PutSource(key); err != nil {
			return err
		}
		p.sources[key] = struct{}{}
	}
	return nil
}

func (in *installed) dropSources(p *pool, want []netip.Prefix) error {
	keep := map[bpf.SocketSourceKey]struct{}{}
	for _, prefix := range want {
		keep[sourceKey(p, prefix)] = struct{}{}
	}
	for key := range p.sources {
		if _, ok := keep[key]; ok {
			continue
		}
		if err := in.write.DeleteSource(key); err != nil {
			return err
		}
		delete(p.sources, key)
	}
	return nil
}
