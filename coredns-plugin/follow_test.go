package skep

import (
	"context"
	"net/netip"
	"strings"
	"testing"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
)

// A watch that etcd has compacted away is followed by a list, which must also find
// what was deleted meanwhile.
func TestFollowsAcrossEtcdRestartAndCompaction(t *testing.T) {
	etcd := startEtcd(t)
	etcd.put(t, service("a", "stays", "10.96.0.1"), service("a", "goes", "10.96.0.2"))
	s := newPlugin(t, etcd)
	if s.Index.Service("a", "goes") == nil {
		t.Fatal("service a/goes is not known after the first list")
	}

	etcd.stop()
	if got := ask(t, s, "stays.a.svc.cluster.local.", dns.TypeA); !strings.Contains(got, "10.96.0.1") {
		t.Errorf("with etcd away the last answer must stay, got %s", got)
	}
	etcd.run(t)
	etcd.delete(t, "/registry/services/specs/a/goes")
	etcd.put(t, service("a", "comes", "10.96.0.3"))
	resp, err := etcd.client.Get(context.Background(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.client.Compact(context.Background(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new service is known", func() bool { return s.Index.Service("a", "comes") != nil })
	eventually(t, "the deleted service is gone", func() bool { return s.Index.Service("a", "goes") == nil })
	if owners := s.Index.Owner(mustAddr("10.96.0.2")); len(owners) != 0 {
		t.Errorf("10.96.0.2 still belongs to %v", owners)
	}
}

// A value that is no object must not hide its neighbours.
func TestLeavesOutWhatItCannotDecode(t *testing.T) {
	etcd := startEtcd(t)
	ctx := context.Background()
	for key, value := range map[string]string{
		"/registry/services/specs/a/garbage": "\x00\x01",
		"/registry/services/specs/a/empty":   "",
		"/registry/services/specs/a/cut":     "k8s\x00\x0a\xff\xff\xff",
	} {
		if _, err := etcd.client.Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	etcd.put(t, service("a", "good", "10.96.0.1"))
	s := newPlugin(t, etcd)
	if s.Index.Service("a", "good") == nil {
		t.Error("the good service is missing")
	}
}

// Nothing may be answered from an index that has not been filled.
func TestNotReadyIsServerFailure(t *testing.T) {
	s := &Skep{Zones: []string{"cluster.local."}, Index: newIndex()}
	if got := ask(t, s, "x.y.svc.cluster.local.", dns.TypeA); !strings.Contains(got, "SERVFAIL") {
		t.Errorf("got %s, want SERVFAIL", got)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ corefile, err string }{
		{"skep cluster.local", ""},
		{"skep cluster.local {\n endpoints https://10.0.0.1:2379,https://10.0.0.2:2379\n tls a b c\n pods verified\n ttl 30\n fallthrough in-addr.arpa\n}", ""},
		{"skep {\n tls a b\n}", "tls needs three files"},
		{"skep {\n ttl -1\n}", "ttl must be from 0 to 3600"},
		{"skep {\n pods some\n}", "pods must be disabled, insecure or verified"},
		{"skep {\n endpoint x\n}", `unknown option "endpoint"`},
		{"skep {\n endpoints\n}", "Wrong argument count"},
		{"skep {\n prefix registry\n}", "prefix needs one path"},
		{"skep a\nskep b", "plugin can only be used once"},
	} {
		_, err := parse(caddy.NewTestController("dns", c.corefile))
		if (err == nil) != (c.err == "") || (err != nil && !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got error %v, want %q", c.corefile, err, c.err)
		}
	}
}

func mustAddr(text string) netip.Addr { return netip.MustParseAddr(text) }
