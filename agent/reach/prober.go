package reach

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skep-io/skep/dataplane/flow"
)

// tooLate is how late a round may be, or how long its sending may take, and still count against others.
const tooLate = interval / 2

// prober probes the watched nodes on a thread of its own, and hands on what judge finds.
type prober struct {
	sockets []*probeSocket // one of each address family
	found   func(finding)
	judge   *judge
	base    uint64 // of nonces: the round is added

	mu      sync.Mutex
	watched map[string]netip.Addr
	changed bool
	counts  counts
	alone   bool

	// The goroutine's own: to and from are its copy of watched, counted what counts becomes.
	to      map[string]netip.AddrPort
	from    map[netip.AddrPort]string
	counted counts
}

// counts are since the agent started.
type counts struct{ sent, answered, lost, late, mute uint64 }

func newProber(addrs []netip.Addr, key flow.ProbeKey, found func(finding)) (*prober, error) {
	p := &prober{found: found, judge: newJudge(), base: rand.Uint64() >> 1}
	for _, addr := range addrs {
		s, err := openProbeSocket(addr, key)
		if err != nil {
			p.close()
			return nil, err
		}
		p.sockets = append(p.sockets, s)
	}
	return p, nil
}

func (p *prober) close() {
	for _, s := range p.sockets {
		s.close()
	}
}

// watch sets who is probed, at which address of theirs.
func (p *prober) watch(nodes map[string]netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watched, p.changed = nodes, true
}

// state returns the counts, how many nodes are watched, and whether nobody answers.
func (p *prober) state() (c counts, watched int, alone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts, len(p.watched), p.alone
}

// run probes until ctx ends, on a thread of its own: no other goroutine keeps it waiting.
func (p *prober) run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	due := time.Now()
	slow := false // the last round's sending was
	for {
		wait := time.Until(due)
		if err := sleep(ctx, wait); err != nil {
			return nil
		}
		now := time.Now()
		late := slow || now.Sub(due) > tooLate
		p.receive()
		findings := p.judge.Judge(now, late)
		p.note(late)
		for _, f := range findings {
			p.found(f)
		}
		sending := time.Now()
		p.send()
		slow = time.Since(sending) > tooLate
		if due = due.Add(interval); late {
			due = sending.Add(interval)
		}
	}
}

// sleep blocks the thread itself: it has nothing else to run.
func sleep(ctx context.Context, wait time.Duration) error {
	if wait > 0 {
		left := unix.NsecToTimespec(int64(wait))
		for errors.Is(unix.Nanosleep(&left, &left), unix.EINTR) {
		}
	}
	return ctx.Err()
}

func (p *prober) receive() {
	for _, s := range p.sockets {
		s.drain(func(from netip.AddrPort, nonce uint64) {
			if name, ok := p.from[from]; ok && p.judge.Answered(name, nonce-p.base) {
				p.counted.answered++
			}
		})
	}
}

func (p *prober) note(late bool) {
	alone := p.judge.Alone()
	if late {
		p.counted.late++
	} else if p.judge.mute > 0 {
		p.counted.mute++
	}
	p.counted.lost = p.judge.lost
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts = p.counted
	if p.alone != alone {
		p.alone = alone
		if alone {
			slog.Warn("none of the nodes that this one probes answers: it is probably cut off itself, and accuses none of them", "watched", len(p.to))
		} else {
			slog.Info("nodes that this one probes answer again")
		}
	}
	if p.changed {
		p.changed = false
		p.adopt()
	}
}

// adopt takes over what watch has set.
func (p *prober) adopt() {
	p.to, p.from = map[string]netip.AddrPort{}, map[netip.AddrPort]string{}
	var names []string
	for name, addr := range p.watched {
		to := netip.AddrPortFrom(addr, flow.ProbePort)
		p.to[name], p.from[to] = to, name
		names = append(names, name)
	}
	p.judge.Watch(names)
}

func (p *prober) send() {
	p.judge.Next()
	now := time.Now()
	for name, to := range p.to {
		for _, s := range p.sockets {
			if s.local.Addr().Is4() == to.Addr().Is4() {
				if s.send(p.base+p.judge.Round(), to) {
					p.judge.Sent(name, now)
					p.counted.sent++
				}
				break
			}
		}
	}
}
