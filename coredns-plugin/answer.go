package skep

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/miekg/dns"

	"github.com/skep-io/skep/coredns-plugin/index"
)

var errNotSynced = errors.New("etcd has not been read yet")

// answer is the reply to one question while it is built.
type answer struct {
	skep  *Skep
	zone  string
	qname string // as asked, for the owner name of the records
	qtype uint16

	// exists is true if the name exists, with or without records of this type:
	// NOERROR rather than NXDOMAIN.
	exists  bool
	records []dns.RR
	extra   []dns.RR
}

// resolve fills the answer for a lower-case, fully qualified name.
func (a *answer) resolve(name string) {
	if addr := dnsutil.ExtractAddressFromReverse(name); addr != "" {
		a.reverse(addr)
		return
	}
	if name == a.zone {
		a.apex()
		return
	}
	labels := strings.Split(strings.TrimSuffix(name, "."+a.zone), ".")
	last := len(labels) - 1
	switch labels[last] {
	case "svc":
		a.service(labels[:last])
	case "pod":
		a.pod(labels[:last])
	case "dns-version":
		if last == 0 {
			a.version()
		}
	}
}

func (a *answer) apex() {
	a.exists = true
	switch a.qtype {
	case dns.TypeSOA:
		a.records = []dns.RR{a.soa()}
	case dns.TypeNS:
		a.records = []dns.RR{&dns.NS{Hdr: a.header(dns.TypeNS), Ns: "ns.dns." + a.zone}}
	}
}

func (a *answer) version() {
	a.exists = true
	if a.qtype == dns.TypeTXT {
		a.records = []dns.RR{&dns.TXT{Hdr: a.header(dns.TypeTXT), Txt: []string{dnsVersion}}}
	}
}

// service answers [[x.]y.]service.namespace, where x.y is empty, _port._protocol, or
// y alone an endpoint's label.
func (a *answer) service(labels []string) {
	n := len(labels)
	if n < 2 {
		a.exists = n == 0 || a.skep.Index.Namespace(labels[0])
		return
	}
	svc := a.skep.Index.Service(labels[n-1], labels[n-2])
	if svc == nil {
		return
	}
	switch rest := labels[:n-2]; {
	case svc.ExternalName != "":
		a.external(svc, rest)
	case len(rest) == 0:
		a.whole(svc)
	case len(rest) == 1 && strings.HasPrefix(rest[0], "_"):
		a.exists = hasProtocol(svc, strings.TrimPrefix(rest[0], "_"))
	case len(rest) == 1:
		a.endpoint(svc.Endpoint(rest[0]))
	case len(rest) == 2 && strings.HasPrefix(rest[0], "_") && strings.HasPrefix(rest[1], "_"):
		a.named(svc, rest[0][1:], rest[1][1:])
	}
}

func (a *answer) external(svc *index.Service, rest []string) {
	if len(rest) != 0 {
		return
	}
	a.exists = true
	a.records = []dns.RR{&dns.CNAME{Hdr: a.header(dns.TypeCNAME), Target: dns.Fqdn(svc.ExternalName)}}
}

// whole answers the service's own name. A headless service without a ready endpoint
// does not exist (specification 1.1, section 2.4.1).
func (a *answer) whole(svc *index.Service) {
	if !svc.Headless {
		a.exists = true
		for _, addr := range svc.Addrs {
			a.address(addr)
		}
		a.serviceRecords(svc, "", "")
		return
	}
	a.exists = len(svc.Endpoints) > 0
	var last netip.Addr
	for i := range svc.Endpoints {
		// Endpoints are ordered by address, so that equal ones are neighbours.
		if addr := svc.Endpoints[i].Addr; addr != last {
			a.address(addr)
			last = addr
		}
	}
	a.serviceRecords(svc, "", "")
}

// named answers _port._protocol, which exists only if the service has such a port.
func (a *answer) named(svc *index.Service, port, protocol string) {
	for _, p := range svc.Ports {
		if p.Name == port && p.Protocol == protocol {
			a.exists = !svc.Headless || len(svc.Endpoints) > 0
		}
	}
	if svc.Headless {
		for i := range svc.Endpoints {
			for _, p := range svc.Endpoints[i].Ports {
				a.exists = a.exists || (p.Name == port && p.Protocol == protocol)
			}
		}
	}
	if a.exists {
		a.serviceRecords(svc, port, protocol)
	}
}

func hasProtocol(svc *index.Service, protocol string) bool {
	for _, p := range svc.Ports {
		if p.Protocol == protocol {
			return true
		}
	}
	return false
}

func (a *answer) endpoint(endpoints []*index.Endpoint) {
	a.exists = len(endpoints) > 0
	for _, e := range endpoints {
		a.address(e.Addr)
	}
}

