package flow

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/dataplane/podpath/fabrictest"
)

var (
	probeRounds = flag.Int("rounds", 20, "how many rounds of probes TestProbesOverWires sends by IPv4")
	probeRecord = flag.String("record", "", "file to write their delays to, for the simulation in agent/reach")
)

const probePace = 50 * time.Millisecond

// probeRound is how late the prober's timer was, and after how long each host's answer was read; negative: never.
type probeRound struct {
	late   time.Duration
	delays []time.Duration
}

// Hosts on a wire answer probes from another's socket, by both families, and none with another key.
func TestProbesOverWires(t *testing.T) {
	w := newWorld(t, 4)
	for i, flows := range w.flows {
		if err := flows.SetProbeKey(probeKey); err != nil {
			t.Fatal(err)
		}
		for other := range w.flows {
			w.Hosts[i].Plane.SetNodeAddresses(fmt.Sprint("host", other), fabrictest.NodeIPs(other))
		}
	}
	for family, count := range []int{*probeRounds, 20} {
		rounds := probeOthers(t, w, family, probeKey, count)
		for i := range len(w.flows) - 1 {
			if !slices.ContainsFunc(rounds, func(r probeRound) bool { return r.delays[i] >= 0 }) {
				t.Errorf("host %d answers no probe to %s", i+1, fabrictest.NodeIPs(i + 1)[family])
			}
		}
		if family == 0 && *probeRecord != "" {
			recordProbes(t, rounds)
		}
		for _, r := range probeOthers(t, w, family, ProbeKey{}, 3) {
			if slices.Max(r.delays) >= 0 {
				t.Error("a probe with another key is answered")
			}
		}
	}
}

// probeOthers probes all other hosts from the first, so many rounds.
func probeOthers(t *testing.T, w *world, family int, key ProbeKey, count int) []probeRound {
	t.Helper()
	var conn *net.UDPConn
	w.Hosts[0].Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(fabrictest.NodeIPs(0)[family], 0)))
		return err
	})
	defer conn.Close()
	from := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	var to []netip.AddrPort
	for i := range len(w.flows) - 1 {
		to = append(to, netip.AddrPortFrom(fabrictest.NodeIPs(i + 1)[family], ProbePort))
	}
	type answer struct {
		round uint64
		host  int
		at    time.Time
	}
	answers := make(chan answer, count*len(to))
	go func() {
		defer close(answers)
		for buffer := make([]byte, 256); ; {
			n, sender, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			sender = netip.AddrPortFrom(sender.Addr().Unmap(), sender.Port())
			if round, ok := key.ParseAnswer(buffer[:n], sender, from); ok && slices.Contains(to, sender) {
				answers <- answer{round, slices.Index(to, sender), time.Now()}
			}
		}
	}()
	rounds, sent := make([]probeRound, count), make([]time.Time, count)
	due := time.Now()
	for i := range rounds {
		time.Sleep(time.Until(due))
		sent[i] = time.Now()
		rounds[i] = probeRound{sent[i].Sub(due), slices.Repeat([]time.Duration{-1}, len(to))}
		for _, addr := range to {
			if _, err := conn.WriteToUDPAddrPort(key.AppendProbe(nil, uint64(i), from, addr), addr); err != nil {
				t.Fatal(err)
			}
		}
		if due = due.Add(probePace); rounds[i].late > probePace/2 {
			due = sent[i].Add(probePace)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	for a := range answers {
		rounds[a.round].delays[a.host] = a.at.Sub(sent[a.round])
	}
	return rounds
}

// recordProbes writes a line for each round: the lateness and the delays, in milliseconds.
func recordProbes(t *testing.T, rounds []probeRound) {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# late, answers of three hosts: ms; -1: none. dataplane/flow.TestProbesOverWires, at load averages %s", load)
	for _, r := range rounds {
		fmt.Fprint(&text, r.late.Milliseconds())
		for _, d := range r.delays {
			if d >= 0 {
				d = d.Truncate(time.Millisecond) / time.Millisecond
			}
			fmt.Fprintf(&text, " %d", int64(d))
		}
		text.WriteByte('\n')
	}
	if err := os.WriteFile(*probeRecord, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
