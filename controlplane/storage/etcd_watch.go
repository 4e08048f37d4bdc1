package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"github.com/skep-io/skep/backoff"
)

// How long a watch waits before it is made again after an error: at first, and at most.
const (
	watchRetry    = 200 * time.Millisecond
	watchRetryMax = 2 * time.Second
)

// Watch implements Interface.
func (e *Etcd) Watch(ctx context.Context, prefix string, after int64) <-chan WatchResponse {
	out := make(chan WatchResponse, 16)
	go func() {
		defer close(out)
		w := watch{client: e.client, prefix: prefix, revision: after, out: out}
		wait := backoff.New(watchRetry, watchRetryMax)
		broken := int64(-1) // revision at which it broke last
		for ctx.Err() == nil {
			err := w.run(ctx, wait.Reset)
			if ctx.Err() == nil && w.revision != broken && !errors.Is(err, ErrCompacted) {
				slog.Warn("Watch of etcd failed; creating it again", "prefix", prefix, "revision", w.revision, "err", err)
				broken = w.revision
			}
			if errors.Is(err, ErrCompacted) {
				w.send(ctx, WatchResponse{Revision: w.revision, Err: fmt.Errorf("watch %s in etcd after revision %d: %w", prefix, w.revision, err)})
				return
			}
			_ = wait.Wait(ctx) // the loop ends with ctx
		}
	}()
	return out
}

// watch is one Watch, which may need several etcd watches one after the other.
type watch struct {
	client *clientv3.Client
	prefix string
	// revision is up to which everything has been sent. A new etcd watch starts
	// right after it, so nothing is lost or sent twice.
	revision int64
	out      chan<- WatchResponse
}

// run forwards one etcd watch until it ends, and calls answered when etcd has created it.
func (w *watch) run(ctx context.Context, answered func()) error {
	ctx, cancel := context.WithCancel(watchContext(ctx, w.prefix))
	defer cancel()
	etcdWatch := w.client.Watch(ctx, w.prefix, clientv3.WithPrefix(), clientv3.WithRev(w.revision+1), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	for resp := range etcdWatch {
		if resp.CompactRevision != 0 || errors.Is(resp.Err(), rpctypes.ErrCompacted) {
			return ErrCompacted
		}
		if err := resp.Err(); err != nil {
			return err
		}
		answered()
		if resp.Created {
			continue
		}
		if !w.send(ctx, w.convert(resp)) {
			return ctx.Err()
		}
	}
	return errors.New("watch ended")
}

// watchContext gives each prefix an etcd stream of its own. etcd's client puts
// watches with equal metadata on one stream, and many on one can block each other
// for good: within a process a stream is a pair of short channels without flow
// control, on which either side may wait for the other to read.
func watchContext(ctx context.Context, prefix string) context.Context {
	ctx = metadata.AppendToOutgoingContext(ctx, "skep-watch", prefix)
	// Without a leader a member has no new events: the watch ends, so that another member is
	// tried.
	return clientv3.WithRequireLeader(ctx)
}

// convert also advances the revision. The header of a response with events may
// name a revision whose events are still to come, so only that of a progress
// response counts.
func (w *watch) convert(resp clientv3.WatchResponse) WatchResponse {
	if resp.IsProgressNotify() {
		w.revision = max(w.revision, resp.Header.Revision)
		return WatchResponse{Revision: w.revision}
	}
	events := make([]Event, len(resp.Events))
	for i, ev := range resp.Events {
		events[i] = Event{Key: string(ev.Kv.Key), ModRevision: ev.Kv.ModRevision, Created: ev.IsCreate()}
		if ev.Type == clientv3.EventTypeDelete {
			events[i].Type = Delete
		} else {
			events[i].Value = ev.Kv.Value
		}
		w.revision = max(w.revision, ev.Kv.ModRevision)
	}
	return WatchResponse{Events: events, Revision: w.revision}
}

func (w *watch) send(ctx context.Context, resp WatchResponse) bool {
	select {
	case w.out <- resp:
		return true
	case <-ctx.Done():
		return false
	}
}
