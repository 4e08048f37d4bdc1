package life

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the tables of testdata anew")

// What leads a container to each of its states, from a pod that has just been seen.
var toState = map[State]string{
	Waiting:        "setup fails; pull app abandoned",
	Exited:         "setup ok; pull app ok; create app ok; start app ok; delete 30; exit app 0",
	RestartBackOff: "setup ok; pull app ok; create app ok; start app ok; exit app 1; pull app ok; create app ok; start app ok; exit app 1",
	PullFailed:     "setup ok; pull app fails",
	PullBackOff:    "setup ok; pull app fails; wait 1s",
	StartFailed:    "setup ok; pull app ok; create app fails",
	StartBackOff:   "setup ok; pull app ok; create app ok; start app fails; wait 1s",
	Pulling:        "setup ok",
	Creating:       "setup ok; pull app ok",
	Starting:       "setup ok; pull app ok; create app ok",
	Running:        "setup ok; pull app ok; create app ok; start app ok; Startup app ok",
	PreStopping:    "setup ok; pull app ok; create app ok; start app ok; Startup app ok; Liveness app fails",
	Terminating:    "setup ok; pull app ok; create app ok; start app ok; Startup app ok; Liveness app fails; prestop app ok",
	Killing:        "setup ok; pull app ok; create app ok; start app ok; Startup app ok; Liveness app fails; prestop app ok; wait 30s",
	StopBackOff:    "setup ok; pull app ok; create app ok; start app ok; Startup app ok; Liveness app fails; prestop app ok; signal app fails",
}

// Every event of a container in every of its states: what state it is in then,
// and what is asked for.
func TestContainerTable(t *testing.T) {
	attempt := Attempt{ID: "app-0", StartedAt: start}
	events := []Event{
		ImagePresent{"app"}, AttemptFailed{"app", Failure{ImagePull, "no"}}, AttemptFailed{"app", Failure{ConfigInvalid, "no"}},
		AttemptFailed{"app", Failure{RunFailed, "no"}}, AttemptAbandoned{"app"}, ContainerCreated{"app", "app-0"},
		ContainerStarted{"app", attempt}, ContainerExited{"app", "app-0", Exit{Code: 0, FinishedAt: start}}, ContainerExited{"app", "app-0", Exit{Code: 1, FinishedAt: start}},
		ContainerExited{"app", "another", Exit{}}, PreStopEnded{"app", "app-0"},
		SignalFailed{"app", "app-0", errWorld}, KillFailed{"app", "app-0", errWorld}, PostStartEnded{"app", "app-0", false}, PostStartEnded{"app", "app-0", true},
		Probed{"app", "app-0", Startup, true}, Probed{"app", "app-0", Startup, false}, Probed{"app", "app-0", Liveness, false},
		Probed{"app", "app-0", Readiness, true}, Probed{"app", "app-0", Readiness, false}, Probed{"app", "another", Liveness, false},
		ObjectsChanged{},
	}
	var table table
	for s := State(0); s < states; s++ {
		table.state(s.String(), toState[s])
		table.row("10s pass", func() *world { return reach(t, s) }, func(w *world) { w.happen("wait 10s") }, containerState)
		table.row("deleted", func() *world { return reach(t, s) }, func(w *world) { w.happen("delete 5") }, containerState)
		table.row("evicted", func() *world { return reach(t, s) }, func(w *world) { w.happen("evict") }, containerState)
		table.row("agent restarted", func() *world { return reach(t, s) }, func(w *world) { w.happen("agent") }, containerState)
		for _, e := range events {
			table.row(word(e), func() *world { return reach(t, s) }, func(w *world) { w.step(e) }, containerState)
		}
	}
	golden(t, "container.txt", table.text())
}

func containerState(w *world) string { return w.p.Container("app").state.String() }

// reach leads the container app to a state.
func reach(t *testing.T, s State) *world {
	t.Helper()
	w := newWorld(madePod("app=main,startup,liveness,readiness,poststart,prestop Always"))
	w.script(t, toState[s])
	if c := w.p.Container("app"); c.state != s {
		t.Fatalf("%s: the script leads to %s", s, c.state)
	}
	return w
}

