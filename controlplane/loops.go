package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/controlplane/apiserver"
	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controller/conflict"
	"github.com/skep-io/skep/controlplane/controller/deployment"
	"github.com/skep-io/skep/controlplane/controller/disruption"
	"github.com/skep-io/skep/controlplane/controller/endpoints"
	"github.com/skep-io/skep/controlplane/controller/gc"
	"github.com/skep-io/skep/controlplane/controller/loadbalancer"
	"github.com/skep-io/skep/controlplane/controller/namespace"
	"github.com/skep-io/skep/controlplane/controller/networkpolicy"
	"github.com/skep-io/skep/controlplane/controller/node"
	"github.com/skep-io/skep/controlplane/controller/podgc"
	"github.com/skep-io/skep/controlplane/controller/rebalance"
	"github.com/skep-io/skep/controlplane/controller/replication"
	"github.com/skep-io/skep/controlplane/controller/serviceaccount"
	"github.com/skep-io/skep/controlplane/controller/servicecidr"
	"github.com/skep-io/skep/controlplane/controller/tokencleaner"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// How long a new leader waits before it tries again to read the current state: at first, and at most.
const (
	catchUpRetry    = 200 * time.Millisecond
	catchUpRetryMax = 2 * time.Second
)

// lead runs the scheduler and the controllers until ctx ends. It returns an error if one
// of them ends before that: otherwise nothing would do its work for as long as this
// process holds the lease.
func lead(ctx context.Context, s *settings, registry *resource.Registry, authority *pki.PKI) error {
	if !catchUp(ctx, registry) {
		return nil
	}
	parent := ctx
	ctx, stop := controller.WithFailure(ctx)
	defer stop()
	var wg sync.WaitGroup
	ctx = identity.With(ctx, identity.Controllers)
	recorder := func(component string) *event.Recorder {
		r := event.NewRecorder(registry, component)
		controller.Go(ctx, &wg, "events of "+component, func() { r.Run(ctx) })
		return r
	}
	realClock := clock.RealClock{}
	accounts := serviceaccount.New(registry, authority.CA)
	authority.OnRenewal(accounts.Renewed)
	runLoops(ctx, &wg, map[string]loop{
		"scheduler":      as(identity.Scheduler, scheduler.New(registry, s.scheduling.NewRecorders(recorder), realClock, s.scheduling)),
		"replication":    replication.New(registry, recorder(replication.Component), realClock),
		"replicasets":    replication.NewReplicaSets(registry, recorder(replication.ReplicaSetsComponent), realClock),
		"deployments":    deployment.New(registry, recorder(deployment.Component)),
		"disruption":     disruption.New(registry, recorder(disruption.Component), realClock),
		"endpoints":      endpoints.New(registry, recorder(endpoints.Component), recorder(endpoints.MirrorComponent)),
		"load balancers": loadbalancer.New(registry, recorder(loadbalancer.Component), s.pool),
		"node":           node.New(registry, recorder(node.Component), realClock, s.NodeMonitorGrace, apiserver.HostAnswers),
		"rebalance":      rebalance.New(registry, recorder(rebalance.Component), s.scheduling, rebalance.DefaultPace),
		"namespace":      namespace.New(registry),
		"gc":             gc.New(registry),
		"podgc":          podgc.New(registry, s.TerminatedPodGCThreshold),
		"conflicts":      conflict.New(registry, s.cluster(), recorder(conflict.Component)),
		"networkpolicy":  networkpolicy.New(registry, recorder(networkpolicy.Component)),
		"servicecidr":    servicecidr.New(registry, s.services, recorder(servicecidr.Component), recorder(servicecidr.RepairComponent)),
		"serviceaccount": accounts,
		"tokencleaner":   tokencleaner.New(registry, realClock),
	})
	wg.Wait()
	if parent.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

type loop interface{ Run(context.Context) error }

// acting is a loop that writes as a user of its own.
type acting struct {
	user user.Info
	loop
}

func as(u user.Info, l loop) loop { return acting{u, l} }

func (a acting) Run(ctx context.Context) error { return a.loop.Run(identity.With(ctx, a.user)) }

// runLoops runs loops under wg. If one ends before ctx does, that is a failure.
func runLoops(ctx context.Context, wg *sync.WaitGroup, loops map[string]loop) {
	for name, l := range loops {
		controller.Go(ctx, wg, name, func() {
			running := loopRunning.WithLabelValues(name)
			running.Set(1)
			defer running.Set(0)
			if err := l.Run(ctx); ctx.Err() == nil {
				controller.Fail(ctx, fmt.Errorf("control loop %q ended: %w", name, cmp.Or(err, errLoopReturned)))
			}
		})
	}
}

var errLoopReturned = errors.New("it returned without an error")

// catchUp waits until the caches have all that earlier leaders have written, and every
// stored object that loops decide by can be decoded: a loop that begins with less would
// do work again, or undo it.
func catchUp(ctx context.Context, registry *resource.Registry) bool {
	return backoff.Retry{
		First: catchUpRetry, Last: catchUpRetryMax,
		Failing: "New leader waits for its caches", Working: "Caches of the new leader are complete",
	}.Do(ctx, func(ctx context.Context) error {
		if err := caughtUp(ctx, registry); err != nil {
			return err
		}
		return complete(registry)
	}) == nil
}

// complete returns an error while the caches lack a stored object.
func complete(registry *resource.Registry) error {
	for _, k := range registry.Kinds() {
		if k.Absence == resource.AbsenceIgnored {
			continue
		}
		for _, u := range registry.Unreadable(k) {
			if !u.Kept {
				return fmt.Errorf("%s cannot be decoded, so that the scheduler and the controllers would treat it as deleted: delete it with ignoreStoreReadErrorWithClusterBreakingPotential, or restore it from a snapshot: %w", u.Key, u.Err)
			}
		}
	}
	return nil
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
