package service

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"testing"
)

// install feeds rules to a program that runs in the calling thread's namespace.
func install(b *testing.B, program string, rules func(io.Writer), args ...string) {
	b.Helper()
	var text, output bytes.Buffer
	rules(&text)
	cmd := exec.Command(program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &text, &output, &output
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v\n%.2000s", program, err, output.String())
	}
}

// eachService goes through the frontends: TCP of all, UDP of the one that is used.
func eachService(services, used int, f func(i int, protocol string)) {
	for i := range services {
		f(i, "tcp")
		if i == used {
			f(i, "udp")
		}
	}
}

// nftables writes what kube-proxy's nftables mode would hold for the services.
// Those that are not used have one endpoint and no map of their own: naming an
// anonymous map makes the kernel go through all others, which takes minutes for
// 10,000, while packets to the used service pass the same rules either way.
func nftables(services, used int) func(io.Writer) {
	return func(w io.Writer) {
		fmt.Fprint(w, `table ip kube-proxy {
	set cluster-ips { type ipv4_addr; }
	map no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoint-nodeports { type inet_proto . inet_service : verdict; }
	map firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	set nodeport-ips { type ipv4_addr; elements = { 192.0.2.1 }; }
	map service-nodeports { type inet_proto . inet_service : verdict; }
	chain mark-for-masquerade { mark set mark or 0x4000; }
	chain masquerading { mark and 0x4000 == 0 return; mark set mark xor 0x4000; masquerade fully-random; }
	chain firewall-check { ip daddr . meta l4proto . th dport vmap @firewall-ips; }
	chain service-endpoints-check { ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }
	chain nodeport-endpoints-check { ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }
	chain cluster-ips-check { ip daddr @cluster-ips reject; ip daddr 10.96.0.0/16 drop; }
`)
		endpoint := func(i, k int, protocol string) {
			fmt.Fprintf(w, "\tchain endpoint-%d-%d-%[5]s {\n\t\tip saddr %[3]s jump mark-for-masquerade\n\t\tmeta l4proto %[5]s dnat to %[3]s:%[4]d\n\t}\n",
				i, k, podOf(i, k), port, protocol)
		}
		chain := func(i int, protocol string) {
			mark := fmt.Sprintf("\tchain service-%d-%s {\n\t\tip daddr %s ip saddr != 10.0.0.0/8 jump mark-for-masquerade\n", i, protocol, frontendOf(i))
			if i != used {
				endpoint(i, 0, protocol)
				fmt.Fprintf(w, "%s\t\tgoto endpoint-%d-0-%s\n\t}\n", mark, i, protocol)
				return
			}
			for k := range backendsEach {
				endpoint(i, k, protocol)
			}
			fmt.Fprintf(w, "%s\t\tnumgen random mod %d vmap { ", mark, backendsEach)
			for k := range backendsEach {
				fmt.Fprintf(w, "%d : goto endpoint-%d-%d-%s, ", k, i, k, protocol)
			}
			fmt.Fprint(w, "}\n\t}\n")
		}
		eachService(services, used, chain)
		fmt.Fprint(w, "\tmap service-ips {\n\t\ttype ipv4_addr . inet_proto . inet_service : verdict\n\t\telements = { ")
		eachService(services, used, func(i int, protocol string) {
			fmt.Fprintf(w, "%s . %s . %d : goto service-%d-%[2]s, ", frontendOf(i), protocol, port, i)
		})
		fmt.Fprint(w, `}
	}
	chain services {
		ip daddr . meta l4proto . th dport vmap @service-ips
		ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
	}
	chain filter-prerouting { type filter hook prerouting priority -110; ct state new jump firewall-check; }
	chain filter-input { type filter hook input priority -110; ct state new jump nodeport-endpoints-check; ct state new jump service-endpoints-check; }
	chain filter-forward { type filter hook forward priority -110; ct state new jump service-endpoints-check; ct state new jump cluster-ips-check; }
	chain filter-output { type filter hook output priority -110; ct state new jump service-endpoints-check; ct state new jump firewall-check; }
	chain filter-output-post-dnat { type filter hook output priority -90; ct state new jump cluster-ips-check; }
	chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }
}
`)
	}
}

// iptables writes what kube-proxy's iptables mode would hold for the services.
func iptables(services, used int) func(io.Writer) {
	return func(w io.Writer) {
		fmt.Fprint(w, `*filter
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
`)
		eachService(services, used, func(i int, protocol string) {
			fmt.Fprintf(w, ":KUBE-SVC-%d-%s - [0:0]\n", i, protocol)
			for k := range backendsEach {
				fmt.Fprintf(w, ":KUBE-SEP-%d-%d-%s - [0:0]\n", i, k, protocol)
			}
		})
		fmt.Fprint(w, `-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
`)
		eachService(services, used, func(i int, protocol string) {
			fmt.Fprintf(w, "-A KUBE-SERVICES -d %s/32 -p %[2]s -m %[2]s --dport %d -j KUBE-SVC-%d-%[2]s\n", frontendOf(i), protocol, port, i)
		})
		fmt.Fprint(w, "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n")
		eachService(services, used, func(i int, protocol string) {
			fmt.Fprintf(w, "-A KUBE-SVC-%d-%[2]s ! -s 10.0.0.0/8 -d %[3]s/32 -p %[2]s -m %[2]s --dport %[4]d -j KUBE-MARK-MASQ\n", i, protocol, frontendOf(i), port)
			for k := range backendsEach {
				fmt.Fprintf(w, "-A KUBE-SVC-%d-%s", i, protocol)
				if left := backendsEach - k; left > 1 {
					fmt.Fprintf(w, " -m statistic --mode random --probability %.10f", 1/float64(left))
				}
				fmt.Fprintf(w, " -j KUBE-SEP-%d-%d-%s\n", i, k, protocol)
				fmt.Fprintf(w, "-A KUBE-SEP-%d-%d-%[3]s -s %[4]s/32 -j KUBE-MARK-MASQ\n", i, k, protocol, podOf(i, k))
				fmt.Fprintf(w, "-A KUBE-SEP-%d-%d-%[3]s -p %[3]s -m %[3]s -j DNAT --to-destination %s:%d\n", i, k, protocol, podOf(i, k), port)
			}
		})
		fmt.Fprint(w, "COMMIT\n")
	}
}
