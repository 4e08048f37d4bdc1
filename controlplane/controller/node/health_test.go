package node

import (
	"slices"
	"testing"
	"time"
)

// beat is one second of a test: which nodes give a sign of life, and which are overdue after it.
func TestHealth(t *testing.T) {
	const grace = 5 * time.Second
	base := time.Unix(1000, 0)
	at := func(s float64) time.Time { return base.Add(time.Duration(s * float64(time.Second))) }
	newOne := func(names ...string) *health {
		h := newHealth(grace)
		for _, n := range names {
			h.watchNode(n, "", base)
		}
		h.start(base)
		return h
	}
	// run checks every half second up to end; the nodes in alive renew every second.
	run := func(h *health, from, end float64, alive ...string) (overdue []string) {
		for s := from; s <= end; s += 0.5 {
			for _, n := range alive {
				h.observe(n, fromLease, at(s).String(), at(s))
			}
			names, _ := h.overdue(at(s))
			for _, n := range names {
				h.declare(n)
				overdue = append(overdue, n)
			}
		}
		slices.Sort(overdue)
		return overdue
	}
	t.Run("one of three", func(t *testing.T) {
		h := newOne("a", "b", "c")
		if got := run(h, 0.5, 10, "a", "b"); len(got) != 0 {
			t.Errorf("%v are overdue within twice the grace after the start", got)
		}
		if got := run(h, 10.5, 11, "a", "b"); !slices.Equal(got, []string{"c"}) {
			t.Errorf("overdue are %v, want c", got)
		}
		if d := h.disrupted(at(11)); d != noDisruption {
			t.Errorf("disruption %v, want none", d)
		}
		if !h.observe("c", fromLease, "new", at(12)) || h.isSilent("c") {
			t.Error("a sign of life does not end the silence")
		}
	})
	t.Run("the same sign again is none", func(t *testing.T) {
		h := newOne("a", "b")
		h.observe("a", fromLease, "x", at(1))
		h.observe("a", fromStatus, "y", at(1))
		run(h, 1, 8, "b")
		h.observe("a", fromStatus, "y", at(8))
		h.observe("a", fromLease, "x", at(8))
		if got := run(h, 8.5, 11, "b"); !slices.Equal(got, []string{"a"}) {
			t.Errorf("overdue are %v, want a", got)
		}
	})
	t.Run("this process was stopped", func(t *testing.T) {
		h := newOne("a", "b", "c")
		run(h, 0.5, 20, "a", "b", "c")
		if got, _ := h.overdue(at(60)); len(got) != 0 {
			t.Errorf("%v are overdue though nobody looked for 40 s", got)
		}
		if got := run(h, 60.5, 64.5); len(got) != 0 {
			t.Errorf("%v are overdue less than the grace after that", got)
		}
		if got := run(h, 65, 66); len(got) != 3 {
			t.Errorf("overdue are %v, want all", got)
		}
	})
	t.Run("disruption", func(t *testing.T) {
		names := []string{"a", "b", "c", "d", "e"}
		for _, tt := range []struct {
			nodes, alive int
			want         disruption
		}{{1, 1, noDisruption}, {1, 0, fullDisruption}, {2, 1, noDisruption}, {3, 1, noDisruption}, {3, 0, fullDisruption}, {5, 3, noDisruption}, {5, 2, partialDisruption}, {5, 0, fullDisruption}} {
			h := newOne(names[:tt.nodes]...)
			run(h, 0.5, 12, names[:tt.alive]...)
			if got := h.disrupted(at(12)); got != tt.want {
				t.Errorf("%d of %d alive: disruption %v, want %v", tt.alive, tt.nodes, got, tt.want)
			}
		}
	})
	t.Run("lost together, noticed one after the other", func(t *testing.T) {
		h := newOne("a", "b", "c")
		run(h, 0.5, 19, "a", "b", "c")
		run(h, 19.5, 20, "b")
		run(h, 20.5, 21, "c")
		overdue := run(h, 21.5, 24.5)
		if !slices.Equal(overdue, []string{"a"}) || h.disrupted(at(24.5)) != fullDisruption {
			t.Errorf("overdue are %v and disruption %v, want a and fullDisruption", overdue, h.disrupted(at(24.5)))
		}
	})
}
