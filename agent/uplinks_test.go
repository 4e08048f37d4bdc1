package agent

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/dataplane/flow"
)

func TestOutsideCondition(t *testing.T) {
	works := flow.Uplink{Name: "eth0", XDP: "native"}
	slow := flow.Uplink{Name: "br0", XDP: "generic"}
	fails := flow.Uplink{Name: "tun0", XDP: "none", Err: errors.New("it has no Ethernet address")}
	for _, c := range []struct {
		name    string
		uplinks []flow.Uplink
		status  corev1.ConditionStatus
		reason  string
		says    []string
	}{
		{"all", []flow.Uplink{works, slow}, corev1.ConditionTrue, "UplinksAttached", []string{"eth0: native XDP", "br0: generic XDP"}},
		{"some", []flow.Uplink{works, fails}, corev1.ConditionTrue, "SomeUplinksFailed", []string{"not served to clients outside", "tun0: it has no Ethernet address", "they are at eth0"}},
		{"none of them", []flow.Uplink{fails}, corev1.ConditionFalse, "UplinksFailed", []string{"not served to clients outside", "pods here, which see those nodes' addresses", "tun0: it has no Ethernet address"}},
		{"no uplink", nil, corev1.ConditionFalse, "NoUplink", []string{"not served to clients outside", "--uplink"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := outsideCondition(c.uplinks)
			if got.Type != servicespec.ServesOutside || got.Status != c.status || got.Reason != c.reason {
				t.Errorf("got %+v, want status %s for reason %s", got, c.status, c.reason)
			}
			for _, part := range c.says {
				if !strings.Contains(got.Message, part) {
					t.Errorf("%q lacks %q", got.Message, part)
				}
			}
		})
	}
}
