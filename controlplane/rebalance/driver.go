// Package rebalance carries out plans that move replicas: one pod at a time, by eviction, so that disruption budgets hold, each only when all
// replicas of its workload are ready, and the next only when they are again. What should move is found in package plan.
package rebalance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
)

const (
	poll = 500 * time.Millisecond
	// refusedRetry is how long an eviction waits that a disruption budget refuses.
	refusedRetry = 2 * time.Second
	// maxStrays is how many replacements of a workload may be placed elsewhere than planned before the workload is left alone.
	maxStrays = 2
)

// Replica is the state of a pod.
type Replica struct {
	UID, Node string
	Ready     bool
	Ending    bool
}

// Cluster is what a Driver works on.
type Cluster interface {
	// Plan returns what should move now, leaving out some workloads. Of its moves the first is carried out.
	Plan(ctx context.Context, except []string) (skepv1.RebalancePlan, error)
	// Evict evicts the pod of a move, with its UID as a precondition. Errors are those of the API.
	Evict(ctx context.Context, move skepv1.RebalanceMove) error
	// Replicas are the pods, which have not ended, of the controller of a move.
	Replicas(ctx context.Context, move skepv1.RebalanceMove) ([]Replica, error)
}

// Driver carries out moves until there are none.
type Driver struct {
	Cluster Cluster
	// Say gets a line for each thing that happens.
	Say func(line string)
	// Timeout bounds how long a disruption budget may refuse, and then how long a replacement may take to be ready.
	Timeout time.Duration

	aside  map[string]string // workloads that are left alone, and why
	strays map[string]int
}

// Aside returns which workloads are left alone, and why.
func (d *Driver) Aside() map[string]string { return maps.Clone(d.aside) }

// Reset takes up the workloads again that were left alone: nodes have changed.
func (d *Driver) Reset() { d.aside, d.strays = nil, nil }

// Step carries out one move and returns when all replicas of its workload are ready again; false: there was none. A workload that cannot be moved is left
// alone from then on.
func (d *Driver) Step(ctx context.Context) (moved bool, err error) {
	for {
		plan, err := d.Cluster.Plan(ctx, slices.Sorted(maps.Keys(d.aside)))
		if err != nil || len(plan.Moves) == 0 {
			return false, err
		}
		m := plan.Moves[0]
		before, err := d.Cluster.Replicas(ctx, m)
		if err != nil {
			return false, err
		}
		if evicted, err := d.evict(ctx, m); err != nil {
			return false, err
		} else if !evicted {
			continue
		}
		return true, d.await(ctx, m, before)
	}
}

// evict evicts the pod as soon as its disruption budget allows that; false: it is gone already, or the workload is left alone.
func (d *Driver) evict(ctx context.Context, m skepv1.RebalanceMove) (bool, error) {
	deadline, said := time.Now().Add(d.Timeout), false
	for {
		err := d.Cluster.Evict(ctx, m)
		switch {
		case err == nil:
			return true, nil
		case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
			return false, sleep(ctx, poll) // another has acted: the next plan is of the state after that
		case apierrors.IsTooManyRequests(err) || apierrors.IsForbidden(err):
			if time.Now().After(deadline) {
				d.leave(m, fmt.Sprintf("its disruption budget has allowed no eviction for %s: %v", d.Timeout, err))
				return false, nil
			}
			if !said {
				d.say("%s: waiting for its disruption budget: %v", m.Workload, err)
				said = true
			}
			if err := sleep(ctx, refusedRetry); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("evict %s/%s: %w", m.Namespace, m.Pod, err)
		}
	}
}

// await waits until as many replicas are ready as before, without the evicted one.
func (d *Driver) await(ctx context.Context, m skepv1.RebalanceMove, before []Replica) error {
	known := map[string]bool{}
	for _, r := range before {
		known[r.UID] = true
	}
	for deadline := time.Now().Add(d.Timeout); ; {
		now, err := d.Cluster.Replicas(ctx, m)
		if err != nil {
			return err
		}
		whole, landed := len(now) >= len(before), ""
		for _, r := range now {
			whole = whole && r.Ready && !r.Ending && r.UID != m.UID
			if !known[r.UID] {
				landed = r.Node
			}
		}
		if whole {
			d.judge(m, landed)
			return nil
		}
		if time.Now().After(deadline) {
			d.leave(m, fmt.Sprintf("its replicas are not all ready %s after pod %s was evicted", d.Timeout, m.Pod))
			return nil
		}
		if err := sleep(ctx, poll); err != nil {
			return err
		}
	}
}

// judge compares where a replacement is with the plan. If the scheduler keeps deciding otherwise, evicting more pods would only disturb the workload.
func (d *Driver) judge(m skepv1.RebalanceMove, landed string) {
	d.say("%s: %s moved from %s to %s: %s", m.Workload, m.Pod, m.From, landed, m.Reason)
	if landed == m.To {
		return
	}
	if d.strays == nil {
		d.strays = map[string]int{}
	}
	if d.strays[m.Workload]++; landed == m.From || d.strays[m.Workload] > maxStrays {
		d.leave(m, fmt.Sprintf("a replacement that was expected on %s was placed on %s", m.To, landed))
	}
}

func (d *Driver) leave(m skepv1.RebalanceMove, why string) {
	if d.aside == nil {
		d.aside = map[string]string{}
	}
	d.aside[m.Workload] = why
	d.say("%s: left alone: %s", m.Workload, why)
}

func (d *Driver) say(format string, args ...any) {
	d.Say(fmt.Sprintf(format, args...))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