func (w *world) script(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "; ") {
		w.line(line)
	}
	if len(w.faults) > 0 {
		t.Fatalf("%s: %s", text, strings.Join(w.faults, "; "))
	}
}

const running = "setup ok; pull app ok; create app ok; start app ok; "

// How a container is stopped, a script line each: what it is asked for, and the state then.
func TestStopTable(t *testing.T) {
	const run = "setup ok; pull app ok; create app ok; start app ok; "
	var table strings.Builder
	for _, c := range []struct{ name, pod, script string }{
		{"no preStop hook", "app=main", "delete 5; drain ok; wait 4s; wait 1s; kill app ok"},
		{"it exits of the signal", "app=main", "delete 5; drain ok; signal app ok"},
		{"a preStop hook within the grace period", "app=main,prestop", "delete 5; drain ok; wait 2s; prestop app ok; wait 2s; wait 1s"},
		{"a preStop hook that outlasts it: 2 s more", "app=main,prestop", "delete 5; drain ok; wait 4s; wait 1s; wait 1s; wait 1s"},
		{"a shorter grace period than 2 s", "app=main", "delete 1; drain ok; wait 1s; wait 1s"},
		{"a shorter deletion while the hook runs", "app=main,prestop", "delete 30; drain ok; wait 1s; delete 3; wait 2s; wait 1s; wait 2s"},
		{"a shorter deletion in the grace period", "app=main", "delete 30; drain ok; wait 10s; delete 3; wait 2s; wait 1s"},
		{"a later deletion that is not shorter", "app=main", "delete 5; drain ok; wait 3s; delete 4; wait 1s; wait 1s"},
		{"the process exits while the hook runs", "app=main,prestop", "delete 5; drain ok; exit app 0; prestop app ok"},
		{"and is restarted after the hook", "app=main,prestop,liveness", "Liveness app fails; exit app 1; wait 1s; prestop app ok"},
		{"the signal fails", "app=main", "delete 30; drain ok; signal app fails; wait 1s; signal app fails; wait 1s; wait 1s; signal app ok"},
		{"the signal fails, and the grace period is over", "app=main", "delete 2; drain ok; signal app fails; wait 1s; signal app fails; wait 2s; kill app ok"},
		{"the kill fails", "app=main", "delete 2; drain ok; wait 2s; kill app fails; wait 1s; kill app fails; wait 1s; wait 1s; kill app ok"},
		{"another agent while the hook runs", "app=main,prestop", "delete 5; drain ok; wait 2s; agent; drain ok; wait 5s; wait 2s"},
		{"another agent in the grace period", "app=main", "delete 5; drain ok; wait 3s; agent; drain ok; wait 5s"},
		{"another agent while it is killed", "app=main", "delete 5; drain ok; wait 5s; agent; drain ok; wait 5s; kill app ok"},
	} {
		w := newWorld(madePod(c.pod + " Always"))
		w.script(t, run+"wait 1s")
		fmt.Fprintf(&table, "%s (%s)\n", c.name, c.pod)
		for _, line := range strings.Split(c.script, "; ") {
			w.line(line)
			fmt.Fprintf(&table, "\t%s -> %s: %s\n", line, containerState(w), strings.Join(w.actions, ", "))
		}
		if len(w.faults) > 0 {
			t.Errorf("%s: %s", c.name, strings.Join(w.faults, "; "))
		}
	}
	golden(t, "stop.txt", table.String())
}

// What leads a pod to each of its states.
var toPodState = map[PodState]string{
	Active:         "setup ok",
	Draining:       running + "delete 30",
	Ending:         running + "delete 30; drain ok",
	Releasing:      running + "exit app 0",
	ReleaseBackOff: running + "exit app 0; release fails",
	Ended:          running + "exit app 0; release ok",
	Removing:       running + "exit app 0; release ok; delete 30",
	RemoveBackOff:  running + "exit app 0; release ok; delete 30; remove fails",
	Removed:        running + "exit app 0; release ok; delete 30; remove ok",
}

