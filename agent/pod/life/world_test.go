package life

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// world is a node that carries out the actions of a pod's state machine when a script says so. A
// line of a script is an operation's end ("pull app ok"), an event ("exit app 1", "delete 5") or
// passing time ("wait 10s"). A line that does not apply at its time changes nothing, so any part of
// a script is a script.
type world struct {
	pod *corev1.Pod // as the API has it
	p   *Pod
	now time.Time

	containers []*box
	pending    map[string]bool // setup, drain, refresh, release, remove
	address    string          // in, out; "" before anything was asked

	// What happened to the pod, for the twin.
	setUp, setupFailing        bool
	deleted, gone, evicted     bool
	finished                   bool // nothing runs again
	overdue                    bool // its deadline passed before
	drained, released, removed bool
	statuses                   []*corev1.PodStatus
	actions                    []string // of the last line
	faults                     []string
	text                       string // the last line
}

// box is a container of the world.
type box struct {
	name    string
	role    Role
	spec    *corev1.Container
	pending string // pull, create, start
	created string // ID of what is created and was not started yet
	givenUp bool   // what is pending, if a pull
	runs    []*run
	begins  []begin // since the agent started

	stopping    string      // what of the newest run's stop is under way: prestop, signal, kill
	graceEnd    time.Time   // the earliest end of the grace periods asked for; zero until its stop begins
	signalledAt time.Time   // zero before
	unstopped   []time.Time // its signals and kills that failed
	hook        bool
	probes      map[ProbeKind]bool
	results     map[ProbeKind]bool // the last of the newest run, as far as there is one
	stopped     bool               // or being so, for another reason than the pod's deletion
}

type run struct {
	Attempt
	ended time.Time // zero while it runs
}

// begin is an attempt that was begun and what became of it.
type begin struct {
	at, failedAt time.Time // failedAt is zero if it did not fail
	after        *run      // that had exited; nil if none had
	failure      Failure
	started      bool
	lifted       bool // no attempt, but the end of the wait for a configuration
}

// newest is nil before the first.
func (b *box) newest() *run {
	if len(b.runs) == 0 {
		return nil
	}
	return b.runs[len(b.runs)-1]
}

func (b *box) alive() bool { return b.newest() != nil && b.newest().ended.IsZero() }
func (b *box) ended() bool { return b.newest() != nil && !b.newest().ended.IsZero() }
func (b *box) succeeded() bool {
	return b.ended() && b.newest().Exit.Code == 0
}

func (b *box) preStops() bool { return b.spec.Lifecycle != nil && b.spec.Lifecycle.PreStop != nil }

// noStop forgets the stop of an attempt that is over, or that an agent before began.
func (b *box) noStop() {
	b.stopping, b.graceEnd, b.signalledAt, b.unstopped = "", time.Time{}, time.Time{}, nil
}

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newWorld(pod *corev1.Pod) *world {
	w := &world{pod: pod, now: start, pending: map[string]bool{}}
	for i := range pod.Spec.InitContainers {
		role := Init
		if pod.Spec.InitContainers[i].RestartPolicy != nil {
			role = Sidecar
		}
		w.containers = append(w.containers, &box{name: pod.Spec.InitContainers[i].Name, role: role, spec: &pod.Spec.InitContainers[i]})
	}
	for i := range pod.Spec.Containers {
		w.containers = append(w.containers, &box{name: pod.Spec.Containers[i].Name, role: Main, spec: &pod.Spec.Containers[i]})
	}
	w.startAgent()
	return w
}

func (w *world) box(name string) *box {
	for _, b := range w.containers {
		if b.name == name {
			return b
		}
	}
	return nil
}

// startAgent begins with what is on the node.
func (w *world) startAgent() {
	w.pending, w.setUp, w.setupFailing, w.drained, w.released = map[string]bool{}, false, false, false, false
	adopted := Adopted{Attempts: map[string][]Attempt{}}
	for _, b := range w.containers {
		b.pending, b.created, b.hook, b.stopped = "", "", false, false
		b.probes, b.begins = map[ProbeKind]bool{}, nil
		b.noStop()
		delete(b.results, Liveness)
		for _, r := range b.runs[max(0, len(b.runs)-2):] {
			adopted.Attempts[b.name] = append(adopted.Attempts[b.name], r.Attempt)
		}
	}
	w.p = New(Config{MaxBackOff: 5 * time.Minute}, w.pod, w.now)
	events := []Event{adopted}
	if w.evicted {
		events = append(events, Evicted{Message: "short of memory", Grace: time.Second})
	}
	w.step(events...)
}

// step passes events to the machine, and begins its actions.
func (w *world) step(events ...Event) {
	for _, a := range w.p.Step(w.now, events...) {
		w.begin(a)
	}
}

