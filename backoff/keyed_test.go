package backoff

import (
	"testing"
	"time"
)

func TestEachThingHasABackoffOfItsOwn(t *testing.T) {
	k := NewKeyed[string](100*time.Millisecond, time.Second)
	for i, want := range []time.Duration{100, 200, 400, 800, 1000, 1000} {
		want *= time.Millisecond
		if got := k.Next("a"); got < want || got > want+want/5 {
			t.Errorf("wait %d is %s, want %s and up to a fifth more", i, got, want)
		}
	}
	if got := k.Next("b"); got > 120*time.Millisecond {
		t.Errorf("the first wait of another is %s", got)
	}
	if a, b, c := k.Failures("a"), k.Failures("b"), k.Failures("c"); a != 6 || b != 1 || c != 0 {
		t.Errorf("failures %d, %d, %d, want 6, 1, 0", a, b, c)
	}
	k.Reset("a")
	if got := k.Next("a"); got > 120*time.Millisecond || k.Failures("a") != 1 {
		t.Errorf("the first wait after it worked is %s, of %d failures", got, k.Failures("a"))
	}
	k.Reset("a")
	k.Reset("b")
	if len(k.failing) != 0 {
		t.Errorf("remembers %v", k.failing)
	}
}
