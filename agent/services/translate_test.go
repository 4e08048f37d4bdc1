package services

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/service"
)

// text shows a service of the plane in one line a part, for comparison.
func text(s service.Service) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Name, s.Selection)
	if s.AffinityTimeout > 0 {
		fmt.Fprintf(&b, " affinity=%s", s.AffinityTimeout)
	}
	if s.SNAT {
		b.WriteString(" snat")
	}
	if s.Unconditional {
		b.WriteString(" unconditional")
	}
	if s.SourceRanges != nil {
		fmt.Fprintf(&b, " ranges=%v", s.SourceRanges)
	}
	for _, f := range s.Frontends {
		fmt.Fprintf(&b, "\n  %s %s", f, f.Scope)
		for _, flag := range []struct {
			name string
			set  bool
		}{{"local", f.Local}, {"restricted", f.Restricted}, {"here", f.Here}} {
			if flag.set {
				b.WriteString(" " + flag.name)
			}
		}
	}
	for _, e := range s.Backends {
		fmt.Fprintf(&b, "\n  -> %s %s", netip.AddrPortFrom(e.Addr, e.Port), e.State)
		if e.Node != "" {
			b.WriteString(" @" + e.Node)
		}
		if e.Distant {
			b.WriteString(" distant")
		}
	}
	return b.String()
}

// webSlice has three endpoints, one on this node, for the ports that services in the table have.
const webSlice = `
metadata: {name: web-1, namespace: ns}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}, {name: http, port: 8080, protocol: TCP}, {name: dns, port: 5353, protocol: UDP}, {name: dns-tcp, port: 5353, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.2], nodeName: me, conditions: {ready: true}}
- {addresses: [10.244.1.2], nodeName: n1, conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.244.1.3], nodeName: n1, conditions: {ready: false, serving: false, terminating: false}}
`

const (
	backends8080 = `
  -> 10.244.0.2:8080 active @me
  -> 10.244.1.2:8080 terminating @n1
  -> 10.244.1.3:8080 unready @n1`
	backends5353 = `
  -> 10.244.0.2:5353 active @me
  -> 10.244.1.2:5353 terminating @n1
  -> 10.244.1.3:5353 unready @n1`
)

