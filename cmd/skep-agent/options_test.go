package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// What a flag cannot be is said at once, in one line: flag, value, why, and what to give.
func TestFlagsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name string
		args string
		says []string // none: it is taken
	}{
		{"the least", "", nil},
		{"all of them", "--node-ip 192.0.2.1,2001:db8::1 --labels a=b,c/d=e --uplink eth0,eth1 --cluster-dns 10.96.0.10,fd00:96::a --service-cidr 10.96.0.0/16,fd00:96::/112 --cluster-cidr 10.244.0.0/16,fd00:244::/48", nil},
		{"no URL", "--server 192.0.2.1:6443", []string{`--server "192.0.2.1:6443"`, "https://ADDR:6443"}},
		{"no TLS", "--server http://192.0.2.1:6443", []string{`--server "http://192.0.2.1:6443"`, "https://ADDR:6443"}},
		{"node name", "--node-name Node_1", []string{`node name "Node_1"`, "--node-name"}},
		{"node address", "--node-ip node1", []string{`--node-ip "node1" cannot be read`}},
		{"two node addresses of a family", "--node-ip 192.0.2.1,192.0.2.2", []string{"--node-ip 192.0.2.1,192.0.2.2", "one of each family"}},
		{"loopback", "--node-ip 127.0.0.1", []string{"--node-ip 127.0.0.1 is no address that other hosts can reach"}},
		{"link-local", "--node-ip fe80::1%eth0", []string{"--node-ip fe80::1%eth0 is no address that other hosts can reach"}},
		{"label without value", "--labels zone", []string{`--labels "zone" is not k=v`, "topology.kubernetes.io/zone=a"}},
		{"bad label", "--labels a/b/c=d", []string{`--labels "a/b/c=d"`}},
		{"bad value", "--labels a=b/c", []string{`--labels "a=b/c"`}},
		{"zone and region", "--node-labels topology.kubernetes.io/zone=a,topology.kubernetes.io/region=r,node.kubernetes.io/x=y,x.node.kubernetes.io/z=z,example.org/k8s.io=b", nil},
		{"label that attracts pods", "--labels node-restriction.kubernetes.io/team=a", []string{"node-restriction.kubernetes.io/team", "skep label node"}},
		{"label of Kubernetes", "--labels node-role.kubernetes.io/control-plane=", []string{"node-role.kubernetes.io/control-plane"}},
		{"label twice", "--labels a=b,a=c", []string{`--labels "a=b,a=c" gives a a second value`}},
		{"DNS", "--cluster-dns dns", []string{`--cluster-dns "dns" is not an address`, "10.96.0.10"}},
		{"range", "--service-cidr 10.96.0.0", []string{`--service-cidr "10.96.0.0" cannot be read`}},
		{"range past its prefix", "--cluster-cidr 10.244.0.1/16", []string{"--cluster-cidr 10.244.0.1/16", "did you mean 10.244.0.0/16"}},
		{"two of a family", "--service-cidr 10.96.0.0/16,10.97.0.0/16", []string{"--service-cidr 10.96.0.0/16,10.97.0.0/16", "one of each family"}},
		{"sysctl of no namespace", "--allowed-unsafe-sysctls net.core.somaxconn,kernel.core_pattern", []string{`--allowed-unsafe-sysctls: the sysctls "kernel.core_pattern" are not known to be namespaced`}},
		{"sysctls", "--allowed-unsafe-sysctls net.core.somaxconn,kernel.msg*", nil},
		{"table sizes", "--table-sizes services=20000,flows=1000000", nil},
		{"unknown table", "--table-sizes ports=1", []string{`--table-sizes "ports=1": give TABLE=N`, "backends, flows, frontends, nodes, services, slots"}},
		{"no table size", "--table-sizes services=many", []string{`--table-sizes "services=many"`}},
		{"a table of nothing", "--table-sizes slots=0", []string{`--table-sizes "slots=0"`, "from 1 to"}},
		{"folder", "--state-dir var", []string{`--state-dir "var": give an absolute path`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			command, o := &cobra.Command{}, &options{}
			o.hostFlags(command)
			o.clusterFlags(command)
			args := append([]string{"--server", "https://192.0.2.1:6443", "--node-name", "node1"}, strings.Fields(c.args)...)
			if err := command.ParseFlags(args); err != nil {
				t.Fatal(err)
			}
			_, err := o.config()
			if (err == nil) != (len(c.says) == 0) {
				t.Fatalf("got %v, want an error about %q", err, c.says)
			}
			for _, part := range c.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q lacks %q", err, part)
				}
			}
		})
	}
}
