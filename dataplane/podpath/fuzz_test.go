package podpath_test

import (
	"bytes"
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/skep-io/skep/dataplane/podpath"
)

var fuzzed = flag.Int("packets", 60_000, "random and mutated packets for each program")

// For any packet the programs give one of three verdicts, count exactly one reason, and change it only if they count it as
// translated.
func TestRandomPackets(t *testing.T) {
	s := newScene(t)
	var seeds [][]byte
	for family := range 2 {
		s.putFlows(t, family)
		for _, r := range table {
			seeds = append(seeds, r.packet.named(family).frame())
		}
	}
	seeds = append(seeds, s.forgedFrames()...)
	for name, program := range s.host.Path.Programs() {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(7, uint64(len(name))))
			before := counters(t, s.host)
			s.host.Do(func() error { return s.storm(t, program, random, seeds) })
			after := counters(t, s.host)
			var reasons uint64
			hook := name
			if name == "from_other" {
				hook = "from_uplink" // they count together
			}
			for label, n := range moved(before, after) {
				if strings.HasPrefix(label, hook+"/") && !strings.Contains(label, "/event_") {
					reasons += n
				}
			}
			noise := uint64(64) // the host's own packets to and from its neighbours
			if reasons < uint64(*fuzzed) || reasons > uint64(*fuzzed)+noise {
				t.Errorf("%d packets counted %d reasons", *fuzzed, reasons)
			}
			changed := moved(before, after)
			t.Log(len(changed), "counters moved: ", strings.Join(slices.Sorted(maps.Keys(changed)), " "))
		})
	}
}

// storm runs in the host's namespace.
func (s *scene) storm(t *testing.T, program *ebpf.Program, random *rand.Rand, seeds [][]byte) error {
	out := make([]byte, 4096)
	indexes := []uint32{uint32(s.client.Index), uint32(s.server.Index)}
	for i := range *fuzzed {
		in := mutate(random, seeds)
		context := skb{Ifindex: indexes[i%2]}
		options := &ebpf.RunOptions{Data: in, DataOut: out, Context: context}
		verdict, err := program.Run(options)
		if err != nil {
			t.Errorf("%x: %v", in, err)
			return nil
		}
		switch verdict {
		case podpath.VerdictDrop, podpath.VerdictRedirect:
		case podpath.VerdictStack:
			if len(options.DataOut) != len(in) || !bytes.Equal(options.DataOut[:14], in[:14]) {
				t.Errorf("%x left for the stack as %x", in, options.DataOut)
				return nil
			}
		default:
			t.Errorf("%x: verdict %d", in, int32(verdict))
			return nil
		}
	}
	return nil
}

// leastFrame is the least that a test run accepts: a whole IPv6 header.
const leastFrame = 14 + 40

// mutate returns a packet that is one of the seeds with some bytes changed, cut or added, or nothing but random bytes.
func mutate(random *rand.Rand, seeds [][]byte) []byte {
	if random.IntN(16) == 0 {
		b := make([]byte, leastFrame+random.IntN(200))
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		if random.IntN(2) == 0 {
			copy(b[12:], seeds[random.IntN(len(seeds))][12:15])
		}
		return b
	}
	b := bytes.Clone(seeds[random.IntN(len(seeds))])
	b = append(b, make([]byte, max(0, leastFrame-len(b)))...)
	for range random.IntN(4) {
		b[random.IntN(len(b))] = byte(random.Uint32())
	}
	switch random.IntN(8) {
	case 0:
		b = b[:min(len(b), leastFrame+random.IntN(40))]
	case 1:
		b = append(b, make([]byte, random.IntN(64))...)
	}
	return b
}
