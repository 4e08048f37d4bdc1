package pod

import (
	"context"
	"time"

	"github.com/skep-io/skep/dataplane/sockets"
)

// clientInterval is how often the connections to an ending pod are counted.
const clientInterval = 20 * time.Millisecond

// awaitClients waits until no TCP connection to a program of the pod is open, or ctx ends. It returns how many are then. On the
// node's network, where they cannot be distinguished from those of others, or if the kernel does not say, it waits for none.
func (w *worker) awaitClients(ctx context.Context, netns string) (open int) {
	if netns == "" {
		return 0
	}
	for {
		open, err := sockets.Accepted(netns)
		if err != nil {
			w.log().Warn("connections to an ending pod not counted", "err", err)
			return 0
		}
		if open == 0 {
			return 0
		}
		select {
		case <-ctx.Done():
			return open
		case <-time.After(clientInterval):
		}
	}
}
