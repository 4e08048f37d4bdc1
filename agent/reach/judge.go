package reach

import (
	"math"
	"time"
)

const (
	// interval is how often each watched node is probed.
	interval = 50 * time.Millisecond
	// lostRounds is how many probes in a row have to be lost on a link that loses nothing else.
	lostRounds = 5
	// mostLostRounds bounds what a link's own losses, and this node's own lateness, add to that.
	mostLostRounds = 40
	// slowWeight and fastWeight are the weight of one probe in two estimates of a link's losses, of which the greater counts: the one
	// does not forget them by chance, the other notices soon that they have begun.
	slowWeight = 1.0 / 64
	fastWeight = 1.0 / 16
	// falseAlarmLog is the logarithm of how likely a false alarm may be, by a link's own losses, at any one probe.
	falseAlarmLog = -18
	// healthRounds is how many rounds back this node's own late rounds make it slower to judge others.
	healthRounds = 100
	// mostPatience is how many rounds this node's own late rounds add at most.
	mostPatience = 10
	// returnRounds is how many probes have to be answered before a node counts as reachable again, twice as many for each time that it
	// was lost within flapMemory before, up to mostFlaps times.
	returnRounds = 5
	mostFlaps    = 7
	flapMemory   = 5 * time.Minute
	// window is how many rounds back an answer still counts.
	window = 64
)

// finding is that a watched node cannot be reached, or can again.
type finding struct {
	node      string
	reachable bool
	since     time.Time
}

// judge decides from probes and their answers which of the watched nodes this one cannot reach. It has no clock and does no I/O: all
// times are handed in, in the order Answered..., Judge, Sent..., once a round.
//
// A round in which nobody answered says more about this node than about the others, and one that was late does too: neither counts
// against anyone. So a node that is cut off itself accuses nobody.
type judge struct {
	targets map[string]*target
	round   uint64
	late    [healthRounds]bool // by round
	lates   int
	mute    int    // rounds in a row in which nobody answered
	lost    uint64 // probes whose answers have not come within the window
}

// target is what is known of one watched node.
type target struct {
	sent     [window]bool // by round: a probe left whose answer has not come
	sentAt   time.Time    // the last
	pending  bool         // the last round's probe left
	answered bool         // since the last judgement

	seen      bool // it has answered at least once: only then can it be lost
	reachable bool
	lost      int // probes in a row that count as lost
	firstLost time.Time
	back      int // while it is not reachable: answered rounds, less lost ones
	firstBack time.Time
	slow      float64 // estimates of the link's share of lost probes
	fast      float64
	flaps     int
	lastFlap  time.Time
}

func newJudge() *judge { return &judge{targets: map[string]*target{}} }

// Watch sets the watched nodes. What is known of those that stay is kept.
func (j *judge) Watch(nodes []string) {
	keep := map[string]bool{}
	for _, name := range nodes {
		keep[name] = true
		if j.targets[name] == nil {
			j.targets[name] = &target{reachable: true}
		}
	}
	for name := range j.targets {
		if !keep[name] {
			delete(j.targets, name)
		}
	}
}

// Round is the number of the round whose probes are sent next.
func (j *judge) Round() uint64 { return j.round }

// Answered records an answer to the probe of a round. It counts once, and however late it is within the window.
func (j *judge) Answered(node string, round uint64) (counts bool) {
	t := j.targets[node]
	if t == nil || round > j.round || j.round-round >= window || !t.sent[round%window] {
		return false
	}
	t.sent[round%window] = false
	t.answered = true
	return true
}

// Sent records that this round's probe to a node has left. One that could not be sent counts as neither lost nor answered.
func (j *judge) Sent(node string, now time.Time) {
	if t := j.targets[node]; t != nil {
		t.sent[j.round%window], t.pending, t.sentAt = true, true, now
	}
}

// Next ends a round: what is sent from now on belongs to the next one.
func (j *judge) Next() {
	j.round++
	for _, t := range j.targets {
		place := &t.sent[j.round%window]
		if *place {
			j.lost++
		}
		*place = false
	}
}

// Judge counts the last round's probes, after all answers that are there were recorded. late: the timer of this node, or its sending, was
// late, so that nothing that is missing can be held against others.
func (j *judge) Judge(now time.Time, late bool) (findings []finding) {
	j.note(late)
	answers, asked := 0, 0
	for _, t := range j.targets {
		if t.answered {
			answers++
		}
		if t.pending {
			asked++
		}
	}
	counts := !late && answers > 0
	switch {
	case answers > 0:
		j.mute = 0
	case asked > 0 && !late:
		j.mute++
	}
	for name, t := range j.targets {
		switch {
		case t.answered:
			t.hit(now)
		case t.pending && counts:
			t.miss()
		}
		t.pending, t.answered = false, false
		if f, changed := t.change(name, now, j.patience()); changed {
			findings = append(findings, f)
		}
	}
	return findings
}

// note counts this node's own late rounds.
func (j *judge) note(late bool) {
	place := &j.late[j.round%healthRounds]
	if *place {
		j.lates--
	}
	if *place = late; late {
		j.lates++
	}
}

func (j *judge) patience() int { return min(j.lates, mostPatience) }

// Alone says that nobody has answered for some rounds: this node is probably cut off itself.
func (j *judge) Alone() bool { return j.mute >= lostRounds }

func (t *target) hit(now time.Time) {
	if t.lost <= mostLostRounds { // more were an outage, and say nothing about the link's usual losses
		for range t.lost {
			t.slow += (1 - t.slow) * slowWeight
			t.fast += (1 - t.fast) * fastWeight
		}
	}
	t.slow -= t.slow * slowWeight
	t.fast -= t.fast * fastWeight
	t.seen, t.lost = true, 0
	if t.reachable {
		return
	}
	if t.back == 0 {
		t.firstBack = now
	}
	t.back++
}

func (t *target) miss() {
	if t.lost == 0 {
		t.firstLost = t.sentAt
	}
	t.lost++
	t.back /= 2
}

// needed is how many probes in a row have to be lost: so many that a link with these losses hardly ever loses them by chance.
func (t *target) needed(patience int) int {
	needed := lostRounds
	if loss := max(t.slow, t.fast); loss > 0 {
		needed = max(needed, int(math.Ceil(falseAlarmLog/math.Log(min(loss, 0.999)))))
	}
	return min(needed+patience, mostLostRounds)
}

func (t *target) change(name string, now time.Time, patience int) (finding, bool) {
	switch {
	case t.reachable && t.seen && t.lost >= t.needed(patience):
		if now.Sub(t.lastFlap) > flapMemory {
			t.flaps = 0
		} else {
			t.flaps = min(t.flaps+1, mostFlaps)
		}
		t.reachable, t.back, t.lastFlap = false, 0, now
		return finding{name, false, t.firstLost}, true
	case !t.reachable && t.back >= returnRounds<<t.flaps:
		t.reachable, t.lastFlap = true, now
		return finding{name, true, t.firstBack}, true
	}
	return finding{}, false
}
