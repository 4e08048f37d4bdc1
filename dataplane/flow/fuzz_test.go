package flow

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/service"
)

// envPackets is how many packets TestAnyPacket sends; 10,000,000 take about a minute.
const envPackets = "SKEP_FUZZ_PACKETS"

// Random packets, and real ones with bytes changed, cut off or added. The verifier proves that no program reads or writes
// outside a packet; this test checks that each packet counts for exactly one reason, with the verdict of that reason, that
// packets that leave have the length of their headers, and that checksums that were right stay right.
func TestAnyPacket(t *testing.T) {
	packets := 200_000
	if text := os.Getenv(envPackets); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("%s: %v", envPackets, err)
		}
		packets = n
	}
	s := newStage(t)
	s.route(t, netip.PrefixFrom(far4.Addr(), 32), peer4)
	s.route(t, netip.PrefixFrom(far6.Addr(), 128), peer6)
	s.set(everyKind()...)
	if err := s.flows.Announce(map[netip.Addr]time.Time{vip4.Addr(): time.Now().Add(time.Hour), vip6.Addr(): time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	seeds := seedFrames()
	seed := uint64(20260101)
	random := rand.New(rand.NewPCG(seed, uint64(packets)))
	before, err := s.flows.Counters()
	if err != nil {
		t.Fatal(err)
	}
	verdicts := map[uint32]int{}
	s.Do(func() error {
		if err := onOneCPU(); err != nil {
			return err
		}
		options := &ebpf.RunOptions{DataOut: make([]byte, 8192)}
		for range packets {
			options.Data = mutate(random, seeds)
			options.DataOut = options.DataOut[:cap(options.DataOut)]
			options.Context = xdpContext{DataEnd: uint32(len(options.Data)), IngressIfindex: uint32(s.index)}
			verdict, err := s.program.Run(options)
			if err != nil {
				return err
			}
			verdicts[verdict]++
			if problem := implausible(options.Data, options.DataOut, verdict); problem != "" {
				t.Errorf("%s; packet in:\n%sverdict %d, packet out:\n%s", problem, describeFrame(options.Data), verdict, describeFrame(options.DataOut))
			}
			if t.Failed() {
				break
			}
		}
		return nil
	})
	after, err := s.flows.Counters()
	if err != nil {
		t.Fatal(err)
	}
	var reasons uint64
	reached := 0
	for name, n := range after {
		if n == before[name] {
			continue
		}
		reached++
		if len(name) < 6 || name[:6] != "event_" {
			reasons += n - before[name]
		}
	}
	if total := verdicts[xdpDrop] + verdicts[xdpPass] + verdicts[xdpTX]; !t.Failed() && (total != packets || reasons != uint64(packets)) {
		t.Errorf("%d packets, verdicts %v, %d reasons counted: want one reason and a verdict each", packets, verdicts, reasons)
	}
	if reached < 30 {
		t.Errorf("%d reasons and events were reached, want at least 30: %v", reached, after)
	}
	t.Logf("%d packets: verdicts %v, %d of %d counters moved", packets, verdicts, reached, len(after))
}

// everyKind are services with every kind of destination.
func everyKind() []service.Service {
	var services []service.Service
	for _, protocol := range []service.Protocol{service.TCP, service.UDP, service.SCTP} {
		for i, a := range []addresses{{vip: vip4, pod: pod4, far: far4}, {vip: vip6, pod: pod6, far: far6}} {
			name := protocol.String() + strconv.Itoa(i)
			snat := external("t/snat"+name, protocol, port(a.vip, 83), backend(a.far, "node2"))
			snat.SNAT = true
			maglev := external("t/maglev"+name, protocol, port(a.vip, 84), backend(a.pod, "node1"), backend(a.far, "node2"))
			maglev.Selection = service.Maglev
			local := external("t/local"+name, protocol, port(a.vip, 86), backend(a.far, "node2"))
			local.Frontends[0].Local = true
			closed := external("t/closed"+name, protocol, port(a.vip, 87), backend(a.pod, "node1"))
			closed.Frontends[0].Restricted = true
			services = append(services, snat, maglev, local, closed,
				external("t/here"+name, protocol, port(a.vip, 8080), backend(a.pod, "node1")),
				external("t/far"+name, protocol, port(a.vip, 81), backend(a.far, "node2")),
				external("t/none"+name, protocol, port(a.vip, 82)),
				external("t/node3"+name, protocol, port(a.vip, 85), backend(a.far, "node6")))
		}
	}
	return services
}

func seedFrames() [][]byte {
	var frames [][]byte
	for _, a := range []addresses{{client: client4, vip: vip4, node: node4, far: far4}, {client: client6, vip: vip6, node: node6, far: far6}} {
		for _, p := range []uint16{8080, 81, 82, 83, 84, 85, 86, 87, 9} {
			to := port(a.vip, p)
			for _, one := range []packet{tcp(a.client, to, tcpSYN), tcp(a.client, to, tcpACK), tcp(a.client, to, tcpFIN|tcpACK),
				udp(a.client, to, "payload of a datagram"), sctp(a.client, to)} {
				frames = append(frames, one.arriving(), tunnel(peer4, node4, 0x0107, 0, one).arriving(), tunnel(peer6, node6, 0x0107, 0x0c, one).arriving())
			}
			frames = append(frames, udp(a.client, to, string(make([]byte, 1460))).arriving())
			k := kindsOf(a)
			answer := tcp(to, a.client, tcpACK)
			frames = append(frames, icmp(a.client.Addr(), to.Addr(), k.tooBig, k.tooBigCode, 1400, answer.ip()).arriving())
			first, middle, last := inFragments(udp(a.client, to, string(make([]byte, 160))), uint32(p))
			frames = append(frames, first.arriving(), middle.arriving(), last.arriving())
		}
		frames = append(frames, udp(a.far, netip.AddrPortFrom(a.node, 61000), "answer").arriving())
		about := tunnel(node4, peer4, 7, 0, tcp(a.client, port(a.vip, 81), tcpACK)).ip()
		frames = append(frames, icmp(router4, node4, 3, 4, 1400, about).arriving(), icmp(router4, node4, 11, 0, 0, about[:28]).arriving())
	}
	frames = append(frames, forgedFrames()...)
	return append(frames, request(router4, vip4.Addr()), solicitation(router6, vip6.Addr(), true).arriving())
}

// mutate returns a frame of random bytes, or a seed with some of its bytes changed, cut off, or more behind it.
func mutate(random *rand.Rand, seeds [][]byte) []byte {
	if random.IntN(50) == 0 {
		frame := make([]byte, 14+random.IntN(200))
		for i := range frame {
			frame[i] = byte(random.Uint32())
		}
		binary.BigEndian.PutUint16(frame[12:], []uint16{0x0800, 0x86dd, 0x0806, 0x8100}[random.IntN(4)])
		if random.IntN(2) == 0 && len(frame) > 14 {
			frame[14] = []byte{0x45, 0x60, 0x46}[random.IntN(3)]
		}
		return frame
	}
	frame := append([]byte(nil), seeds[random.IntN(len(seeds))]...)
	for range random.IntN(4) {
		at := 12 + random.IntN(len(frame)-12)
		switch random.IntN(4) {
		case 0:
			frame[at] ^= 1 << random.IntN(8)
		case 1:
			frame[at] = []byte{0, 1, 0x7f, 0x80, 0xff}[random.IntN(5)]
		default:
			frame[at] = byte(random.Uint32())
		}
	}
	switch random.IntN(8) {
	case 0:
		frame = frame[:14+random.IntN(len(frame)-13)]
	case 1:
		frame = append(frame, make([]byte, random.IntN(300))...)
	}
	return frame
}

// implausible says what is wrong with a packet that leaves; "" if nothing is.
func implausible(in, out []byte, verdict uint32) string {
	if verdict != xdpPass && verdict != xdpTX || len(out) < 34 || binary.BigEndian.Uint16(out[12:]) != 0x0800 || len(in) < 34 {
		return ""
	}
	if string(in) == string(out) {
		return "" // unchanged
	}
	if out[14] < 0x45 {
		return "IPv4 header of less than 20 bytes"
	}
	header := int(out[14]&15) * 4
	if total := int(binary.BigEndian.Uint16(out[16:])); total > len(out)-14 {
		return "IPv4 packet longer than its frame"
	}
	wasRight := binary.BigEndian.Uint16(in[12:]) != 0x0800 || len(in) < 14+int(in[14]&15)*4 || checksum(in[14:14+int(in[14]&15)*4]) == 0
	if wasRight && len(out) >= 14+header && checksum(out[14:14+header]) != 0 && !isTunnel(in) {
		return "wrong IPv4 header checksum"
	}
	return ""
}

// isTunnel: what comes out of one may have been wrong in it.
func isTunnel(frame []byte) bool {
	return binary.BigEndian.Uint16(frame[12:]) == 0x86dd && (frame[20] == 4 || frame[20] == 41 || frame[20] == 60) || frame[23] == 4 || frame[23] == 41
}