func TestTranslate(t *testing.T) {
	for _, c := range []struct {
		name, service, slice string
		want                 []string
		warnings             []string
		health               *health
	}{
		{
			name:    "cluster IPs of both families, each with its own endpoints",
			service: `spec: {clusterIPs: [10.96.0.5, "fd00:96::5"], ports: [{port: 80, protocol: TCP}]}`,
			slice:   webSlice + "\n---\n" + `{metadata: {name: web-6}, addressType: IPv6, ports: [{name: "", port: 8080, protocol: TCP}], endpoints: [{addresses: ["fd00:244::2"], nodeName: me, conditions: {}}]}`,
			want: []string{`ns/web round-robin
  10.96.0.5:80/TCP cluster
  [fd00:96::5]:80/TCP cluster` + backends8080 + `
  -> [fd00:244::2]:8080 active @me`},
		},
		{
			name:    "a node port is every address, inside and outside, and policy Local holds outside only",
			service: `spec: {type: NodePort, clusterIP: 10.96.0.5, externalTrafficPolicy: Local, ports: [{name: http, port: 80, nodePort: 30080, protocol: TCP}]}`,
			want: []string{`ns/web:http round-robin
  10.96.0.5:80/TCP cluster
  0.0.0.0:30080/TCP cluster
  0.0.0.0:30080/TCP external local` + backends8080},
		},
		{
			name:    "internal policy Local is the cluster address's alone",
			service: `spec: {type: NodePort, clusterIP: 10.96.0.5, internalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30080, protocol: TCP}]}`,
			want: []string{`ns/web round-robin
  10.96.0.5:80/TCP cluster local
  0.0.0.0:30080/TCP cluster
  0.0.0.0:30080/TCP external` + backends8080},
		},
		{
			name:    "external IPs of the service's families",
			service: `spec: {clusterIP: 10.96.0.5, externalIPs: [203.0.113.7, "2001:db8::7"], ports: [{port: 80, protocol: TCP}]}`,
			want: []string{`ns/web round-robin
  10.96.0.5:80/TCP cluster
  203.0.113.7:80/TCP cluster
  203.0.113.7:80/TCP external` + backends8080},
		},
		{
			name: "load balancer: addresses of mode Proxy are not translated, source ranges hold for the others from outside",
			service: `
spec: {type: LoadBalancer, clusterIP: 10.96.0.5, externalIPs: [203.0.113.7, 192.0.2.9], externalTrafficPolicy: Local, healthCheckNodePort: 32000, loadBalancerSourceRanges: [" 198.51.100.0/24", "2001:db8::/32"], ports: [{port: 80, nodePort: 30080, protocol: TCP}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.7}, {ip: 203.0.113.8, ipMode: Proxy}, {hostname: lb.example}, {ip: 203.0.113.9, ipMode: VIP}]}}`,
			want: []string{`ns/web round-robin ranges=[198.51.100.0/24 2001:db8::/32]
  10.96.0.5:80/TCP cluster
  203.0.113.7:80/TCP cluster
  203.0.113.7:80/TCP external local restricted
  203.0.113.9:80/TCP cluster
  203.0.113.9:80/TCP external local restricted
  192.0.2.9:80/TCP cluster
  192.0.2.9:80/TCP external local
  0.0.0.0:30080/TCP cluster
  0.0.0.0:30080/TCP external local` + backends8080},
			health: &health{port: 32000, local: 1},
		},
		{
			name: "load balancer without node ports, of both protocols, ranges by the old annotation",
			service: `
metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: "198.51.100.7/24,everybody"}}
spec: {type: LoadBalancer, clusterIP: 10.96.0.5, allocateLoadBalancerNodePorts: false, ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]}
status: {loadBalancer: {ingress: [{ip: 203.0.113.7}]}}`,
			want: []string{`ns/web:dns round-robin ranges=[198.51.100.0/24]
  10.96.0.5:53/UDP cluster
  203.0.113.7:53/UDP cluster
  203.0.113.7:53/UDP external restricted` + backends5353, `ns/web:dns-tcp round-robin ranges=[198.51.100.0/24]
  10.96.0.5:53/TCP cluster
  203.0.113.7:53/TCP cluster
  203.0.113.7:53/TCP external restricted` + backends5353},
			warnings: []string{`source range "everybody" admits nobody: it is not ADDRESS/LENGTH`},
		},
		{
			name: "affinity, selection, forwarding, addresses that are not ready",
			service: `
metadata: {annotations: {skep.io/selection: maglev, skep.io/forwarding: snat}}
spec: {clusterIP: 10.96.0.5, publishNotReadyAddresses: true, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 90}}, ports: [{port: 80, protocol: TCP}]}`,
			slice: `{metadata: {name: s}, addressType: IPv4, ports: [{name: "", port: 1, protocol: TCP}]}`,
			want: []string{`ns/web maglev affinity=1m30s snat unconditional
  10.96.0.5:80/TCP cluster`},
		},
		{
			name: "annotations that are not understood are as if absent",
			service: `
metadata: {annotations: {skep.io/selection: fastest, skep.io/forwarding: tunnel}}
spec: {clusterIP: 10.96.0.5, sessionAffinity: ClientIP, ports: [{port: 80, protocol: TCP}]}`,
			slice: `{metadata: {name: s}, addressType: IPv4}`,
			want:  []string{"ns/web round-robin affinity=3h0m0s\n  10.96.0.5:80/TCP cluster"},
			warnings: []string{
				`annotation skep.io/selection: "fastest" is not known; using round-robin`,
				`annotation skep.io/forwarding: "tunnel" is not known; using dsr`,
			},
		},
		{
			name:    "endpoints that cannot be",
			service: `spec: {clusterIP: 10.96.0.5, ports: [{port: 80, protocol: TCP}]}`,
			slice: `{metadata: {name: s}, addressType: IPv4, ports: [{name: "", port: 8080, protocol: TCP}], endpoints: [{addresses: [127.0.0.1]}, {addresses: [169.254.169.254]}, {addresses: [10.96.7.7]}, {addresses: [224.0.0.1]}, {addresses: [here]}, {addresses: []}, {addresses: [192.0.2.4]}]}
---
{metadata: {name: f}, addressType: FQDN, ports: [{name: "", port: 8080, protocol: TCP}], endpoints: [{addresses: [example.com]}]}`,
			want: []string{"ns/web round-robin\n  10.96.0.5:80/TCP cluster\n  -> 192.0.2.4:8080 active"},
			warnings: []string{
				"endpoint 127.0.0.1 in slice s is ignored: it is a loopback address",
				"endpoint 169.254.169.254 in slice s is ignored: it is a link-local address",
				"endpoint 10.96.7.7 in slice s is ignored: it is in the range of service addresses, 10.96.0.0/16",
				"endpoint 224.0.0.1 in slice s is ignored: it is not the address of one host",
				`endpoint "here" in slice s is ignored: it is not an address`,
			},
		},
		{
			name:    "an address in two slices is the endpoint's that stays",
			service: `spec: {clusterIP: 10.96.0.5, ports: [{port: 80, protocol: TCP}]}`,
			slice: `{metadata: {name: a}, addressType: IPv4, ports: [{name: "", port: 8080, protocol: TCP}], endpoints: [{addresses: [10.244.0.2], conditions: {ready: false, serving: true, terminating: true}}, {addresses: [10.244.0.3]}]}
---
{metadata: {name: b}, addressType: IPv4, ports: [{name: "", port: 8080, protocol: TCP}], endpoints: [{addresses: [10.244.0.2], conditions: {ready: false, terminating: false}}, {addresses: [10.244.0.3], conditions: {ready: false, serving: true, terminating: true}}]}`,
			want: []string{"ns/web round-robin\n  10.96.0.5:80/TCP cluster\n  -> 10.244.0.2:8080 unready\n  -> 10.244.0.3:8080 active"},
		},
		{
			name: "CVE-2020-8554: external addresses that are the cluster's own",
			service: `
spec: {type: LoadBalancer, clusterIP: 10.96.0.5, externalIPs: [192.0.2.11, 203.0.113.7, 192.0.2.100, 10.244.3.4, 10.96.0.10], ports: [{port: 443, nodePort: 30443, protocol: TCP}]}
status: {loadBalancer: {ingress: [{ip: 127.0.0.1}, {ip: 169.254.169.254}, {ip: 192.0.2.11}]}}`,
			want: []string{`ns/web round-robin
  10.96.0.5:443/TCP cluster
  203.0.113.7:443/TCP cluster
  203.0.113.7:443/TCP external
  0.0.0.0:30443/TCP cluster
  0.0.0.0:30443/TCP external` + backends8080},
			warnings: []string{
				"127.0.0.1:443/TCP is ignored: it is a loopback address", "169.254.169.254:443/TCP is ignored: it is a link-local address",
				"192.0.2.11:443/TCP is ignored: it is the address of node n1", "192.0.2.100:443/TCP is ignored: it is the address of the API server",
				"10.244.3.4:443/TCP is ignored: it is in the range of pod addresses, 10.244.0.0/16",
				"10.96.0.10:443/TCP is ignored: it is in the range of service addresses, 10.96.0.0/16",
			},
		},
		{name: "headless", service: `spec: {clusterIP: None, externalIPs: [203.0.113.7], ports: [{port: 80, protocol: TCP}]}`},
		{name: "external name", service: `spec: {type: ExternalName, externalName: example.com, clusterIP: 10.96.0.5, ports: [{port: 80, protocol: TCP}]}`},
		{name: "another proxy's", service: `{metadata: {labels: {service.kubernetes.io/service-proxy-name: other}}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80, protocol: TCP}]}}`},
		{name: "one that only looks headless to proxies", service: `{metadata: {labels: {service.kubernetes.io/headless: ""}}, spec: {clusterIP: 10.96.0.5, ports: [{port: 80, protocol: TCP}]}}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Watcher{
				cfg:   Config{Node: "me", ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, PodCIDRs: func() []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")} }},
				hosts: map[netip.Addr]string{netip.MustParseAddr("192.0.2.11"): "n1"}, servers: []netip.Addr{netip.MustParseAddr("192.0.2.100")},
			}
			if c.slice == "" {
				c.slice = webSlice
			}
			got := w.view().translate(parseService(t, c.service), parseSlices(t, c.slice))
			var texts []string
			for _, s := range got.services {
				texts = append(texts, text(s))
			}
			if a, b := strings.Join(texts, "\n"), strings.Join(c.want, "\n"); a != b {
				t.Errorf("got\n%s\nwant\n%s", a, b)
			}
			if !slices.Equal(got.warnings, c.warnings) {
				t.Errorf("warnings %q, want %q", got.warnings, c.warnings)
			}
			if (got.health == nil) != (c.health == nil) || got.health != nil && *got.health != *c.health {
				t.Errorf("health %+v, want %+v", got.health, c.health)
			}
		})
	}
}

func parseService(t *testing.T, text string) *corev1.Service {
	t.Helper()
	s := &corev1.Service{}
	if err := yaml.UnmarshalStrict([]byte(text), s); err != nil {
		t.Fatal(err)
	}
	s.Namespace, s.Name = "ns", "web"
	return s
}

func parseSlices(t *testing.T, text string) (list []any) {
	t.Helper()
	for _, part := range strings.Split(text, "\n---\n") {
		s := &discoveryv1.EndpointSlice{}
		if err := yaml.UnmarshalStrict([]byte(part), s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

func TestHostPorts(t *testing.T) {
	p := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{
			{Ports: []corev1.ContainerPort{{HostPort: 1, ContainerPort: 1}}}, // over before the pod serves
			{RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), Ports: []corev1.ContainerPort{{HostPort: 9000, ContainerPort: 90, Protocol: corev1.ProtocolTCP}}},
		},
		Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{ContainerPort: 7, Protocol: corev1.ProtocolTCP},
			{HostPort: 53, ContainerPort: 5353, Protocol: corev1.ProtocolUDP, HostIP: "192.0.2.1"},
			{HostPort: 8080, ContainerPort: 80, HostIP: "127.0.0.1"},
		}}},
	}}
	p.Namespace, p.Name = "ns", "web"
	addrs := []netip.Addr{netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("fd00:244::2")}
	var got []string
	for _, s := range hostPorts(p, addrs, "me", func(servicespec.HostPort) string { return "" }) {
		got = append(got, text(s))
	}
	want := []string{`host-port/ns/web::9000/TCP round-robin unconditional
  0.0.0.0:9000/TCP cluster here
  0.0.0.0:9000/TCP external here
  [::]:9000/TCP cluster here
  [::]:9000/TCP external here
  -> 10.244.0.2:90 active @me
  -> [fd00:244::2]:90 active @me`, `host-port/ns/web:192.0.2.1:53/UDP round-robin unconditional
  192.0.2.1:53/UDP cluster here
  192.0.2.1:53/UDP external here
  -> 10.244.0.2:5353 active @me
  -> [fd00:244::2]:5353 active @me`, `host-port/ns/web:127.0.0.1:8080/TCP round-robin unconditional
  127.0.0.1:8080/TCP cluster here
  -> 10.244.0.2:80 active @me
  -> [fd00:244::2]:80 active @me`}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		t.Errorf("got\n%s\nwant\n%s", a, b)
	}
}