// goOnStopping begins a step of a container's stop.
func (w *world) goOnStopping(b *box, id, step string) {
	switch {
	case !b.alive() || b.newest().ID != id:
		w.fault("%s for %s, which does not run", step, b.name)
	case b.graceEnd.IsZero():
		asked := strings.HasPrefix(w.text, "hook") || strings.HasPrefix(w.text, "Startup") || strings.HasPrefix(w.text, "Liveness")
		if b.role == Sidecar && w.leaving() && w.mainsBusy() && !asked {
			w.fault("sidecar %s is stopped before the main containers have ended", b.name)
		}
		if first := "signal"; step != first && (step != "prestop" || !b.preStops()) || step == first && b.preStops() {
			w.fault("%s: the stop begins with %s", b.name, step)
		}
		b.graceEnd = w.now.Add(w.twinGrace())
		if !w.leaving() {
			b.stopped, b.results[Readiness] = true, false
		}
	case b.stopping != "" && !(b.stopping == "signal" && step == "kill"):
		w.fault("%s: %s while %s is under way", b.name, step, b.stopping)
	case step == "kill" != !w.now.Before(b.twinKillDue()):
		w.fault("%s: %s, and a kill is due %s", b.name, step, b.twinKillDue().Sub(w.now))
	}
	if w.now.Before(b.twinStopDue()) {
		w.fault("%s is stopped again too early", b.name)
	}
	if b.stopping = step; step == "signal" {
		b.signalledAt = w.now
	}
}

func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// once begins what must not be under way already.
func (w *world) once(what string) {
	if w.pending[what] {
		w.fault("%s is asked for while it is under way", what)
	}
	w.pending[what] = true
}

func (w *world) begin(action Action) {
	text := strings.TrimPrefix(fmt.Sprintf("%T", action), "life.")
	named := func(name string, more ...any) *box {
		text += " " + strings.TrimSpace(fmt.Sprintln(append([]any{name}, more...)...))
		return w.box(name)
	}
	switch a := action.(type) {
	case SetUp:
		w.once("setup")
	case AbandonSetup:
	case PullImage:
		b := named(a.Container)
		if b.pending != "" || b.alive() {
			w.fault("%s is begun twice", b.name)
		}
		w.twinMayBegin(b)
		b.pending, b.givenUp = "pull", false
		b.begins = append(b.begins, begin{at: w.now, after: b.newest()})
	case AbandonPull:
		named(a.Container).givenUp = true
	case CreateContainer:
		if b := named(a.Container, a.Number); a.Number != len(b.runs) {
			w.fault("%s: attempt %d after %d runs", b.name, a.Number, len(b.runs))
		} else {
			b.pending = "create"
		}
	case StartContainer:
		b := named(a.Container)
		if b.created != a.ID || w.deleted || w.gone {
			w.fault("%s is started: created %q, asked for %q", b.name, b.created, a.ID)
		}
		b.pending = "start"
	case DiscardContainer:
		named(a.Container).created = ""
	case ForgetContainer:
	case RunPreStop:
		w.goOnStopping(named(a.Container), a.ID, "prestop")
	case EndPreStop:
		b := named(a.Container)
		if b.stopping != "prestop" || w.now.Before(b.graceEnd) {
			w.fault("%s: the preStop hook is ended too early, or does not run", b.name)
		}
		b.stopping = ""
	case SignalContainer:
		w.goOnStopping(named(a.Container), a.ID, "signal")
	case KillContainer:
		w.goOnStopping(named(a.Container), a.ID, "kill")
	case RunPostStart:
		named(a.Container).hook = true
	case EndPostStart:
		named(a.Container).hook = false
	case WatchProbe:
		b := named(a.Container, a.Kind)
		if b.probes[a.Kind] || !b.alive() || b.newest().ID != a.Attempt.ID {
			w.fault("%s: %s is probed twice, or of what does not run", b.name, a.Kind)
		}
		b.probes[a.Kind] = true
	case EndProbe:
		b := named(a.Container, a.Kind)
		if !b.probes[a.Kind] {
			w.fault("%s: %s ends and is not probed", b.name, a.Kind)
		}
		delete(b.probes, a.Kind)
	case WithdrawAddress:
		w.address = "out"
	case RestoreAddress:
		w.address = "in"
	case Drain:
		w.once("drain")
	case RefreshVolumes:
		w.once("refresh")
	case Release:
		w.once("release")
		for _, b := range w.containers {
			if b.alive() || b.pending != "" {
				w.fault("released while %s runs or begins", b.name)
			}
		}
	case Remove:
		if w.once("remove"); !w.released {
			w.fault("removed before it is released")
		}
	case WriteStatus:
		text += " " + shown(a.Status)
		w.statuses = append(w.statuses, a.Status)
	case Report:
		text = strings.TrimSpace(fmt.Sprintf("Report %s %s", a.Reason, a.Container))
	case LogError:
		text += ": " + a.Message
	default:
		w.fault("unknown action %T", action)
	}
	w.actions = append(w.actions, text)
}
