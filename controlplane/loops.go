package controlplane

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller/conflict"
	"github.com/skep-io/skep/controlplane/controller/deployment"
	"github.com/skep-io/skep/controlplane/controller/endpoints"
	"github.com/skep-io/skep/controlplane/controller/gc"
	"github.com/skep-io/skep/controlplane/controller/loadbalancer"
	"github.com/skep-io/skep/controlplane/controller/namespace"
	"github.com/skep-io/skep/controlplane/controller/node"
	"github.com/skep-io/skep/controlplane/controller/replication"
	"github.com/skep-io/skep/controlplane/controller/serviceaccount"
	"github.com/skep-io/skep/controlplane/controller/servicecidr"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// catchUpRetry is how long to wait after the store did not answer a new leader.
const catchUpRetry = 200 * time.Millisecond

// lead runs the scheduler and the controllers until ctx ends.
func lead(ctx context.Context, s *settings, registry *resource.Registry, authority *pki.PKI) {
	if !catchUp(ctx, registry) {
		return
	}
	var wg sync.WaitGroup
	recorder := func(component string) *event.Recorder {
		r := event.NewRecorder(registry, component)
		wg.Go(func() { r.Run(ctx) })
		return r
	}
	realClock := clock.RealClock{}
	loops := map[string]interface{ Run(context.Context) error }{
		"scheduler":      scheduler.New(registry, recorder(scheduler.Component), realClock),
		"replication":    replication.New(registry, recorder(replication.Component), realClock),
		"replicasets":    replication.NewReplicaSets(registry, recorder(replication.ReplicaSetsComponent), realClock),
		"deployments":    deployment.New(registry, recorder(deployment.Component)),
		"endpoints":      endpoints.New(registry, recorder(endpoints.Component), recorder(endpoints.MirrorComponent)),
		"load balancers": loadbalancer.New(registry, recorder(loadbalancer.Component), s.pool),
		"node":           node.New(registry, recorder(node.Component), realClock, s.NodeMonitorGrace),
		"namespace":      namespace.New(registry),
		"gc":             gc.New(registry),
		"conflicts":      conflict.New(registry, recorder(conflict.Component)),
		"servicecidr":    servicecidr.New(registry, recorder(servicecidr.Component), recorder(servicecidr.RepairComponent)),
		"serviceaccount": serviceaccount.New(registry, authority.CA),
	}
	for name, loop := range loops {
		wg.Go(func() {
			if err := loop.Run(ctx); ctx.Err() == nil {
				slog.Error("control loop ended", "loop", name, "err", err)
			}
		})
	}
	wg.Wait()
}

// catchUp waits until the caches have all that leaders before have written: a
// loop that begins on an older state would do their work again.
func catchUp(ctx context.Context, registry *resource.Registry) bool {
	for ctx.Err() == nil {
		err := caughtUp(ctx, registry)
		if err == nil {
			return true
		}
		slog.Warn("new leader waits for its caches", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(catchUpRetry):
		}
	}
	return false
}

func caughtUp(ctx context.Context, registry *resource.Registry) error {
	revision, err := registry.Store().Revision(ctx)
	if err != nil {
		return err
	}
	for _, k := range registry.Kinds() {
		if err := registry.Cache(k).WaitUntil(ctx, revision); err != nil {
			return err
		}
	}
	return nil
}
