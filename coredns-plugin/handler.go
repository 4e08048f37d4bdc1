package skep

import (
	"context"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// ServeDNS implements plugin.Handler.
func (s *Skep) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	qname := state.Name()
	zone := plugin.Zones(s.Zones).Matches(qname)
	if zone == "" {
		return plugin.NextOrFailure(s.Name(), s.Next, ctx, w, r)
	}
	if !s.Ready() {
		// An empty index would answer NXDOMAIN, which resolvers cache.
		return dns.RcodeServerFailure, plugin.Error(pluginName, errNotSynced)
	}
	a := answer{skep: s, zone: zone, qname: state.QName(), qtype: state.QType()}
	a.resolve(qname)
	if !a.exists && s.Fall.Through(qname) {
		return plugin.NextOrFailure(s.Name(), s.Next, ctx, w, r)
	}
	a.follow(ctx, state)
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative = true
	m.Answer, m.Extra = a.records, a.extra
	if !a.exists {
		m.Rcode = dns.RcodeNameError
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{a.soa()}
	}
	if err := w.WriteMsg(m); err != nil {
		return dns.RcodeServerFailure, err
	}
	return dns.RcodeSuccess, nil
}

// follow adds what an ExternalName's target resolves to: stub resolvers expect the
// whole chain in one reply. A target that cannot be resolved leaves the CNAME alone.
func (a *answer) follow(ctx context.Context, state request.Request) {
	if len(a.records) != 1 || (a.qtype != dns.TypeA && a.qtype != dns.TypeAAAA) {
		return
	}
	cname, ok := a.records[0].(*dns.CNAME)
	if !ok {
		return
	}
	reply, err := a.skep.upstream.Lookup(ctx, state, cname.Target, a.qtype)
	if err != nil || reply == nil {
		return
	}
	a.records = append(a.records, reply.Answer...)
}
