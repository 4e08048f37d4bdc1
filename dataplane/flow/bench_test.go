package flow

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/bpf/uplinktest"
	"github.com/skep-io/skep/dataplane/service"
)

const (
	// Starting a run takes the kernel tens of milliseconds.
	benchRepeat = 1_000_000
	benchRounds = 9
)

// repeater gives a program one packet many times.
type repeater struct {
	tb      testing.TB
	s       *stage
	objects uplinktest.RepeatObjects
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

// measure returns the nanoseconds that one packet given to target takes in the mean.
func (r *repeater) measure(target *ebpf.Program, frame []byte, fresh bool) float64 {
	r.tb.Helper()
	var value uplinktest.RepeatRepeated
	copy(value.Bytes[:], frame)
	if fresh {
		value.Fresh = 1
	}
	if err := r.objects.SkepRepeated.Put(uint32(0), &value); err != nil {
		r.tb.Fatal(err)
	}
	if err := r.objects.SkepRepeatTarget.Put(uint32(0), target); err != nil {
		r.tb.Fatal(err)
	}
	var took float64
	r.s.Do(func() error {
		if err := onOneCPU(); err != nil {
			return err
		}
		options := &ebpf.RunOptions{
			Data:    bytes.Clone(frame),
			Repeat:  benchRepeat,
			Context: xdpContext{DataEnd: uint32(len(frame)), IngressIfindex: uint32(r.s.index)},
		}
		start := time.Now()
		_, err := r.objects.SkepRepeat.Run(options)
		took = float64(time.Since(start)) / benchRepeat
		return err
	})
	return took
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
	known := tcp(client4, vip4, tcpACK)
	for _, c := range []struct {
		name  string
		frame []byte
		fresh bool
		want  string
	}{
		{"known-here", full(known), false, "delivered"},
		{"known-here-IPv6", full(tcp(client6, vip6, tcpACK)), false, "delivered"},
		{"known-encapsulated", full(tcp(client4, port(vip4, 81), tcpACK)), false, "encapsulated"},
		{"known-decapsulated", inTunnel(known), false, "event_decapsulated"},
		{"new-here", full(tcp(client4, vip4, tcpSYN)), true, "event_flow_made"},
		{"new-encapsulated", full(tcp(client4, port(vip4, 81), tcpSYN)), true, "event_flow_made"},
		{"no-service", full(tcp(client4, port(vip4, 9), tcpACK)), false, "no_service"},
	} {
		b.Run(c.name, func(b *testing.B) {
			s.run(c.frame) // what is known is known by now
			if _, _, moved := s.run(c.frame); !c.fresh && moved[c.want] != 1 {
				b.Fatalf("counters %v, want %s: another path would be measured", moved, c.want)
			}
			for range b.N {
				var with, without []float64
				for range benchRounds {
					with = append(with, r.measure(s.program, c.frame, c.fresh))
					without = append(without, r.measure(r.objects.SkepNothing, c.frame, c.fresh))
				}
				slices.Sort(with)
				slices.Sort(without)
				b.ReportMetric(with[benchRounds/2]-without[benchRounds/2], "ns/packet")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	if info, err := s.program.Info(); err == nil {
		if insns, ok := info.VerifiedInstructions(); ok {
			b.Logf("verifier: %d instructions seen", insns)
		}
	}
}
