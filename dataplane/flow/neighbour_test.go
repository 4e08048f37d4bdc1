package flow

import (
	"net/netip"
	"testing"
	"time"
)

// request is an ARP request as it comes from the router.
func request(asker, target netip.Addr) []byte {
	frame := ethernet(broadcastMAC, routerMAC, etherARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, routerMAC[:]...), asker.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), target.AsSlice()...)
}

func reply(asker, target netip.Addr) []byte {
	frame := ethernet(routerMAC, nodeMAC, etherARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 2)
	frame = append(append(frame, nodeMAC[:]...), target.AsSlice()...)
	return append(append(frame, routerMAC[:]...), asker.AsSlice()...)
}

func solicitation(from, target netip.Addr, withOption bool) packet {
	group := target.As16()
	to := netip.AddrFrom16([16]byte{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, group[13], group[14], group[15]})
	body := target.AsSlice()
	if withOption {
		body = append(append(body, 1, 1), routerMAC[:]...)
	}
	p := icmp(from, to, 135, 0, 0, body)
	p.hops = 255
	return p
}

func advertised(to, target netip.Addr, flags uint32) packet {
	p := icmp(target, to, 136, 0, flags, append(append(target.AsSlice(), 2, 1), nodeMAC[:]...))
	p.hops = 255
	return p
}

func TestAnswerForAnnouncedAddresses(t *testing.T) {
	s := newStage(t)
	ours4, ours6 := vip4.Addr(), vip6.Addr()
	other4, other6 := ours4.Next(), ours6.Next()
	tooFar := solicitation(router6, ours6, true)
	tooFar.hops = 254
	silent := func(when string) {
		t.Helper()
		s.check(t,
			step{when + ": ARP", request(router4, ours4), xdpPass, nil, []string{"not_ip"}},
			step{when + ": NDP", solicitation(router6, ours6, true).arriving(), xdpPass, nil, []string{"other_protocol"}},
		)
	}
	silent("before")
	announce := func(addrs ...netip.Addr) {
		t.Helper()
		until := map[netip.Addr]time.Time{}
		for _, addr := range addrs {
			until[addr] = time.Now().Add(time.Hour)
		}
		if err := s.flows.Announce(until); err != nil {
			t.Fatal(err)
		}
	}
	announce(ours4, ours6)
	s.check(t,
		step{"ARP", request(router4, ours4), xdpTX, reply(router4, ours4), []string{"arp_answered"}},
		step{"ARP for another", request(router4, other4), xdpPass, nil, []string{"not_ip"}},
		step{"somebody else's gratuitous ARP", request(ours4, ours4), xdpPass, nil, []string{"not_ip"}},
		step{"ARP reply", reply(router4, ours4), xdpPass, nil, []string{"other_host"}},
		step{"ARP cut short", request(router4, ours4)[:30], xdpPass, nil, []string{"not_ip"}},
		step{"NDP", solicitation(router6, ours6, true).arriving(), xdpTX,
			advertised(router6, ours6, 0x60000000).frame(routerMAC, nodeMAC), []string{"neighbour_answered"}},
		step{"NDP without an option", solicitation(router6, ours6, false).arriving(), xdpTX,
			advertised(router6, ours6, 0x60000000).frame(routerMAC, nodeMAC), []string{"neighbour_answered"}},
		step{"NDP probe", solicitation(netip.IPv6Unspecified(), ours6, false).arriving(), xdpTX,
			advertised(allNodes, ours6, 0x20000000).frame(allNodesMAC, nodeMAC), []string{"neighbour_answered"}},
		step{"NDP for another", solicitation(router6, other6, true).arriving(), xdpPass, nil, []string{"other_protocol"}},
		step{"NDP from off the link", tooFar.arriving(), xdpPass, nil, []string{"other_protocol"}},
	)
	announce(other4)
	silent("withdrawn")
	s.check(t, step{"ARP for the other", request(router4, other4), xdpTX, reply(router4, other4), []string{"arp_answered"}})
	announce(ours4, ours6)
	s.expire(t)
	silent("past the deadline")
}

// expire moves every deadline into the past, as if it had not been renewed.
func (s *stage) expire(t *testing.T) {
	t.Helper()
	entries, err := s.flows.maps.announced.All()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootTime()
	if err != nil {
		t.Fatal(err)
	}
	for key := range entries {
		if err := s.flows.maps.announced.Put(key, uint64(boot)); err != nil {
			t.Fatal(err)
		}
	}
}
