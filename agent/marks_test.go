package agent

import (
	"testing"
	"time"
)

// A node is down while either source says so, whatever the order in which they change their minds.
func TestTwoSourcesOfMarks(t *testing.T) {
	const api, verdict = 1, 2
	for first := range 16 { // every order of four changes, from every state
		is := map[string]bool{}
		sweeps := make(chan struct{}, 64)
		m := newMarks(nil, func() { sweeps <- struct{}{} })
		m.mark = func(node string, down bool) { is[node] = down }
		said := 0
		for step := range 64 {
			source, down := api, (first>>(step%4)+step)%3 == 0
			if (first+step*step)%2 == 0 {
				source = verdict
			}
			if source == api {
				m.SetNodeDown("n", down)
			} else {
				m.SetNodeUnreachable("n", down)
			}
			if said &^= source; down {
				said |= source
			}
			if is["n"] != (said != 0) {
				t.Fatalf("step %d: down %v, want %v", step, is["n"], said != 0)
			}
		}
	}
}

// Sockets to a node that the control plane gives up are closed at once, those to one that only cannot be reached after a moment, and not at
// all if it is back by then.
func TestSocketsOutliveAMoment(t *testing.T) {
	sweeps := make(chan struct{}, 8)
	m := newMarks(nil, func() { sweeps <- struct{}{} })
	m.mark = func(string, bool) {}
	m.SetNodeUnreachable("back", true)
	m.SetNodeUnreachable("back", false)
	begin := time.Now()
	m.SetNodeUnreachable("gone", true)
	<-sweeps
	if after := time.Since(begin); after < sweepAfter {
		t.Errorf("sockets were closed after %s", after)
	}
	if len(sweeps) > 0 {
		t.Error("the sockets to a node that was back were closed as well")
	}
	m.SetNodeDown("dead", true)
	if len(sweeps) != 1 {
		t.Errorf("%d sweeps for a node that the control plane gives up, want one at once", len(sweeps))
	}
}
