package flow

import (
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/skep-io/skep/bpf"
	"github.com/skep-io/skep/dataplane/service"
)

// The vectors of SipHash's reference implementation: key 00 01 .. 0f, message 00 01 .. of each length.
func TestSipHash(t *testing.T) {
	var key ProbeKey
	var message []byte
	for i := range key {
		key[i] = byte(i)
	}
	for length, want := range map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5} {
		message = message[:0]
		for i := range length {
			message = append(message, byte(i))
		}
		if got := key.Sum(message); got != want {
			t.Errorf("%d bytes: %#x, want %#x", length, got, want)
		}
	}
}

func TestProbeKeyIsNotPrinted(t *testing.T) {
	key := ProbeKey([]byte("0123456789abcdef"))
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key)
	for _, text := range []string{fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %x", key, key, key, key, []any{key}), log.String()} {
		if strings.Contains(text, "0123") || strings.Contains(text, hex.EncodeToString(key[:2])) || strings.Contains(text, "48 49") {
			t.Errorf("printed: %s", text)
		}
	}
}

var probeKey = ProbeKey([]byte("the nodes' key.."))

// probed is a probe from one address to a node, and its answer.
func probed(key ProbeKey, from, to netip.AddrPort, nonce uint64) (request, answer packet) {
	payload := key.AppendProbe(nil, nonce, from, to)
	reply := append([]byte{}, payload...)
	reply[4] = 2
	mac := key.probeMAC(reply[:16], to, from)
	for i := range 8 {
		reply[16+i] = byte(mac >> (8 * i))
	}
	return udp(from, to, string(payload)), udp(to, from, string(reply))
}

// prober is another node's address and this one's.
func prober(a addresses) (from, to netip.AddrPort) {
	peer := peer4
	if a.node.Is6() {
		peer = peer6
	}
	return netip.AddrPortFrom(peer, 45678), netip.AddrPortFrom(a.node, ProbePort)
}

func TestProbesAreReflected(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		from, to := prober(a)
		request, answer := probed(probeKey, from, to, 0x0102030405060708)
		if err := s.flows.maps.probeKey.Put(0, bpf.UplinkProbeKey{}); err != nil {
			t.Fatal(err)
		}
		s.check(t, step{"before there is a key", request.arriving(), xdpDrop, nil, []string{"probe_no_key"}})
		if err := s.flows.SetProbeKey(probeKey); err != nil {
			t.Fatal(err)
		}
		back := answer.frame(routerMAC, nodeMAC)
		noSum, noSumAnswer := request, answer
		noSum.noSum, noSumAnswer.noSum = true, true
		options, optionsAnswer := request, answer
		options.options, optionsAnswer.options = 1, 1
		s.check(t,
			step{"a node's", request.arriving(), xdpTX, back, []string{"probe_answered"}},
			step{"without a checksum", noSum.arriving(), xdpTX, noSumAnswer.frame(routerMAC, nodeMAC), []string{"probe_answered"}},
			step{"with options", options.arriving(), xdpTX, optionsAnswer.frame(routerMAC, nodeMAC), []string{"probe_answered"}},
		)
		if len(back) != len(request.arriving()) {
			t.Errorf("the answer has %d bytes, its probe %d", len(back), len(request.arriving()))
		}
		if nonce, ok := probeKey.ParseAnswer(answer.payload, to, from); !ok || nonce != 0x0102030405060708 {
			t.Errorf("the answer is read as %#x, %v", nonce, ok)
		}
		s.again(t, nil)
		s.check(t, step{"with the next process", request.arriving(), xdpTX, back, []string{"probe_answered"}})
	})
}

