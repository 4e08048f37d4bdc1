package pod

import (
	"strings"
	"testing"

	"github.com/skep-io/skep/dataplane/podnet"
)

func TestBandwidthIsReadFromAnnotations(t *testing.T) {
	for _, c := range []struct {
		ingress, egress string
		want            podnet.Bandwidth
		problem         string
	}{
		{"", "", podnet.Bandwidth{}, ""},
		{"10M", "", podnet.Bandwidth{Ingress: 10_000_000}, ""},
		{"1.5G", "512Ki", podnet.Bandwidth{Ingress: 1_500_000_000, Egress: 512 << 10}, ""},
		{"1k", "1P", podnet.Bandwidth{Ingress: 1000, Egress: 1e15}, ""},
		{"999", "10M", podnet.Bandwidth{Egress: 10_000_000}, "ingress-bandwidth 999 is unreasonably small"},
		{"10M", "2P", podnet.Bandwidth{Ingress: 10_000_000}, "egress-bandwidth 2P is unreasonably large"},
		{"fast", "-1M", podnet.Bandwidth{}, `ingress-bandwidth "fast" is not a quantity`},
	} {
		annotations := map[string]string{}
		for name, value := range map[string]string{ingressBandwidth: c.ingress, egressBandwidth: c.egress} {
			if value != "" {
				annotations[name] = value
			}
		}
		got, err := bandwidth(annotations)
		if got != c.want {
			t.Errorf("%v is read as %+v, want %+v", annotations, got, c.want)
		}
		if (err == nil) != (c.problem == "") || err != nil && !strings.Contains(err.Error(), c.problem) {
			t.Errorf("%v: error %v, want %q in it", annotations, err, c.problem)
		}
	}
}
