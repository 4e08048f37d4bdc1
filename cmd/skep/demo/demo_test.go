package demo

import (
	"slices"
	"testing"
	"time"
)

func TestSplitAnswers(t *testing.T) {
	pods, others := splitAnswers("echo is 10.96.7.7 (looked up in 1.0 ms)\n  1  echo-a node1 10.244.1.2\n  2  echo-b node2 10.244.2.2\n    2  echo-a node1 10.244.1.2\ntally 1/1, 0 failed\n")
	if want := []string{"echo-a", "echo-b"}; !slices.Equal(pods, want) {
		t.Errorf("pods %v, want %v", pods, want)
	}
	if len(others) != 3 || others[2] != "tally 1/1, 0 failed" {
		t.Errorf("others %q", others)
	}
}

func TestTrafficSortsFailuresByTime(t *testing.T) {
	now := time.Now().UTC()
	stamp := func(at time.Time) string { return at.Format("15:04:05.000000") }
	w := &traffic{ended: make(chan error, 1), answered: make(chan struct{})}
	early, late := now.Add(-time.Second), now.Add(time.Second)
	text := stamp(early) + " answer: echo-a node1 10.244.1.2\n" +
		stamp(early) + " failed: connection 2, begun " + stamp(early) + ": connection refused\n" +
		stamp(late) + " failed: connection 3, begun " + stamp(late) + ": 10.96.1.1:7000 accepted, but no answer: EOF\n" +
		stamp(late) + " done: 3 connections, 2 failed\n"
	// The stream may split lines anywhere.
	for i := range text {
		if _, err := w.Write([]byte{text[i]}); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-w.answered:
	default:
		t.Error("the first answer was not noticed")
	}
	if len(w.failures) != 2 || !w.failures[0].Before(now) || !w.failures[1].After(now) {
		t.Errorf("failures %v around %v", w.failures, now)
	}
	if w.last != "3 connections, 2 failed" {
		t.Errorf("total %q", w.last)
	}
}

func TestTimeOfDayNearMidnight(t *testing.T) {
	clock, _ := time.Parse("15:04:05.000000", "23:59:59.500000")
	now := time.Date(2026, 3, 2, 0, 0, 1, 0, time.UTC)
	if got, want := onDayOf(clock, now), time.Date(2026, 3, 1, 23, 59, 59, 500_000_000, time.UTC); !got.Equal(want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
