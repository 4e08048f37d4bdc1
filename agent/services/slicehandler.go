package services

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"
)

// sliceHandler is called by the watch of endpoint slices.
func (w *Watcher) sliceHandler() cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { w.sliceShown(nil, obj) },
		DeleteFunc: func(obj any) { w.onSlice(obj) },
		UpdateFunc: func(old, obj any) {
			w.onSlice(old) // a slice may have moved to another service
			w.sliceShown(old, obj)
		},
	}
}

// sliceShown is onSlice of a slice that is new or changed; old may be nil.
func (w *Watcher) sliceShown(old, obj any) {
	before, known := object[*discoveryv1.EndpointSlice](old)
	s, ok := object[*discoveryv1.EndpointSlice](obj)
	if !ok || known && before.ResourceVersion == s.ResourceVersion { // the watch has only begun again
		w.onSlice(obj)
		return
	}
	w.onSlice(obj, w.latency.changes(s)...)
}

func (w *Watcher) onSlice(obj any, changes ...change) {
	s, ok := object[*discoveryv1.EndpointSlice](obj)
	if !ok {
		return
	}
	w.applied.see(s, changes...)
	w.queue.Add(sliceService(s))
	w.sliceChanged(s)
	if sliceService(s) == apiService {
		w.serversChanged()
	}
}