// serviceRecords adds SRV records, with the addresses of their targets beside them.
// Empty port and protocol stand for all.
func (a *answer) serviceRecords(svc *index.Service, port, protocol string) {
	if a.qtype != dns.TypeSRV {
		return
	}
	match := func(p index.Port) bool {
		return (port == "" && protocol == "") || (p.Name == port && p.Protocol == protocol)
	}
	base := svc.Name + "." + svc.Namespace + ".svc." + a.zone
	if !svc.Headless {
		for _, p := range svc.Ports {
			if match(p) {
				a.srv(base, p.Number)
			}
		}
		if len(a.records) > 0 {
			a.beside(base, svc.Addrs...)
		}
		return
	}
	for i := range svc.Endpoints {
		e := &svc.Endpoints[i]
		target, matches := e.Label+"."+base, false
		for _, p := range e.Ports {
			if match(p) {
				a.srv(target, p.Number)
				matches = true
			}
		}
		if matches {
			a.beside(target, e.Addr)
		}
	}
	a.shareWeight()
}

// srv adds a record once: an endpoint with addresses of both families is two endpoints
// with one name.
func (a *answer) srv(target string, port uint16) {
	for _, rr := range a.records {
		if have := rr.(*dns.SRV); have.Port == port && have.Target == target {
			return
		}
	}
	a.records = append(a.records, &dns.SRV{Hdr: a.header(dns.TypeSRV), Weight: 100, Port: port, Target: target})
}

// shareWeight sets equal weights that sum to about 100, as CoreDNS' kubernetes plugin does.
func (a *answer) shareWeight() {
	if len(a.records) == 0 {
		return
	}
	weight := uint16(max(1, 100/len(a.records)))
	for _, rr := range a.records {
		rr.(*dns.SRV).Weight = weight
	}
}

// pod answers a-b-c-d.namespace.
func (a *answer) pod(labels []string) {
	mode := a.skep.pods
	if mode == podsDisabled {
		return
	}
	switch len(labels) {
	case 0:
		a.exists = true
	case 1:
		a.exists = a.skep.Index.Namespace(labels[0])
	case 2:
		addr, ok := index.ParseAddrLabel(labels[0])
		if !ok || !a.skep.Index.Namespace(labels[1]) {
			return
		}
		if mode == podsVerified && !a.skep.Index.HasPod(labels[1], addr) {
			return
		}
		a.exists = true
		a.address(addr)
	}
}

// reverse answers a PTR question; addresses of services come before endpoints'.
func (a *answer) reverse(text string) {
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return
	}
	zone := a.forwardZone()
	for _, own := range a.skep.Index.Owner(addr) {
		name := own.Service.Name + "." + own.Service.Namespace + ".svc." + zone
		if own.Endpoint != nil {
			if !own.Service.Headless {
				continue
			}
			name = own.Endpoint.Label + "." + name
		}
		a.exists = true
		if a.qtype == dns.TypePTR {
			a.records = append(a.records, &dns.PTR{Hdr: a.header(dns.TypePTR), Ptr: name})
		}
	}
}

// forwardZone is the first zone that is not a reverse one: where PTRs point to.
func (a *answer) forwardZone() string {
	for _, z := range a.skep.Zones {
		if dnsutil.IsReverse(z) == 0 {
			return z
		}
	}
	return "cluster.local."
}

func (a *answer) address(addr netip.Addr) {
	if rr := addressRecord(a.header(a.qtype), addr); rr != nil {
		a.records = append(a.records, rr)
	}
}

func (a *answer) beside(name string, addrs ...netip.Addr) {
	for _, addr := range addrs {
		qtype := dns.TypeA
		if addr.Is6() {
			qtype = dns.TypeAAAA
		}
		hdr := dns.RR_Header{Name: name, Rrtype: qtype, Class: dns.ClassINET, Ttl: a.skep.ttl}
		a.extra = append(a.extra, addressRecord(hdr, addr))
	}
}

// addressRecord is nil if the header's type is not that of the address.
func addressRecord(hdr dns.RR_Header, addr netip.Addr) dns.RR {
	switch {
	case hdr.Rrtype == dns.TypeA && addr.Is4():
		return &dns.A{Hdr: hdr, A: net.IP(addr.AsSlice())}
	case hdr.Rrtype == dns.TypeAAAA && addr.Is6():
		return &dns.AAAA{Hdr: hdr, AAAA: net.IP(addr.AsSlice())}
	}
	return nil
}

func (a *answer) header(rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: a.qname, Rrtype: rrtype, Class: dns.ClassINET, Ttl: a.skep.ttl}
}

func (a *answer) soa() dns.RR {
	return &dns.SOA{
		Hdr:     dns.RR_Header{Name: a.zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: a.skep.ttl},
		Ns:      "ns.dns." + a.zone,
		Mbox:    "hostmaster." + a.zone,
		Serial:  uint32(time.Now().Unix()),
		Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: a.skep.ttl,
	}
}
