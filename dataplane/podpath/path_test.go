package podpath_test

import (
	"net/netip"
	"testing"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
)

func TestPodsOfOneNodeTalkAroundTheStack(t *testing.T) {
	f := fabrictest.New(t, 1)
	f.OpenPaths()
	h := f.Hosts[0]
	a, b := h.NewPod("a"), h.NewPod("b")
	for i, addr := range b.Addrs {
		before := counters(t, h)
		target := netip.AddrPortFrom(addr, 8080)
		serve(t, b.Namespace, target)
		if got := ask(t, a.Namespace, "tcp", target); got.Addr() != a.Addrs[i] {
			t.Errorf("%s saw %s, want %s", target, got, a.Addrs[i])
		}
		changed := moved(before, counters(t, h))
		t.Log(changed)
	}
}
