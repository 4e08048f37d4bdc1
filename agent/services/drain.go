package services

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// drain is a pod of this node that is about to end.
type drain struct {
	changed chan struct{} // one place: a slice with the pod has changed
}

// drainMargin is the time that other nodes get to write a change of a slice to their maps where they cannot be asked whether they have.
const drainMargin = 50 * time.Millisecond

// Drained is how a drain ended.
type Drained struct {
	// Endpoint: the pod was an endpoint of a service. If not, all else is empty.
	Endpoint bool
	// Problem says what was not so when the drain ended, for people; empty if every live node had taken the pod out of its maps.
	Problem string
}

// podsOf lists the pods of a node that are endpoints in a slice.
func podsOf(s *discoveryv1.EndpointSlice, node string) (uids []string) {
	for i := range s.Endpoints {
		if e := &s.Endpoints[i]; e.TargetRef != nil && ptr.Deref(e.NodeName, "") == node {
			uids = append(uids, string(e.TargetRef.UID))
		}
	}
	return uids
}

// Drain makes a pod of this node the last choice of clients here, at once, and waits until its endpoints say that it is not
// ready and the nodes have that in their maps, or until ctx ends. It does not wait for a pod that is no endpoint.
// restored undoes the change on this node.
func (w *Watcher) Drain(ctx context.Context, pod types.UID) (result Drained, restored func()) {
	uid := string(pod)
	d := &drain{changed: make(chan struct{}, 1)}
	w.mu.Lock()
	w.draining[uid] = d
	w.mu.Unlock()
	w.requeue(uid)
	restored = func() {
		w.mu.Lock()
		if w.draining[uid] == d {
			delete(w.draining, uid)
		}
		w.mu.Unlock()
		w.requeue(uid)
	}
	began := time.Now()
	revision, endpoint, withdrawn := w.awaitWithdrawal(ctx, uid, d)
	switch {
	case !endpoint:
		return Drained{}, restored
	case !withdrawn:
		slog.Warn("a pod ends although other nodes may still send connections to it: the control plane has not withdrawn its endpoint", "pod", uid, "waited", time.Since(began))
		return Drained{Endpoint: true, Problem: "the control plane had not withdrawn its endpoint"}, restored
	}
	result = Drained{Endpoint: true, Problem: w.awaitNodes(ctx, revision)}
	slog.Debug("endpoint of an ending pod withdrawn", "pod", uid, "after", time.Since(began), "problem", result.Problem)
	return result, restored
}

// awaitWithdrawal waits until no slice has the pod as a ready endpoint, or ctx ends. The revision is that of the slices with the pod.
func (w *Watcher) awaitWithdrawal(ctx context.Context, uid string, d *drain) (revision uint64, endpoint, withdrawn bool) {
	for {
		revision, isEndpoint, ready := w.announced(uid)
		if !isEndpoint || !ready {
			// It may have left the slices while this waited: what was seen until now includes that.
			w.applied.mu.Lock()
			defer w.applied.mu.Unlock()
			if !isEndpoint && endpoint {
				revision = w.applied.seen
			}
			return revision, endpoint || isEndpoint, true
		}
		endpoint = true
		select {
		case <-d.changed:
		case <-ctx.Done():
			return 0, true, false
		}
	}
}

// awaitNodes waits until the nodes have a revision in their maps. It returns what was not so when ctx ended, or "".
func (w *Watcher) awaitNodes(ctx context.Context, revision uint64) (problem string) {
	if w.cfg.Await != nil {
		pending, err := w.cfg.Await(ctx, revision)
		switch {
		case err == nil && len(pending) == 0:
			return ""
		case err == nil:
			return "not taken out of the service maps by " + someOf(pending)
		case ctx.Err() == nil:
			slog.Warn("the nodes' service maps are not known: a pod ends although other nodes may still send connections to it", "err", err)
		}
		problem = "the API server did not say whether all nodes had taken it out of their service maps"
	}
	margin := time.NewTimer(drainMargin)
	defer margin.Stop()
	select {
	case <-margin.C:
	case <-ctx.Done():
	}
	return problem
}

// someOf names at most three.
func someOf(nodes []string) string {
	if len(nodes) <= 3 {
		return strings.Join(nodes, ", ")
	}
	return fmt.Sprintf("%s and %d others", strings.Join(nodes[:3], ", "), len(nodes)-3)
}

// requeue has the services of a pod translated again.
func (w *Watcher) requeue(uid string) {
	slices, err := w.slices.GetIndexer().ByIndex(byPod, uid)
	if err != nil {
		return // the index is missing only before New
	}
	for _, obj := range slices {
		w.queue.Add(sliceService(obj.(*discoveryv1.EndpointSlice)))
	}
}

// announced says whether a pod is an endpoint of any service, in slices up to which revision, and whether it is ready in one.
func (w *Watcher) announced(uid string) (revision uint64, endpoint, ready bool) {
	slices, err := w.slices.GetIndexer().ByIndex(byPod, uid)
	if err != nil {
		return 0, false, false
	}
	for _, obj := range slices {
		s := obj.(*discoveryv1.EndpointSlice)
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.TargetRef != nil && string(e.TargetRef.UID) == uid {
				endpoint, ready = true, ready || ptr.Deref(e.Conditions.Ready, true)
				revision = max(revision, revisionOf(s))
			}
		}
	}
	return revision, endpoint, ready
}

// sliceChanged wakes the drains of the slice's pods.
func (w *Watcher) sliceChanged(s *discoveryv1.EndpointSlice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.draining) == 0 {
		return
	}
	for _, uid := range podsOf(s, w.cfg.Node) {
		if d := w.draining[uid]; d != nil {
			select {
			case d.changed <- struct{}{}:
			default:
			}
		}
	}
}

func (w *Watcher) isDraining(uid string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.draining[uid] != nil
}

// IsEndpoint says whether any slice has a pod of this node.
func (w *Watcher) IsEndpoint(pod types.UID) bool {
	_, endpoint, _ := w.announced(string(pod))
	return endpoint
}
