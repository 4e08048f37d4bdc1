// Package scheduler binds pods to nodes. It owns what fits where and what is best, the
// room on every node according to the registry's caches and its own pending bindings, and
// the PodScheduled condition of pods that fit nowhere. It deletes pods only for pods of higher priority that fit nowhere else; it never
// starts or moves one.
package scheduler

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/clock"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// reporters is how many conditions of pods that fit nowhere are written at a time.
	reporters = 4
	// sweep is how often parked pods are activated whose retry is due.
	sweep = time.Second
	// sweepBooks is how often counts are dropped that no pod has asked for since.
	sweepBooks = time.Minute
)

// Scheduler is the scheduling loop.
type Scheduler struct {
	registry  *resource.Registry
	recorders Recorders
	clock     clock.WithTicker
	cluster   *cluster
	queue     *queue
	binder    *binder
	reports   *controller.Queue[report]
	victims   *controller.Queue[victim]
	swept     time.Time
	rested    time.Time // until when parked pods are left alone

	// changed names the hosts on which there may be room now that there was not before.
	changedMu sync.Mutex
	changed   sets.Set[string]
}

// tick does what is due by time.
func (s *Scheduler) tick() {
	s.queue.wakeDue()
	if now := s.clock.Now(); now.Sub(s.swept) >= sweepBooks {
		s.swept = now
		s.cluster.sweep()
	}
}

// New makes the loop. It runs once.
func New(registry *resource.Registry, recorders Recorders, clock clock.WithTicker, configuration *Configuration) *Scheduler {
	s := &Scheduler{
		registry: registry, recorders: recorders, clock: clock,
		cluster: newCluster(configuration),
		queue:   newQueue(clock, configuration.minBackoff, configuration.maxBackoff),
		reports: controller.NewQueue[report]("scheduler"),
		victims: controller.NewQueue[victim]("preemption"),
		changed: sets.New[string](),
	}
	s.binder = newBinder(s)
	return s
}

// Run works until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	// All nodes and bound pods are read before the first pod is placed.
	var wg sync.WaitGroup
	s.observeOwners(ctx, &wg)
	controller.Observe(ctx, &wg, s.registry, kinds.Nodes, s.nodeChanged)
	controller.Observe(ctx, &wg, s.registry, kinds.Pods, s.podChanged)
	controller.Go(ctx, &wg, "scheduler", func() { s.binder.run(ctx) })
	wg.Go(func() { s.reports.Run(ctx, reporters, s.report) })
	wg.Go(func() { s.victims.Run(ctx, reporters, s.remove) })
	s.loop(ctx)
	wg.Wait()
	return ctx.Err()
}

func (s *Scheduler) loop(ctx context.Context) {
	ticker := s.clock.NewTicker(sweep)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ticker.C():
			s.tick()
		default:
		}
		s.wakeForRoom()
		again := s.wakeForOccurrences()
		w := s.queue.pop()
		if w == nil {
			var rested <-chan time.Time
			if again > 0 {
				rested = time.After(again)
			}
			select {
			case <-ctx.Done():
			case <-s.queue.ready:
			case <-rested:
			case <-ticker.C():
				s.tick()
			}
			continue
		}
		s.schedule(ctx, w)
	}
}

func (s *Scheduler) schedule(ctx context.Context, w *waiting) {
	req, began := w.request, time.Now()
	s.cluster.mu.Lock()
	h, why := s.cluster.choose(req)
	left := ""
	if h != nil {
		left = s.cluster.denominate(req)
		s.cluster.assume(req, h)
	}
	var nomination nomination
	if h == nil && why.nodes > 0 {
		nomination = s.preempt(req, why)
	}
	s.cluster.mu.Unlock()
	if h != nil && left != "" && left != h.name {
		s.roomOn(left)
	}
	if h == nil {
		s.cluster.profileOf(req).unschedulableSeconds.Observe(time.Since(began).Seconds())
		s.queue.park(w)
		s.reports.Add(report{pod: controller.Key{Namespace: req.pod.Namespace, Name: req.pod.Name}, uid: req.uid, message: why.String(), nomination: nomination})
		return
	}
	s.cluster.profileOf(req).scheduledSeconds.Observe(time.Since(began).Seconds())
	s.binder.add(ctx, binding{waiting: w, request: req, node: h.name})
}

func (s *Scheduler) nodeChanged(old, cur *corev1.Node, _ int64) {
	if cur == nil {
		s.cluster.removeNode(old.Name)
		s.queue.signal()
	} else if s.cluster.setNode(cur) {
		s.roomOn(cur.Name)
	}
}

func (s *Scheduler) podChanged(old, cur *corev1.Pod, _ int64) {
	if old != nil && (cur == nil || cur.UID != old.UID) {
		s.podGone(old)
	}
	switch {
	case cur == nil:
	case controller.PodTerminal(cur):
		s.podGone(cur)
	case cur.Spec.NodeName != "":
		s.queue.remove(cur)
		s.withdraw(cur)
		s.cluster.place(newRequest(cur))
		s.queue.signal()
	case cur.DeletionTimestamp != nil || len(cur.Spec.SchedulingGates) > 0:
		s.queue.remove(cur)
		s.withdraw(cur)
	case s.cluster.configuration.of(cur) != nil:
		if cur.Status.NominatedNodeName != "" {
			s.cluster.nominateAs(newRequest(cur))
		}
		s.queue.set(cur)
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.remove(pod)
	s.withdraw(pod)
	if host := s.cluster.free(pod); host != "" {
		s.roomOn(host)
	}
}

// withdraw ends a pod's nomination: what was kept for it is for others.
func (s *Scheduler) withdraw(pod *corev1.Pod) {
	if host := s.cluster.withdraw(pod); host != "" {
		s.roomOn(host)
	}
}

// roomOn records that more may fit on a host.
func (s *Scheduler) roomOn(host string) {
	s.changedMu.Lock()
	s.changed.Insert(host)
	s.changedMu.Unlock()
	s.queue.signal()
}

func (s *Scheduler) popChanged() sets.Set[string] {
	s.changedMu.Lock()
	defer s.changedMu.Unlock()
	if s.changed.Len() == 0 {
		return nil
	}
	changed := s.changed
	s.changed = sets.New[string]()
	return changed
}

// wakeForRoom activates the parked pods that fit on one of the changed hosts.
func (s *Scheduler) wakeForRoom() {
	changed := s.popChanged()
	if changed.Len() == 0 {
		return
	}
	s.cluster.mu.Lock()
	defer s.cluster.mu.Unlock()
	s.queue.wake(func(req *request) bool {
		var checks []check
		for name := range changed {
			h := s.cluster.hosts[name]
			if h == nil || h.node == nil || !s.cluster.resourceCheck(req).fits(h) {
				continue // most often: all other checks are left out
			}
			if checks == nil {
				checks = s.cluster.checksFor(req)
			}
			if s.cluster.admits(req, checks, h) {
				return true
			}
		}
		return false
	})
}
