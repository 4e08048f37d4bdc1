package skep

import (
	"context"
	"testing"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	"github.com/coredns/coredns/plugin/test"
	"github.com/miekg/dns"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skep-io/skep/coredns-plugin/index"
	"github.com/skep-io/skep/coredns-plugin/source"
)

// FuzzServeDNS answers any message that miekg/dns accepts, as anyone may send it. It must not panic, and its answer must be a valid message
// about the same question.
func FuzzServeDNS(f *testing.F) {
	x := index.New()
	x.PutNamespace("a")
	x.PutService(service("a", "web", "10.96.0.1"))
	s := &Skep{
		Zones: []string{"cluster.local.", "in-addr.arpa.", "ip6.arpa."}, Index: x,
		upstream: upstream.New(), ttl: defaultTTL, prefix: "/registry", pods: podsInsecure,
		// A source without feeds has read everything that it has to.
		source: source.New((*clientv3.Client)(nil), "/registry", nil, source.Observer{}),
	}
	for name, types := range map[string][]uint16{
		"web.a.svc.cluster.local.": {dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeANY, dns.TypeAXFR}, "_http._tcp.web.a.svc.cluster.local.": {dns.TypeSRV},
		"1-2-3-4.a.pod.cluster.local.": {dns.TypeA}, "--1.a.pod.cluster.local.": {dns.TypeAAAA}, "1.0.96.10.in-addr.arpa.": {dns.TypePTR},
		"cluster.local.": {dns.TypeSOA, dns.TypeNS}, "dns-version.cluster.local.": {dns.TypeTXT}, ".": {dns.TypeNS},
		`\000\255.*.svc.cluster.local.`: {dns.TypeA}, "f.f.ip6.arpa.": {dns.TypePTR}, "x.example.": {dns.TypeA},
	} {
		for _, qtype := range types {
			m := new(dns.Msg).SetQuestion(name, qtype)
			data, err := m.Pack()
			if err != nil {
				f.Fatalf("%s: %v", name, err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		m := new(dns.Msg)
		if m.Unpack(data) != nil || len(m.Question) != 1 {
			return // the server answers these itself
		}
		w := dnstest.NewRecorder(&test.ResponseWriter{})
		_, _ = s.ServeDNS(context.Background(), w, m) // an error is an answer too
		if w.Msg == nil {
			return
		}
		if _, err := w.Msg.Pack(); err != nil {
			t.Errorf("the answer to %v cannot be sent: %v", m.Question, err)
		}
		if len(w.Msg.Question) != 1 || w.Msg.Question[0] != m.Question[0] {
			t.Errorf("asked %v, answered %v", m.Question, w.Msg.Question)
		}
	})
}
