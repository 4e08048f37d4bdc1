package flow

import (
	"bytes"
	"math"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/bpf/uplinktest"
	"github.com/skep-io/skep/dataplane/service"
)

const (
	benchRepeat = 200_000
	benchRounds = 15
	benchFlows  = 10_000
)

// repeater gives a program one packet many times.
type repeater struct {
	tb      testing.TB
	s       *stage
	objects uplinktest.RepeatObjects
	state   uint32
}

func newRepeater(tb testing.TB, s *stage) *repeater {
	tb.Helper()
	r := &repeater{tb: tb, s: s}
	if err := uplinktest.LoadRepeatObjects(&r.objects, nil); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.objects.Close() })
	return r
}

// traffic is what a repeater sends: one packet, or the same of many flows.
type traffic struct {
	frame  []byte
	flows  uint32 // 0: the packet as it is
	random bool   // flows come in random order, else each in turn
}

// measure returns the mean nanoseconds of CPU time that target takes for one packet. Time in which other processes had the
// CPU does not count.
func (r *repeater) measure(target *ebpf.Program, t traffic) float64 {
	r.tb.Helper()
	value := uplinktest.RepeatRepeated{Flows: t.flows, State: r.state, Address: 28, Port: 34}
	if t.random {
		value.Random = 1
	}
	if t.frame[23] == unix.IPPROTO_IPIP {
		value.Address, value.Port = 48, 54
	}
	copy(value.Bytes[:], t.frame)
	if err := r.objects.SkepRepeated.Put(uint32(0), &value); err != nil {
		r.tb.Fatal(err)
	}
	if err := r.objects.SkepRepeatTarget.Put(uint32(0), target); err != nil {
		r.tb.Fatal(err)
	}
	var took int64
	r.s.Do(func() error {
		if err := onOneCPU(); err != nil {
			return err
		}
		options := &ebpf.RunOptions{
			Data:    bytes.Clone(t.frame),
			Repeat:  benchRepeat,
			Context: xdpContext{DataEnd: uint32(len(t.frame)), IngressIfindex: uint32(r.s.index)},
		}
		var start, end unix.Timespec
		err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &start)
		if err == nil {
			_, err = r.objects.SkepRepeat.Run(options)
		}
		if err == nil {
			err = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &end)
		}
		took = end.Nano() - start.Nano()
		return err
	})
	if err := r.objects.SkepRepeated.Lookup(uint32(0), &value); err != nil {
		r.tb.Fatal(err)
	}
	r.state = value.State // new flows stay new
	return float64(took) / benchRepeat
}

// BenchmarkPacket prints the nanoseconds that the program takes for one packet: the median of interleaved rounds, less that of
// the same repetition around a program that does nothing. The repetition's own work of undoing a header stays in.
func BenchmarkPacket(b *testing.B) {
	s := newStage(b)
	s.set(external("t/here", service.TCP, vip4, backend(pod4, "node1")),
		external("t/far", service.TCP, port(vip4, 81), backend(far4, "node2")),
		external("t/here6", service.TCP, vip6, backend(pod6, "node1")))
	r := newRepeater(b, s)
	full := func(p packet) []byte {
		frame := p.arriving()
		p.payload = make([]byte, 128-len(frame))
		return p.arriving()
	}
	inTunnel := func(p packet) []byte {
		frame := tunnel(peer4, node4, 0x0107, 0, p).arriving()
		p.payload = make([]byte, 128-len(frame))
		return tunnel(peer4, node4, 0x0107, 0, p).arriving()
	}
	here, far := full(tcp(client4, vip4, tcpACK)), full(tcp(client4, port(vip4, 81), tcpACK))
	inside, ours := inTunnel(tcp(client4, vip4, tcpACK)), full(tcp(client4, port(vip4, 9), tcpACK))
	for _, c := range []struct {
		name    string
		traffic traffic
		want    string // counted for every packet
	}{
		{"known-here", traffic{here, 0, false}, "delivered"},
		{"known-here-IPv6", traffic{full(tcp(client6, vip6, tcpACK)), 0, false}, "delivered"},
		{"known-encapsulated", traffic{far, 0, false}, "encapsulated"},
		{"known-decapsulated", traffic{inside, 0, false}, "event_decapsulated"},
		{"no-service", traffic{ours, 0, false}, "no_service"},
		{"many-here", traffic{here, benchFlows, true}, "delivered"},
		{"many-encapsulated", traffic{far, benchFlows, true}, "encapsulated"},
		{"many-decapsulated", traffic{inside, benchFlows, true}, "event_decapsulated"},
		{"many-no-service", traffic{ours, benchFlows, true}, "no_service"},
		{"new-here", traffic{full(tcp(client4, vip4, tcpSYN)), math.MaxUint32, false}, "event_flow_made"},
		{"new-encapsulated", traffic{full(tcp(client4, port(vip4, 81), tcpSYN)), math.MaxUint32, false}, "event_flow_made"},
	} {
		b.Run(c.name, func(b *testing.B) {
			r.measure(s.program, c.traffic) // fill the caches first
			before, err := s.flows.Counters()
			if err != nil {
				b.Fatal(err)
			}
			for range b.N {
				var with, without []float64
				for range benchRounds {
					with = append(with, r.measure(s.program, c.traffic))
					without = append(without, r.measure(r.objects.SkepNothing, c.traffic))
				}
				slices.Sort(with)
				slices.Sort(without)
				b.ReportMetric(with[benchRounds/2]-without[benchRounds/2], "ns/packet")
			}
			b.ReportMetric(0, "ns/op")
			after, err := s.flows.Counters()
			if err != nil {
				b.Fatal(err)
			}
			// A next hop is looked up now and then, and a few flows are evicted.
			if sent, got := uint64(b.N*benchRounds*benchRepeat), after[c.want]-before[c.want]; got < sent-sent/100 {
				b.Errorf("of %d packets %d counted %s: another path was measured", sent, got, c.want)
			}
		})
	}
	if info, err := s.program.Info(); err == nil {
		if insns, ok := info.VerifiedInstructions(); ok {
			b.Logf("verifier: %d instructions seen", insns)
		}
	}
}
