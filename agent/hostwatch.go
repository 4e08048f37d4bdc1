package agent

import (
	"context"
	"log/slog"
	"time"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/dataplane/podnet"
)

// hostSettle is how long changes are gathered before look is called.
const hostSettle = 10 * time.Millisecond

// followHost calls look whenever this host's addresses or uplinks may have changed, until ctx ends. If look fails, it is called
// again a second later.
func followHost(ctx context.Context, changes *podnet.HostChanges, look func(podnet.HostChange) error) {
	var asked kernel
	wait := backoff.New(time.Second, time.Second)
	for {
		change, err := changes.Next(ctx, hostSettle)
		if err != nil {
			return
		}
		if !change.Addresses && !change.Uplinks {
			continue
		}
		err = asked.ask(ctx, "the kernel's answer about this host's interfaces (netlink)", kernelWithin, func() error { return look(change) })
		if err == nil {
			wait.Reset()
			continue
		}
		if !wait.Failing() && ctx.Err() == nil {
			slog.Error("this host's interfaces could not be read; trying again every second", "err", err)
		}
		changes.Again(change, wait.Next())
	}
}
