package service

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func compared() []Service {
	web := serviceOf("default/web:http", TCP, "10.96.0.1:80", three...)
	for i := range web.Backends {
		web.Backends[i].Node = "node1"
	}
	web.Backends[1].State = Unready
	web.Backends[2].Node = "node2"
	web.AffinityTimeout = time.Minute
	node := serviceOf("default/node:http", TCP, "0.0.0.0:30080", three[0], three[1])
	node.Frontends = append(node.Frontends, node.Frontends[0])
	node.Frontends[1].Scope, node.Frontends[1].Local, node.Frontends[1].Restricted = ScopeExternal, true, true
	node.SNAT, node.Selection = true, Maglev
	node.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	node.Backends[1].Node = "node1"
	long := serviceOf("default/"+strings.Repeat("long-", 60)+":udp", UDP, "10.96.0.3:53", three[0])
	return []Service{web, node, long}
}

func TestCompareFindsNothingInWhatWasInstalled(t *testing.T) {
	p := newStage(t).open(t)
	for _, s := range compared() {
		p.SetService(s)
	}
	port := serviceOf("host-port/default/p:192.0.2.1:80/TCP", TCP, "192.0.2.1:80", three[0])
	port.Frontends[0].Here = true
	foreign := serviceOf("host-port/default/p:192.0.2.9:80/TCP", TCP, "192.0.2.9:80", three[0])
	foreign.Frontends[0].Here = true
	p.SetService(port)
	p.SetService(foreign)
	p.SetAddresses([]netip.Addr{netip.MustParseAddr("192.0.2.1")})
	p.SetNodeDown("node2", true)
	flush(t, p)
	if found := Compare("node1", append(compared(), port, foreign), map[string]bool{"node2": true}, dump(t, p)); found != nil {
		t.Fatal("differences where there are none: ", found)
	}
}

func TestCompareNamesEveryDifference(t *testing.T) {
	p := newStage(t).open(t)
	for _, s := range compared() {
		p.SetService(s)
	}
	flush(t, p)
	have := dump(t, p)
	tests := []struct {
		name   string
		change func([]Service) []Service
		down   map[string]bool
		want   string
	}{
		{"backend lost", func(s []Service) []Service { s[0].Backends[1].State = Active; return s }, nil,
			"default/web:http: backends: lacks " + three[1]},
		{"backend too many", func(s []Service) []Service { s[0].Backends[0].State = Unready; return s }, nil,
			"default/web:http: backends: has " + three[0] + " too many"},
		{"frontend moved", func(s []Service) []Service { s[0].Frontends[0].Port = 81; return s }, nil,
			"default/web:http: frontends: lacks 10.96.0.1:81/TCP (cluster, affinity 60 s); has 10.96.0.1:80/TCP (cluster, affinity 60 s) too many"},
		{"selection", func(s []Service) []Service { s[1].Selection = RoundRobin; return s }, nil,
			"default/node:http: selection: lacks round-robin; has maglev too many"},
		{"forwarding", func(s []Service) []Service { s[1].SNAT = false; return s }, nil,
			"default/node:http: forwarding: lacks dsr; has snat too many"},
		{"source ranges", func(s []Service) []Service { s[1].SourceRanges = nil; return s }, nil,
			"default/node:http: source ranges: has 192.0.2.0/24 too many"},
		{"service lost", func(s []Service) []Service {
			return append(s, serviceOf("default/new", TCP, "10.96.0.9:80"))
		}, nil, "default/new: is not installed at 10.96.0.9:80/TCP"},
		{"service too many", func(s []Service) []Service { return s[1:] }, nil,
			"default/web:http: is installed at 10.96.0.1:80, but the API has no such service"},
		{"node", func(s []Service) []Service { return s }, map[string]bool{"node2": true},
			"node node2: is marked up, but is down"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			found := Compare("node1", test.change(compared()), test.down, have)
			if len(found) == 0 {
				t.Fatal("nothing found")
			}
			var all []string
			for _, d := range found {
				all = append(all, d.String())
			}
			if !strings.Contains(strings.Join(all, "\n"), test.want) {
				t.Errorf("found\n%s\nwant\n%s", strings.Join(all, "\n"), test.want)
			}
		})
	}
}
