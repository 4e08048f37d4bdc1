package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/skep-io/skep/agent/bounded"
)

// A kernel that gives no answer holds no loop, and is asked again by one call at a time.
func TestKernelThatDoesNotAnswer(t *testing.T) {
	var k kernel
	release, calls := make(chan struct{}), 0
	hang := func() error { calls++; <-release; return nil }
	for range 2 {
		err := k.ask(t.Context(), "this host's interfaces (netlink)", 20*time.Millisecond, hang)
		var late *bounded.TimeoutError
		if !errors.As(err, &late) || !strings.Contains(err.Error(), "timed out waiting for this host's interfaces (netlink)") {
			t.Fatalf("a call that hangs: %v", err)
		}
	}
	close(release)
	failure := errors.New("refused")
	if err := k.ask(t.Context(), "", time.Minute, func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("%v, want what the kernel said", err)
	}
	if calls != 1 {
		t.Errorf("%d calls ran beside each other", calls)
	}
}
