package servicespec

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Skep's annotations of a service.
const (
	prefix = "skep.io/"
	// SelectionAnnotation says how the pod of a new connection is selected.
	SelectionAnnotation = prefix + "selection"
	// ForwardingAnnotation says how connections from outside reach a pod on another node.
	ForwardingAnnotation = prefix + "forwarding"
	// AnnouncedByAnnotation is written by the control plane: the node that answers for
	// the service's load-balancer addresses.
	AnnouncedByAnnotation = prefix + "announced-by"
	// AppliedAnnotation is written by agents to their node's Lease: the revision up to which the node's service maps have all endpoint
	// slices; 0 until they have been read.
	AppliedAnnotation = prefix + "applied-endpoints"
)

// RebalanceAnnotation of a ReplicationController, a Deployment's or another ReplicaSet, or of a namespace for all of its, says whether the control plane
// moves replicas by itself when they could be spread better.
const (
	RebalanceAnnotation = prefix + "rebalance"
	RebalanceOn         = "true"
	RebalanceOff        = "false"
)

// Values of SelectionAnnotation; the first is the default.
const (
	RoundRobin       = "round-robin"
	LeastConnections = "least-connections"
	Random           = "random"
	Maglev           = "maglev"
)

// Values of ForwardingAnnotation; the first is the default.
const (
	DirectReturn      = "dsr"
	SourceTranslation = "snat"
)

var values = map[string][]string{
	SelectionAnnotation:  {RoundRobin, LeastConnections, Random, Maglev},
	ForwardingAnnotation: {DirectReturn, SourceTranslation},
}

var annotationsPath = field.NewPath("metadata", "annotations")

// ValidateAnnotations refuses unknown values of Skep's annotations, except those that the
// object had before. An empty value counts as none.
func ValidateAnnotations(annotations, before map[string]string) (errs field.ErrorList) {
	for _, name := range []string{SelectionAnnotation, ForwardingAnnotation} {
		value := annotations[name]
		if value == "" || value == before[name] || slices.Contains(values[name], value) {
			continue
		}
		errs = append(errs, field.NotSupported(annotationsPath.Key(name), value, values[name]))
	}
	return errs
}

// AnnotationWarnings warn of annotations under Skep's name that a service does not have.
func AnnotationWarnings(annotations map[string]string) (warnings []string) {
	for name := range annotations {
		if !strings.HasPrefix(name, prefix) || name == AnnouncedByAnnotation || values[name] != nil {
			continue
		}
		warnings = append(warnings, annotationsPath.Key(name).String()+": a Service has no such annotation, it is ignored; there are "+
			SelectionAnnotation+" and "+ForwardingAnnotation)
	}
	slices.Sort(warnings)
	return warnings
}

// Setting is the value that applies for an annotation: its own if that is known, else the
// default.
func Setting(annotations map[string]string, name string) (value string, known bool) {
	value = annotations[name]
	if slices.Contains(values[name], value) {
		return value, true
	}
	return values[name][0], value == ""
}
