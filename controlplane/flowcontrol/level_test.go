package flowcontrol

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

func now(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// enter takes a seat that must be free.
func enter(t *testing.T, l *Level, user string, width int) func() {
	t.Helper()
	leave, err := l.Enter(now(t), user, width)
	if err != nil {
		t.Fatalf("no place for %s: %v", user, err)
	}
	return leave
}

func TestOneUserHasHalf(t *testing.T) {
	l := NewLevel(Config{Seats: 4, Queue: 4})
	leave := enter(t, l, "a", 1)
	enter(t, l, "a", 1)
	if _, err := l.Enter(now(t), "a", 1); !errors.Is(err, ErrCancelled) {
		t.Errorf("a third place of four: %v", err)
	}
	enter(t, l, "b", 5) // as wide as a share
	if _, err := l.Enter(now(t), "c", 1); !errors.Is(err, ErrCancelled) {
		t.Errorf("a fifth place of four: %v", err)
	}
	leave()
	enter(t, l, "c", 1)
	if s := l.Stats(); s.Used != 4 || s.Waiting != 0 || s.Served != 4 || s.Rejected["cancelled"] != 2 {
		t.Errorf("%+v", s)
	}
}

// queue has a request of user wait, and returns a channel with its result.
func queue(t *testing.T, l *Level, user string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	before := l.Stats()
	go func() {
		leave, err := l.Enter(t.Context(), user, 1)
		if err == nil {
			leave()
		}
		done <- err
	}()
	for {
		s := l.Stats()
		if s.Waiting != before.Waiting || s.Served != before.Served || len(s.Rejected) > 0 {
			return done
		}
		time.Sleep(time.Millisecond)
	}
}

func TestUsersTakeTurns(t *testing.T) {
	l := NewLevel(Config{Seats: 2, Queue: 3})
	a, b := enter(t, l, "a", 1), enter(t, l, "b", 1)
	flood := []<-chan error{queue(t, l, "a"), queue(t, l, "a"), queue(t, l, "a")}
	// The queue is full of a's requests: its last one makes room for another user's, and one more of its own finds none.
	c := queue(t, l, "c")
	if err := <-flood[2]; !errors.Is(err, ErrQueueFull) {
		t.Errorf("the flood's last request: %v", err)
	}
	if _, err := l.Enter(t.Context(), "a", 1); !errors.Is(err, ErrQueueFull) {
		t.Errorf("one more of the flood: %v", err)
	}
	b() // c is before a, who has a place
	if err := <-c; err != nil {
		t.Errorf("the other user: %v", err)
	}
	a()
	for _, f := range flood[:2] {
		if err := <-f; err != nil {
			t.Errorf("what waited of the flood: %v", err)
		}
	}
	if used := l.Stats().Used; used != 0 {
		t.Errorf("%d seats are taken by nobody", used)
	}
	if len(l.flows) != 0 || len(l.queued) != 0 {
		t.Errorf("%d flows are remembered of nobody", len(l.flows))
	}
}

func TestWaitingEnds(t *testing.T) {
	l := NewLevel(Config{Seats: 1, Queue: 1})
	leave := enter(t, l, "a", 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := l.Enter(ctx, "b", 1); !errors.Is(err, ErrTimeout) {
		t.Errorf("waited too long: %v", err)
	}
	leave()
	enter(t, l, "b", 1)
}

func TestBytes(t *testing.T) {
	l := NewLevel(Config{Seats: 1, Bytes: 100})
	if !l.Hold("a", 50) || l.Hold("a", 1) || !l.Hold("b", 50) || l.Hold("c", 1) {
		t.Errorf("a user has other than half: %+v", l.Stats())
	}
	l.Release("a", 50)
	if !l.Hold("c", 1) {
		t.Error("what was released is not free")
	}
}

// With requests of random widths that come, wait and leave, the bounds hold, and nothing remains at the end.
func TestBoundsHold(t *testing.T) {
	l := NewLevel(Config{Seats: 8, Queue: 10, Bytes: 100})
	var group sync.WaitGroup
	for i := range 40 {
		r := rand.New(rand.NewPCG(1, uint64(i)))
		group.Go(func() {
			user := string(rune('a' + i%5))
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(2000))*time.Microsecond)
				leave, err := l.Enter(ctx, user, 1+r.IntN(5))
				if s := l.Stats(); s.Used > 8 || s.Waiting > 10 {
					t.Errorf("over the bounds: %+v", s)
				}
				if err == nil {
					time.Sleep(time.Duration(r.IntN(100)) * time.Microsecond)
					leave()
				}
				cancel()
			}
		})
	}
	group.Wait()
	if s := l.Stats(); s.Used != 0 || s.Waiting != 0 || len(l.flows) != 0 || len(l.queued) != 0 {
		t.Errorf("left behind: %+v, %d flows", s, len(l.flows))
	}
}

func BenchmarkEnter(b *testing.B) {
	l := NewLevel(Config{Seats: 100, Queue: 100})
	for b.Loop() {
		leave, err := l.Enter(b.Context(), "a", 1)
		if err != nil {
			b.Fatal(err)
		}
		leave()
	}
}
