package services

import (
	"context"
	"log/slog"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// drain is a pod of this node that is about to end.
type drain struct {
	changed chan struct{} // one place: a slice with the pod has changed
}

// drainMargin is the time that other nodes get, after this one has seen the change of a slice, to write it to their maps.
const drainMargin = 50 * time.Millisecond

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
// ready and other nodes have had time to read that, or until ctx ends. It does not wait for a pod that is no endpoint.
// restored undoes the change on this node.
func (w *Watcher) Drain(ctx context.Context, pod types.UID) (restored func()) {
	uid := string(pod)
	d := &drain{changed: make(chan struct{}, 1)}
	w.mu.Lock()
	w.draining[uid] = d
	w.mu.Unlock()
	w.requeue(uid)
	began := time.Now()
	restored = func() {
		w.mu.Lock()
		if w.draining[uid] == d {
			delete(w.draining, uid)
		}
		w.mu.Unlock()
		w.requeue(uid)
	}
	for {
		endpoint, ready := w.announced(uid)
		if !endpoint {
			return restored
		}
		if !ready {
			break
		}
		select {
		case <-d.changed:
		case <-ctx.Done():
			slog.Warn("a pod ends although other nodes may still send connections to it: the control plane has not withdrawn its endpoint", "pod", uid, "waited", time.Since(began))
			return restored
		}
	}
	slog.Debug("endpoint of an ending pod withdrawn", "pod", uid, "after", time.Since(began))
	margin := time.NewTimer(drainMargin)
	defer margin.Stop()
	select {
	case <-margin.C:
	case <-ctx.Done():
	}
	return restored
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

// announced says whether a pod is an endpoint of any service, and whether it is ready in one.
func (w *Watcher) announced(uid string) (endpoint, ready bool) {
	slices, err := w.slices.GetIndexer().ByIndex(byPod, uid)
	if err != nil {
		return false, false
	}
	for _, obj := range slices {
		s := obj.(*discoveryv1.EndpointSlice)
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.TargetRef != nil && string(e.TargetRef.UID) == uid {
				endpoint, ready = true, ready || ptr.Deref(e.Conditions.Ready, true)
			}
		}
	}
	return endpoint, ready
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
	endpoint, _ := w.announced(string(pod))
	return endpoint
}
