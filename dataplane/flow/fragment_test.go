package flow

import (
	"bytes"
	"testing"

	"github.com/skep-io/skep/dataplane/service"
)

// inFragments splits a packet into three fragments.
func inFragments(p packet, id uint32) (first, middle, last packet) {
	p.df = false
	cut := func(offset int, more bool) packet {
		p := p
		p.fragment = &fragment{offset: offset, more: more, id: id}
		return p
	}
	return cut(0, true), cut(fragmentSize, true), cut(2*fragmentSize, false)
}

func TestFragments(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		s.set(external("t/udp", service.UDP, a.vip, backend(a.pod, "node1")), external("t/far", service.UDP, port(a.vip, 81), backend(a.far, "node2")))
		payload := string(bytes.Repeat([]byte("fragment"), 20))
		first, middle, last := inFragments(udp(a.client, a.vip, payload), 77)
		first2, middle2, last2 := inFragments(udp(a.client, a.pod, payload), 77)
		s.check(t,
			step{"later one first", last.arriving(), xdpPass, nil, []string{"fragment_passed"}},
			step{"first", first.arriving(), xdpPass, first2.arriving(), []string{"delivered", "event_flow_made", "event_fragment_noted"}},
			step{"last", last.arriving(), xdpPass, last2.arriving(), []string{"delivered"}},
			step{"middle", middle.arriving(), xdpPass, middle2.arriving(), []string{"delivered"}},
		)
		s.prime(t, udp(port(a.client, 2), port(a.vip, 81), "x").arriving())
		first, middle, _ = inFragments(udp(a.client, port(a.vip, 81), payload), 78)
		hint := uint16(0x0209)
		if a.far.Addr().Is6() {
			hint = 0x1209
		}
		wrapped := func(p packet) []byte {
			p.hops = 63
			return sent(tunnel(node4, peer4, hint, 0, p), peerMAC)
		}
		s.check(t,
			step{"first, elsewhere", first.arriving(), xdpTX, wrapped(first), []string{"encapsulated", "event_flow_made", "event_fragment_noted"}},
			step{"middle, elsewhere", middle.arriving(), xdpTX, wrapped(middle), []string{"encapsulated"}},
		)
		first, middle, _ = inFragments(udp(port(a.client, 3), a.vip, payload), 79)
		first2, middle2, _ = inFragments(udp(port(a.client, 3), a.pod, payload), 79)
		s.check(t,
			step{"from a node, later one first", tunnel(peer4, node4, 0, 0, middle).arriving(), xdpDrop, nil, []string{"fragment_lost"}},
			step{"from a node, first", tunnel(peer4, node4, 0, 0, first).arriving(), xdpPass, first2.arriving(),
				[]string{"delivered", "event_decapsulated", "event_flow_made", "event_fragment_noted"}},
			step{"from a node, middle", tunnel(peer4, node4, 0, 0, middle).arriving(), xdpPass, middle2.arriving(),
				[]string{"delivered", "event_decapsulated"}},
		)
	})
}
