// Package schedule draws which faults a run of test/chaos plays, when, on what and for how long. It plays none: a schedule is a
// function of its seed, its length and the size of the cluster alone, so that a run can be repeated.
package schedule

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is what a fault does.
type Kind string

// Faults of a server (skepd). Those that say so have no length: what they end is started again by what watches over it.
const (
	ServerKill        Kind = "server-kill"         // SIGKILL; no length
	ServerDown        Kind = "server-down"         // SIGKILL, and nothing starts it again
	ServerPause       Kind = "server-pause"        // SIGSTOP
	ServerCut         Kind = "server-cut"          // no packet in or out
	ServerMinority    Kind = "server-minority"     // none from and to the other servers; clients reach it
	ServerIngressLoss Kind = "server-ingress-loss" // none in
	ServerEgressLoss  Kind = "server-egress-loss"  // none out
	ServerSlowDisk    Kind = "server-slow-disk"    // a few writes a second
	ServerFullDisk    Kind = "server-full-disk"
	ServerClock       Kind = "server-clock" // its wall clock jumps, and back at the end
	ServersPause      Kind = "servers-pause"
)

// Faults of a host or of a process on it.
const (
	HostKill        Kind = "host-kill"  // as a power cut; started again at the end
	HostPause       Kind = "host-pause" // all of its processes stand still
	HostCut         Kind = "host-cut"
	HostIngressLoss Kind = "host-ingress-loss" // it receives nothing
	HostEgressLoss  Kind = "host-egress-loss"  // what it sends is lost
	HostLoss        Kind = "host-loss"         // 30% of the packets each way
	AgentKill       Kind = "agent-kill"
	AgentPause      Kind = "agent-pause"
	AgentClock      Kind = "agent-clock"
	ContainerdKill  Kind = "containerd-kill"
	ShimKill        Kind = "shim-kill" // all shims of the host
	PodKill         Kind = "pod-kill"  // the first process of each container of a pod of the load
	DNSKill         Kind = "dns-kill"
)

// Kinds are all of them.
var Kinds = []Kind{
	ServerKill, ServerDown, ServerPause, ServerCut, ServerMinority, ServerIngressLoss, ServerEgressLoss, ServerSlowDisk, ServerFullDisk, ServerClock, ServersPause,
	HostKill, HostPause, HostCut, HostIngressLoss, HostEgressLoss, HostLoss, AgentKill, AgentPause, AgentClock, ContainerdKill, ShimKill, PodKill, DNSKill,
}

// instant are those without a length.
var instant = []Kind{ServerKill, AgentKill, ContainerdKill, ShimKill, PodKill, DNSKill}

// Server says whether the fault is one of servers.
func (k Kind) Server() bool { return slices.Contains(Kinds[:11], k) }

// Fault is one fault.
type Fault struct {
	Kind Kind
	// Target is the number of the server or host, from 1 on. ServersPause stops two servers, and Target is the one that runs on.
	Target int
	At     time.Duration // after the begin of the schedule
	Length time.Duration
	Jump   time.Duration // of a clock
}

// End is when the fault is over.
func (f Fault) End() time.Duration { return f.At + f.Length }

func (f Fault) String() string {
	text := fmt.Sprintf("%7.2fs  %-17s %d", f.At.Seconds(), f.Kind, f.Target)
	if f.Length > 0 {
		text += fmt.Sprintf("  for %5.2fs", f.Length.Seconds())
	}
	if f.Jump != 0 {
		text += fmt.Sprintf("  by %s", f.Jump)
	}
	return text
}

// Size is that of the cluster.
type Size struct{ Servers, Hosts int }

const (
	// Faults begin so far apart; two of hosts may overlap, and one of a server with those.
	gapMin, gapMax = 500 * time.Millisecond, 5 * time.Second
	// A fault lasts so long. The shortest are over before anybody has noticed, the longest go past every lease.
	lengthMin, lengthMax = 300 * time.Millisecond, 14 * time.Second
	// Servers are given so long after a fault of one: what is tested is one at a time, except by ServersPause.
	serverRest = 5 * time.Second
	jumpMax    = 30 * time.Minute
	// hostsAtOnce is how many hosts have a fault at a time.
	hostsAtOnce = 2
)

// Draw makes the schedule of a seed. All faults are over at its length. Every kind is played before any is played again.
func Draw(seed uint64, length time.Duration, size Size) []Fault {
	d := &deck{random: rand.New(rand.NewPCG(seed, 0x5eed))}
	var faults []Fault
	for at := gapMin; ; at += d.between(gapMin, gapMax) {
		f := d.next(at, size)
		free := func() bool { return room(faults, f) }
		for ; !free() && f.End() <= length; f.At += gapMin {
			// It waits until its target has no other fault.
		}
		if f.End() > length {
			return faults
		}
		at = f.At
		faults = append(faults, f)
	}
}

type deck struct {
	random *rand.Rand
	left   []Kind
}

func (d *deck) between(from, to time.Duration) time.Duration {
	return from + time.Duration(d.random.Int64N(int64(to-from))).Truncate(10*time.Millisecond)
}

func (d *deck) next(at time.Duration, size Size) Fault {
	if len(d.left) == 0 {
		d.left = slices.Clone(Kinds)
		d.random.Shuffle(len(d.left), func(i, j int) { d.left[i], d.left[j] = d.left[j], d.left[i] })
	}
	f := Fault{Kind: d.left[0], At: at}
	d.left = d.left[1:]
	targets := size.Hosts
	if f.Kind.Server() {
		targets = size.Servers
	}
	f.Target = 1 + d.random.IntN(targets)
	if !slices.Contains(instant, f.Kind) {
		// As many short ones as long ones.
		f.Length = d.between(lengthMin, lengthMax)
		if d.random.IntN(2) == 0 {
			f.Length = d.between(lengthMin, 3*time.Second)
		}
	}
	if f.Kind == ServerClock || f.Kind == AgentClock {
		f.Jump = d.between(-jumpMax, jumpMax).Truncate(time.Second)
	}
	return f
}

// room says whether a fault may begin when it is to: the faults before it leave enough servers and hosts, and its target alone.
func room(faults []Fault, f Fault) bool {
	hosts := 0
	for _, other := range faults {
		switch over := other.End(); {
		case other.Kind.Server() != f.Kind.Server():
		case f.Kind.Server() && over+serverRest > f.At:
			return false
		case f.Kind.Server():
		case over+time.Second > f.At:
			if hosts++; other.Target == f.Target || hosts >= hostsAtOnce {
				return false
			}
		}
	}
	return true
}