// Every event of a pod in every of its states.
func TestPodTable(t *testing.T) {
	reachPod := func(s PodState) func() *world {
		return func() *world {
			w := newWorld(madePod("app=main OnFailure deadline=90"))
			w.script(t, toPodState[s])
			if w.p.state != s {
				t.Fatalf("%s: the script leads to %s", s, w.p.state)
			}
			return w
		}
	}
	events := []Event{
		PodGone{}, ObjectsChanged{}, Evicted{Message: "short of memory", Grace: time.Second}, Rejected{"NodeAffinity", "no"},
		SetupReady{}, SetupFailed{}, Drained{}, VolumesRefreshed{}, Released{}, Released{errWorld}, ObjectRemoved{}, ObjectRemoved{errWorld},
		ContainerExited{"app", "app-0", Exit{Code: 0, FinishedAt: start}}, ContainerExited{"app", "app-0", Exit{Code: 1, FinishedAt: start}},
		SignalFailed{"app", "app-0", errWorld},
	}
	state := func(w *world) string { return w.p.state.String() }
	var table table
	for s := PodState(0); s < podStates; s++ {
		table.state(s.String(), toPodState[s])
		table.row("2m pass", reachPod(s), func(w *world) { w.happen("wait 2m") }, state)
		table.row("deleted with 5s", reachPod(s), func(w *world) { w.happen("delete 5") }, state)
		table.row("overwritten", reachPod(s), func(w *world) { w.happen("overwritten") }, state)
		for _, e := range events {
			table.row(word(e), reachPod(s), func(w *world) { w.step(e) }, state)
		}
	}
	golden(t, "pod.txt", table.text())
}

// table is text: states, and under each what events do in it.
type table struct {
	strings.Builder
	nothing []string // events that change nothing in the state
}

func (t *table) state(name, script string) {
	t.text()
	fmt.Fprintf(t, "%s (%s)\n", name, script)
}

func (t *table) text() string {
	if len(t.nothing) > 0 {
		fmt.Fprintf(t, "\tno change: %s\n", strings.Join(t.nothing, ", "))
	}
	t.nothing = nil
	return t.String()
}

// row writes what an event does, if anything.
func (t *table) row(event string, reach func() *world, happen func(*world), state func(*world) string) {
	w := reach()
	before := state(w)
	w.actions = nil
	happen(w)
	after := state(w)
	if after == before && len(w.actions) == 0 {
		t.nothing = append(t.nothing, event)
		return
	}
	fmt.Fprintf(t, "\t%s -> %s: %s\n", event, after, strings.Join(w.actions, ", "))
}

// word is an event in short.
func word(e Event) string {
	text := strings.TrimPrefix(fmt.Sprintf("%T", e), "life.")
	switch e := e.(type) {
	case AttemptFailed:
		return text + " " + e.Failure.Kind.Reason()
	case ContainerExited:
		return fmt.Sprintf("%s %s %d", text, e.ID, e.Exit.Code)
	case PostStartEnded:
		return fmt.Sprintf("%s failed=%t", text, e.Failed)
	case Probed:
		return fmt.Sprintf("%s %s %s %t", text, e.ID, e.Kind, e.OK)
	case Released:
		return fmt.Sprintf("%s failed=%t", text, e.Err != nil)
	case ObjectRemoved:
		return fmt.Sprintf("%s failed=%t", text, e.Err != nil)
	}
	return text
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	had, has := strings.Split(string(want), "\n"), strings.Split(got, "\n")
	for i := range max(len(had), len(has)) {
		var a, b string
		if i < len(had) {
			a = had[i]
		}
		if i < len(has) {
			b = has[i]
		}
		if a != b {
			t.Errorf("%s:%d (go test -update writes it anew)\n\t- %s\n\t+ %s", path, i+1, a, b)
		}
	}
}
