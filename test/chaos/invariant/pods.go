package invariant

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Pods follows pods by what the API and the hosts say of them.
type Pods struct {
	mu         sync.Mutex
	pods       map[string]*pod // by UID
	violations []error
}

type pod struct {
	name  string // namespace/name
	host  string // that it is bound to
	ended string // its last phase, if that is final
	// drained is when the API was first seen to say that every live node has the pod out of its maps.
	drained time.Time
}

// Seen is a pod as the API has it. Drained says that its condition skep.io/Drained is true.
type Seen struct {
	UID, Name, Host, Phase string
	Drained                bool
	At                     time.Time
}

// See records a state of a pod. A pod that was bound stays bound to that host, and one that ended stays so.
func (p *Pods) See(s Seen) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods == nil {
		p.pods = map[string]*pod{}
	}
	known := p.pods[s.UID]
	if known == nil {
		known = &pod{name: s.Name}
		p.pods[s.UID] = known
	}
	if known.host != "" && s.Host != known.host {
		p.violations = append(p.violations, fmt.Errorf("pod %s (%s) was bound to %s, and at %s to %q", s.Name, s.UID, known.host, clock(s.At), s.Host))
	}
	known.host = s.Host
	if known.ended != "" && s.Phase != known.ended {
		p.violations = append(p.violations, fmt.Errorf("pod %s (%s) was %s, and at %s is %s", s.Name, s.UID, known.ended, clock(s.At), s.Phase))
	}
	if s.Phase == "Succeeded" || s.Phase == "Failed" {
		known.ended = s.Phase
	}
	if s.Drained && known.drained.IsZero() {
		known.drained = s.At
	}
}

// Find returns a pod's name, for the UID that a host knows it by.
func (p *Pods) Find(uid string) (name string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.pods[uid]; known != nil {
		return known.name, true
	}
	return "", false
}

// Running is a pod that has a process on a host.
type Running struct{ UID, Host string }

// Together are pods that had processes at one and the same moment. No two may have one name, and none may be on two hosts.
func (p *Pods) Together(at time.Time, running []Running) {
	p.mu.Lock()
	defer p.mu.Unlock()
	byName := map[string][]Running{}
	for _, r := range running {
		if known := p.pods[r.UID]; known != nil {
			byName[known.name] = append(byName[known.name], r)
		}
	}
	for name, several := range byName {
		if len(several) > 1 {
			p.violations = append(p.violations, fmt.Errorf("at %s pod %s runs more than once: %v", clock(at), name, several))
		}
	}
}

// Violations are those of See and Together so far.
func (p *Pods) Violations() []error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.violations)
}

// Attempt is a connection that a client on a host made, and the UID of the pod that answered.
type Attempt struct {
	Host, UID string
	Begun     time.Time
}

// Outage is when a host had a fault, or was not alive to the control plane because of one.
type Outage struct {
	Host     string
	From, To time.Time
}

// grace is how long the control plane may take to count a host as alive or not: the drain waits for those that it counts as alive.
const grace = 10 * time.Second

// Drained says which connections reached a pod although they were begun after the API had said that every live node has it out of its
// maps. It counts none of hosts that were not alive when it said so.
func (p *Pods) Drained(attempts []Attempt, outages []Outage) (violations []error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range attempts {
		known := p.pods[a.UID]
		if known == nil || known.drained.IsZero() || !a.Begun.After(known.drained) {
			continue
		}
		if slices.ContainsFunc(outages, func(o Outage) bool {
			return o.Host == a.Host && o.From.Before(known.drained) && o.To.Add(grace).After(known.drained)
		}) {
			continue
		}
		violations = append(violations, fmt.Errorf("a connection from %s reached pod %s %s after the API had said, at %s, that no node has it in its maps",
			a.Host, known.name, a.Begun.Sub(known.drained), clock(known.drained)))
	}
	return violations
}

func clock(t time.Time) string { return t.Format("15:04:05.000") }