func TestForgedProbes(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		if err := s.flows.SetProbeKey(probeKey); err != nil {
			t.Fatal(err)
		}
		from, to := prober(a)
		request, answer := probed(probeKey, from, to, 7)
		changed := func(change func(*packet)) []byte {
			p := request
			p.payload = append([]byte{}, p.payload...)
			change(&p)
			return p.arriving()
		}
		stranger := netip.AddrPortFrom(a.router, 45678)
		otherKey, _ := probed(ProbeKey([]byte("another's key...")), from, to, 7)
		foreign, _ := probed(probeKey, stranger, to, 7)
		loop, _ := probed(probeKey, netip.AddrPortFrom(from.Addr(), ProbePort), to, 7)
		forged := []string{"probe_forged"}
		turned := answer
		turned.from, turned.to = netip.AddrPortFrom(from.Addr(), ProbePort), netip.AddrPortFrom(a.node, 45678)
		s.check(t,
			step{"another key", otherKey.arriving(), xdpDrop, nil, forged},
			step{"another nonce", changed(func(p *packet) { p.payload[9] ^= 1 }), xdpDrop, nil, forged},
			step{"another MAC", changed(func(p *packet) { p.payload[23] ^= 0x80 }), xdpDrop, nil, forged},
			step{"another kind", changed(func(p *packet) { p.payload[4] = 3 }), xdpDrop, nil, forged},
			step{"set padding", changed(func(p *packet) { p.payload[5] = 1 }), xdpDrop, nil, forged},
			step{"truncated", changed(func(p *packet) { p.payload = p.payload[:23] }), xdpDrop, nil, forged},
			step{"its magic alone", changed(func(p *packet) { p.payload = p.payload[:4] }), xdpDrop, nil, forged},
			step{"too long", changed(func(p *packet) { p.payload = append(p.payload, 0) }), xdpDrop, nil, forged},
			step{"replayed from another port", changed(func(p *packet) { p.from = port(p.from, 45679) }), xdpDrop, nil, forged},
			step{"from what is no node", foreign.arriving(), xdpDrop, nil, []string{"probe_foreign"}},
			step{"a node's, replayed from elsewhere", changed(func(p *packet) { p.from = stranger }), xdpDrop, nil, []string{"probe_foreign"}},
			step{"between two such ports, which would go round", loop.arriving(), xdpDrop, nil, forged},
			step{"an answer, as a probe", udp(from, to, string(answer.payload)).arriving(), xdpDrop, nil, forged},
			step{"an answer, to a prober's port", turned.arriving(), xdpPass, nil, []string{"no_service"}},
		)
		// A probe is no answer to its own prober, and an answer is one from its node to its prober alone.
		for name, data := range map[string][]byte{"the probe": request.payload, "cut": answer.payload[:23], "nothing": nil} {
			if _, ok := probeKey.ParseAnswer(data, to, from); ok {
				t.Errorf("%s passes as the answer", name)
			}
		}
		if _, ok := probeKey.ParseAnswer(answer.payload, port(to, 1), from); ok {
			t.Error("an answer of another port passes")
		}
		if _, ok := probeKey.ParseAnswer(answer.payload, to, port(from, 1)); ok {
			t.Error("an answer to another port passes")
		}
	})
}

// Only probes of this node are taken: all else goes on as if there were none.
func TestWhatIsNoProbe(t *testing.T) {
	both(t, func(t *testing.T, s *stage, a addresses) {
		if err := s.flows.SetProbeKey(probeKey); err != nil {
			t.Fatal(err)
		}
		from, to := prober(a)
		elsewhere := netip.AddrPortFrom(a.vip.Addr(), ProbePort)
		passing, _ := probed(probeKey, from, elsewhere, 7)
		s.check(t,
			step{"another message to the port", udp(from, to, "a statement").arriving(), xdpPass, nil, []string{"no_service"}},
			step{"an empty one", udp(from, to, "").arriving(), xdpPass, nil, []string{"no_service"}},
			step{"a probe of another host that passes here", passing.arriving(), xdpPass, nil, []string{"no_service"}},
			step{"TCP", tcp(from, to, tcpSYN).arriving(), xdpPass, nil, []string{"no_service"}},
		)
		s.set(external("t/probe", service.UDP, elsewhere, backend(a.pod, "node1")))
		s.check(t, step{"to a service at the port", passing.arriving(), xdpPass, udp(from, a.pod, string(passing.payload)).arriving(),
			[]string{"delivered", "event_flow_made"}})
	})
}
