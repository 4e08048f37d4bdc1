package main

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	skepv1 "github.com/skep-io/skep/api/v1"
)

func addPodRange(t *testing.T, c *kubernetes.Clientset, cidr string) (list skepv1.PodRangeList, err error) {
	t.Helper()
	result := c.CoreV1().RESTClient().Post().AbsPath(skepv1.PathPodRanges).Body([]byte(`{"cidr":"` + cidr + `"}`)).Do(t.Context())
	if err := result.Error(); err != nil {
		return list, err
	}
	data, err := result.Raw()
	if err == nil {
		err = json.Unmarshal(data, &list)
	}
	return list, err
}

// A cluster all of whose pod ranges are in use gets another while it runs, which nodes get parts of from then on, through every server and
// after a restart.
func TestPodRangeIsAdded(t *testing.T) {
	g := newGroup(t, "--pod-cidr", "10.244.0.0/23", "--lb-cidr", "192.0.2.0/28")
	g.join("b")
	a, b := g.client(g.servers["a"]), g.client(g.servers["b"])
	add := func(c *kubernetes.Clientset, name string) (string, error) {
		node, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return node.Spec.PodCIDR, err
	}
	for _, name := range []string{"n1", "n2"} {
		if cidr, err := add(a, name); err != nil || !strings.HasPrefix(cidr, "10.244.") {
			t.Fatalf("%s has %q (%v)", name, cidr, err)
		}
	}
	if _, err := add(a, "n3"); err == nil || !strings.Contains(err.Error(), "no free pod range of /24 in 10.244.0.0/23") || !strings.Contains(err.Error(), "skep network add-pod-range") {
		t.Errorf("a third node in a range of two: %v", err)
	}
	n1, err := a.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n1.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.250.0.7"}}
	if _, err := a.CoreV1().Nodes().UpdateStatus(t.Context(), n1, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for cidr, want := range map[string]string{
		"10.245.0.1/23":  "has bits set past its prefix",
		"10.244.0.0/22":  "overlaps 10.244.0.0/23, which pods have already",
		"10.244.1.0/24":  "overlaps 10.244.0.0/23, which pods have already",
		"10.96.128.0/20": "overlaps 10.96.0.0/16, which is of services",
		"192.0.2.0/24":   "overlaps 192.0.2.0/28, which is of load balancers",
		"10.250.0.0/23":  "has 10.250.0.7 in it, which is an address of node n1",
		"10.245.0.0/25":  "is too small: every node gets a /24",
		"8.0.0.0/7":      "is too large for node ranges of /24",
		"fd00:245::/56":  "pods have no addresses of that family",
		"127.0.0.0/16":   "give a private range",
	} {
		if _, err := addPodRange(t, a, cidr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q in it", cidr, err, want)
		}
	}
	want := skepv1.PodRange{CIDR: netip.MustParsePrefix("10.245.0.0/23"), NodeMask: 24, Parts: 2, Added: true}
	for range 2 { // the command may be repeated
		if list, err := addPodRange(t, a, "10.245.0.0/23"); err != nil || len(list.Ranges) != 2 || list.Ranges[1] != want || list.Ranges[0].Used != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
	}
	g.eventually("server b gives parts of the range", func() error {
		cidr, err := add(b, "n3")
		if err == nil && !strings.HasPrefix(cidr, "10.245.") {
			t.Errorf("n3 has %s", cidr)
		}
		return err
	})
	for _, m := range g.servers {
		_ = m.process.end(t, syscall.SIGTERM)
	}
	g.launch(g.servers["a"]) // it serves only once there is another
	g.start(g.servers["b"])
	for _, c := range []*kubernetes.Clientset{a, b} {
		var data []byte
		g.eventually("the network as agents read it", func() (err error) {
			data, err = c.CoreV1().RESTClient().Get().AbsPath(skepv1.PathNetwork).DoRaw(t.Context())
			return err
		})
		var network skepv1.Network
		if err := json.Unmarshal(data, &network); err != nil || !slices.Equal(network.AddedPodCIDRs, []netip.Prefix{want.CIDR}) {
			t.Errorf("agents read the added ranges %v (%v)", network.AddedPodCIDRs, err)
		}
	}
	if cidr, err := add(a, "n4"); err != nil || !strings.HasPrefix(cidr, "10.245.") {
		t.Errorf("after a restart, n4 has %q (%v)", cidr, err)
	}
}
