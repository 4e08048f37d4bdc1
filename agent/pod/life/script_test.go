package life

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shown is a status in short.
func shown(s *corev1.PodStatus) string {
	words := []string{string(s.Phase) + s.Reason}
	for _, c := range append(slices.Clone(s.InitContainerStatuses), s.ContainerStatuses...) {
		words = append(words, c.Name+"="+shownContainer(c))
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			words = append(words, "ready")
		}
	}
	return strings.Join(words, " ")
}

func shownContainer(c corev1.ContainerStatus) string {
	switch {
	case c.State.Running != nil:
		return fmt.Sprintf("running#%d", c.RestartCount)
	case c.State.Terminated != nil:
		return fmt.Sprintf("exited(%d)#%d", c.State.Terminated.ExitCode, c.RestartCount)
	}
	return c.State.Waiting.Reason
}

var errWorld = errors.New("the world says no")

// line runs one line of a script, and compares the machine with the twin.
func (w *world) line(text string) {
	w.actions, w.text = nil, text
	w.happen(text)
	w.check()
}

func (w *world) happen(text string) {
	words := append(strings.Fields(text), "", "", "", "")
	ok := words[1] == "ok" || words[2] == "ok"
	b := w.box(words[1])
	pod := *w.pod
	switch what := words[0]; what {
	case "wait":
		d, _ := time.ParseDuration(words[1])
		for end := w.now.Add(d); ; {
			wake := w.p.Wake()
			if wake.IsZero() || wake.After(end) {
				w.now = end
				break
			}
			w.now = maxTime(w.now, wake)
			w.step()
			if w.p.Wake().Equal(w.now) {
				w.fault("a step is due at once, again")
				return
			}
		}
		w.step()
	case "setup", "drain", "refresh", "release", "remove":
		if !w.pending[what] {
			return
		}
		delete(w.pending, what)
		event := map[string][2]Event{
			"setup": {SetupFailed{}, SetupReady{}}, "drain": {Drained{}, Drained{}}, "refresh": {VolumesRefreshed{}, VolumesRefreshed{}},
			"release": {Released{errWorld}, Released{}}, "remove": {ObjectRemoved{errWorld}, ObjectRemoved{}},
		}[what]
		i := 0
		if ok {
			i = 1
		}
		switch what {
		case "setup":
			w.setUp, w.setupFailing = ok, false
		case "drain":
			w.drained = true
		case "release":
			w.released = ok
		case "remove":
			w.removed = ok
		}
		w.step(event[i])
	case "pull", "create", "start":
		if b == nil || b.pending != what {
			return
		}
		b.pending = ""
		switch {
		case words[2] == "abandoned":
			b.created = ""
			w.setupFailing = w.setupFailing || what != "pull" && w.pending["setup"]
			w.step(AttemptAbandoned{b.name})
		case !ok:
			kind := map[string]FailureKind{"pull": ImagePull, "create": ConfigInvalid, "start": RunFailed}[what]
			last := &b.begins[len(b.begins)-1]
			last.failedAt, last.failure, b.created = w.now, Failure{kind, "no"}, ""
			w.step(AttemptFailed{b.name, last.failure})
		case what == "pull":
			w.step(ImagePresent{b.name})
		case what == "create":
			b.created = fmt.Sprintf("%s-%d", b.name, len(b.runs))
			w.step(ContainerCreated{b.name, b.created})
		default:
			r := &run{Attempt: Attempt{ID: b.created, Number: len(b.runs), StartedAt: w.now}}
			b.runs, b.created, b.results, b.stopped = append(b.runs, r), "", map[ProbeKind]bool{}, false
			b.noStop()
			started := r.Attempt
			b.begins[len(b.begins)-1].started = true
			if words[3] == "exited" {
				w.end(b, 1, true) // the report of the exit comes first
			}
			w.step(ContainerStarted{b.name, started})
		}
	case "exit":
		if b == nil || !b.alive() {
			return
		}
		code := 0
		fmt.Sscan(words[2], &code)
		w.end(b, code, true)
	case "prestop", "signal", "kill":
		if b == nil || b.stopping != what || what != "prestop" && b.ended() {
			return
		}
		switch id := b.newest().ID; {
		case what == "prestop":
			b.stopping = ""
			w.step(PreStopEnded{Container: b.name, ID: id})
		case ok: // it exits
			w.end(b, map[string]int{"signal": 143, "kill": 137}[what], true)
		default:
			b.stopping, b.unstopped = "", append(b.unstopped, w.now)
			failed := stopFailure{b.name, id, errWorld}
			if what == "signal" {
				w.step(SignalFailed(failed))
			} else {
				w.step(KillFailed(failed))
			}
		}
	case "hook":
		if b == nil || !b.hook {
			return
		}
		b.hook = false
		w.step(PostStartEnded{Container: b.name, ID: b.newest().ID, Failed: !ok})
	case "Startup", "Liveness", "Readiness":
		kind := ProbeKind(what)
		if b == nil || !b.probes[kind] {
			return
		}
		if b.results[kind] = ok; kind == Readiness && !ok {
			w.address = "out"
		}
		w.step(Probed{Container: b.name, ID: b.newest().ID, Kind: kind, OK: ok})
	case "late": // the result of a probe that was ended, of this run or of one before
		kind := ProbeKind(words[3])
		if b == nil || len(b.runs) == 0 {
			return
		}
		r := b.newest()
		if len(b.runs) > 1 && words[2] == "before" {
			r = b.runs[len(b.runs)-2]
		} else if b.probes[kind] {
			return
		}
		w.step(Probed{Container: b.name, ID: r.ID, Kind: kind, OK: false})
	case "delete":
		seconds := int64(0)
		fmt.Sscan(words[1], &seconds)
		if w.deleted && *w.pod.DeletionGracePeriodSeconds <= seconds {
			return
		}
		w.drained = w.drained || w.finished && !w.deleted
		w.deleted = true
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = &metav1.Time{Time: w.now}, &seconds
		w.pod = &pod
		w.step(PodChanged{Pod: w.pod})
	case "gone":
		w.gone = true
		w.step(PodGone{})
	case "evict":
		w.evicted = w.evicted || !w.finished
		w.step(Evicted{Message: "short of memory", Grace: time.Second})
	case "objects":
		lifted := map[*box]int{} // where
		for _, b := range w.containers {
			for i := len(b.begins) - 1; i >= 0; i-- { // the failure that is shown
				e := b.begins[i]
				if underWay := i == len(b.begins)-1 && b.pending != ""; underWay {
					continue
				}
				if e.failure.Kind == ConfigInvalid && b.ended() {
					return // restarts wait for the exit as well: another story
				}
				if e.failure.Kind == ConfigInvalid {
					lifted[b] = i + 1
				}
				break
			}
		}
		for b, i := range lifted {
			b.begins = slices.Insert(b.begins, i, begin{lifted: true})
		}
		w.step(ObjectsChanged{})
	case "overwritten":
		pod.Labels = map[string]string{"at": w.now.String()}
		w.pod = &pod
		w.step(PodChanged{Pod: w.pod, Overwritten: true})
	case "agent":
		if w.gone {
			return // what an agent then finds is an orphan, which has no worker
		}
		pod.Status = *w.statuses[len(w.statuses)-1]
		w.pod = &pod
		w.startAgent()
	default:
		w.fault("script: %q", text)
	}
}

func (w *world) end(b *box, code int, report bool) {
	r := b.newest()
	r.Exit = &Exit{Code: code, Reason: "Error", FinishedAt: w.now}
	if r.ended = w.now; code == 0 {
		r.Exit.Reason = "Completed"
	}
	if b.stopping != "prestop" { // the hook may run on
		b.stopping = ""
	}
	if report {
		if b.role != Init {
			w.address = "out"
		}
		w.step(ContainerExited{Container: b.name, ID: r.ID, Exit: *r.Exit})
	}
}

func minTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
