package conflict

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/servicespec"
)

// TestClaimsFollowChanges makes random changes and compares the claims after each with those that the same state gives when it is set at
// once. Every holder that has lost or gained something must have been returned as affected.
func TestClaimsFollowChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	type state struct {
		node string
		list []asked
	}
	objects, nodes := map[holder]state{}, map[string][]netip.Addr{}
	everyone := func(key controller.Key, f servicespec.Frontend) bool {
		return slices.ContainsFunc(objects[holder{Key: key}].list, func(a asked) bool { return a.cluster && a.frontend == f })
	}
	texts := func(c *claims) map[holder]string {
		out := map[holder]string{}
		for h := range objects {
			if text := lossText(h, c.losses(h, everyone)); text != "" {
				out[h] = text
			}
		}
		return out
	}
	c, before := newClaims(), map[holder]string{}
	conflicts := 0
	for round := range 3000 {
		var affected []holder
		if random.IntN(10) == 0 {
			name := fmt.Sprintf("n%d", random.IntN(3))
			nodes[name] = nil
			for range random.IntN(3) {
				if addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(3))}); !slices.Contains(nodes[name], addr) {
					nodes[name] = append(nodes[name], addr)
				}
			}
			affected = c.setNode(name, nodes[name])
		} else {
			h := holder{pod: random.IntN(3) == 0, Key: controller.Key{Namespace: "ns", Name: fmt.Sprintf("o%d", random.IntN(5))}}
			next := state{list: randomClaims(random, h)}
			if h.pod {
				next.node = fmt.Sprintf("n%d", random.IntN(3))
			}
			objects[h] = next
			affected = append(c.set(h, next.node, next.list), h)
		}
		fresh := newClaims()
		for name, addrs := range nodes {
			fresh.setNode(name, addrs)
		}
		for h, s := range objects {
			fresh.set(h, s.node, s.list)
		}
		now, want := texts(c), texts(fresh)
		for h := range objects {
			if now[h] != want[h] {
				t.Fatalf("round %d: %v: %q, learnt at once %q", round, h, now[h], want[h])
			}
			if now[h] != before[h] && !slices.Contains(affected, h) {
				t.Fatalf("round %d: %v was not named, but went from %q to %q", round, h, before[h], now[h])
			}
		}
		before = now
		conflicts += len(now)
	}
	if conflicts < 3000 {
		t.Errorf("%d conflicts in all rounds: too few to prove anything", conflicts)
	}
}

func randomClaims(random *rand.Rand, h holder) (list []asked) {
	add := func(addr netip.Addr, port int, given, cluster bool, since int64) {
		for _, outside := range []bool{false, true} {
			f := servicespec.Frontend{Addr: addr, Port: uint16(port), Protocol: corev1.ProtocolTCP, Outside: outside}
			taken := func(a asked) bool { return a.frontend == f }
			if outside && cluster || slices.ContainsFunc(list, taken) {
				continue
			}
			list = append(list, asked{frontend: f, cluster: cluster, claim: servicespec.Claim{Given: given, Since: since, Name: fmt.Sprintf("%s %v", h, h.pod)}})
		}
	}
	since := int64(random.IntN(3))
	if !h.pod && random.IntN(2) == 0 { // each service has an address of its own
		add(netip.AddrFrom4([4]byte{192, 0, 2, 10 + h.Name[1] - '0'}), random.IntN(2), true, true, since)
	}
	for range random.IntN(3) {
		addrs := []netip.Addr{
			netip.IPv4Unspecified(), netip.MustParseAddr("127.0.0.1"),
			netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(3))}), netip.AddrFrom4([4]byte{192, 0, 2, 10 + byte(random.IntN(5))}),
		}
		add(addrs[random.IntN(len(addrs))], random.IntN(2), !h.pod && random.IntN(4) == 0, false, since)
	}
	return list
}
