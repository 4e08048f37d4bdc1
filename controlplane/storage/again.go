package storage

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const (
	// attempts is how often a request is made whose answer was lost with a leader of etcd. The next leader is there by then.
	attempts   = 4
	againAfter = 20 * time.Millisecond
)

// leaderLost says that a request was not answered because etcd's leader was lost or has changed. What it would have written may have been written.
func leaderLost(err error) bool {
	return errors.Is(err, rpctypes.ErrLeaderChanged) || errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail) || errors.Is(err, rpctypes.ErrNotLeader)
}

// again makes a request once more while its answers are lost with leaders. The request must be one that may be carried out twice.
func again(ctx context.Context, request func() error) error {
	for attempt := 1; ; attempt++ {
		err := request()
		if !leaderLost(err) || attempt == attempts {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(againAfter):
		}
	}
}

// onceOnly says whether a transaction can take effect once at most, however often it arrives and however late: it writes a key that must have
// a certain revision, which no key has ever again. That a key must not exist does not do: it may be deleted in between.
func onceOnly(guards []Guard, ops []Op) bool {
	return slices.ContainsFunc(guards, func(g Guard) bool {
		return !g.Below && g.ModRevision > 0 && slices.ContainsFunc(ops, func(op Op) bool { return op.Key == g.Key })
	})
}
