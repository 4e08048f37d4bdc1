package services

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"
)

// slimmer reduces the memory of the cached services and endpoints: it drops fields that no node reads, and stores
// repeated strings once. Informers call it before they store an object.
type slimmer struct {
	node        string                                             // this one
	annotations func(*discoveryv1.EndpointSlice) map[string]string // of a slice, those that are read

	mu    sync.Mutex
	words map[string]*string // names of nodes and zones; as many as the cluster has had
}

// conditionValues are the only two values that conditions have.
var conditionValues = map[bool]*bool{false: new(false), true: new(true)}

func newSlimmer(node string, annotations func(*discoveryv1.EndpointSlice) map[string]string) *slimmer {
	return &slimmer{node: node, annotations: annotations, words: map[string]*string{}}
}

func (s *slimmer) slim(obj any) (any, error) {
	switch obj := obj.(type) {
	case *discoveryv1.EndpointSlice:
		obj.ManagedFields, obj.OwnerReferences, obj.Annotations = nil, nil, s.annotations(obj)
		for i := range obj.Endpoints {
			s.endpoint(&obj.Endpoints[i])
		}
	case *corev1.Service:
		obj.ManagedFields = nil
		delete(obj.Annotations, corev1.LastAppliedConfigAnnotation)
	}
	return obj, nil
}

func (s *slimmer) endpoint(e *discoveryv1.Endpoint) {
	if ptr.Deref(e.NodeName, "") != s.node {
		e.TargetRef = nil // it names a pod, which only the pod's own node has
	}
	e.NodeName, e.Zone = s.shared(e.NodeName), s.shared(e.Zone)
	for _, condition := range []**bool{&e.Conditions.Ready, &e.Conditions.Serving, &e.Conditions.Terminating} {
		if *condition != nil {
			*condition = conditionValues[**condition]
		}
	}
}

func (s *slimmer) shared(word *string) *string {
	if word == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.words[*word]; known != nil {
		return known
	}
	s.words[*word] = word
	return word
}
