package life

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// options are lines that fit the moment, likely ones more than once.
func (w *world) options() []string {
	list := []string{"wait 1s", "wait 5s", "wait 11s", "wait 40s", "wait 6m", "wait 11m", "overwritten"}
	add := func(times int, lines ...string) {
		for range times {
			list = append(list, lines...)
		}
	}
	for what := range w.pending {
		add(6, what+" ok")
		add(1, what+" fails")
	}
	for _, b := range w.containers {
		if b.pending != "" {
			add(8, b.pending+" "+b.name+" ok")
			add(2, b.pending+" "+b.name+" fails")
			add(1, b.pending+" "+b.name+" abandoned")
			if b.pending == "start" {
				add(1, "start "+b.name+" ok exited")
			}
			add(1, "objects")
		}
		if b.alive() {
			add(1, "exit "+b.name+" 0", "exit "+b.name+" 1")
			if b.role == Init {
				add(6, "exit "+b.name+" 0")
			}
		}
		if b.stopping != "" {
			add(4, b.stopping+" "+b.name+" ok")
			add(2, b.stopping+" "+b.name+" fails", "wait 2s")
		}
		if b.hook {
			add(2, "hook "+b.name+" ok", "hook "+b.name+" fails")
		}
		for _, kind := range []ProbeKind{Startup, Liveness, Readiness} {
			if b.probes[kind] {
				add(1, string(kind)+" "+b.name+" fails")
				if kind != Liveness {
					add(3, string(kind)+" "+b.name+" ok")
				}
			}
		}
	}
	if len(list) > 12 { // something goes on
		add(1, "agent", "objects")
		b := w.containers[len(w.containers)-1]
		add(1, "late "+b.name+" now Liveness", "late "+b.name+" before Liveness", "late "+b.name+" now Readiness")
	}
	return list
}

// rare are lines of which a life has few.
var rare = []string{"delete 30", "delete 3", "delete 1", "gone", "evict"}

func randomPod(r *rand.Rand) *corev1.Pod {
	var words []string
	for i := range r.IntN(3) {
		words = append(words, fmt.Sprintf("init%d=init", i))
	}
	if r.IntN(3) == 0 {
		words = append(words, "side=sidecar"+randomParts(r))
	}
	for i := range 1 + r.IntN(2) {
		words = append(words, fmt.Sprintf("app%d=main", i)+randomParts(r))
	}
	words = append(words, []string{"Always", "OnFailure", "Never"}[r.IntN(3)])
	if r.IntN(5) == 0 {
		words = append(words, "deadline=90")
	}
	return madePod(strings.Join(words, " "))
}

func randomParts(r *rand.Rand) (parts string) {
	for _, part := range []string{",startup", ",liveness", ",readiness", ",poststart", ",prestop"} {
		if r.IntN(3) == 0 {
			parts += part
		}
	}
	return parts
}

// live runs a script to the end of the pod.
func live(shape *corev1.Pod, script []string) *world {
	w := newWorld(shape)
	for _, line := range script {
		if len(w.faults) > 0 || w.removed {
			return w
		}
		w.line(line)
	}
	w.finish()
	return w
}

// finish has the pod end: deleted if it was not, with everything done that it
// still asks for.
func (w *world) finish() {
	w.line("delete 1")
	for range 200 {
		if len(w.faults) > 0 || w.removed {
			return
		}
		for _, line := range w.options() {
			if strings.HasSuffix(line, " ok") {
				w.line(line)
			}
		}
		w.line("wait 31s")
	}
	w.fault("the pod does not end: %s", w.p.state)
}

// randomLife is what might happen to a pod, from its begin to its end.
func randomLife(r *rand.Rand, shape *corev1.Pod) (w *world, script []string) {
	w = newWorld(shape)
	bad := []string{"", "", "", "pull ", "create ", "start ", "signal ", "kill ", "exit "}[r.IntN(9)] // what goes wrong in it, mostly
	for range 10 + r.IntN(40) {
		if len(w.faults) > 0 || w.removed {
			return w, script
		}
		options := w.options()
		line := options[r.IntN(len(options))]
		if bad != "" && strings.HasPrefix(line, bad) && r.IntN(2) == 0 {
			line = strings.Replace(strings.Replace(line, " ok", " fails", 1), " 0", " 1", 1)
		}
		if r.IntN(25) == 0 {
			line = rare[r.IntN(len(rare))]
		}
		script = append(script, line)
		w.line(line)
	}
	w.finish()
	return w, script
}

// shrink drops lines as long as the script still fails.
func shrink(shape *corev1.Pod, script []string) []string {
	for size := len(script); size > 0; size /= 2 {
		for i := 0; i+size <= len(script); {
			shorter := slices.Concat(script[:i], script[i+size:])
			if w := live(shape, shorter); len(w.faults) > 0 {
				script = shorter
			} else {
				i++
			}
		}
	}
	return script
}

var seed = flag.Uint64("seed", 1, "of the random lives; 0 for others each time")

// A thousand random scripts, each compared with the twin after each line. One that fails is
// shortened until it can be read.
func TestRandomLives(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // what is measured is the machine
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	began := processorTime(t)
	for i := range uint64(1000) {
		r := rand.New(rand.NewPCG(*seed, i))
		shape := randomPod(r)
		if w, script := randomLife(r, shape); len(w.faults) > 0 {
			script = shrink(shape, script)
			w = live(shape, script)
			t.Fatalf("seed %d, life %d\npod: %s\nscript:\n\t%s\nwrong: %s\nlast actions: %s", *seed, i,
				describe(shape), strings.Join(script, "\n\t"), strings.Join(w.faults, "; "), strings.Join(w.actions, "; "))
		}
	}
	t.Logf("a thousand lives in %s of processor time", (processorTime(t) - began).Round(time.Millisecond))
}

func processorTime(t *testing.T) time.Duration {
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
