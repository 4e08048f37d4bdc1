package kinds

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/skep-io/skep/controlplane/resource"
)

// Events is the kind of v1 Event. Events expire after an hour.
var Events = &resource.Kind{
	GVK: coreV1.WithKind("Event"), Resource: "events", Singular: "event",
	ShortNames: []string{"ev"}, Namespaced: true, Verbs: allVerbs,
	New:     func() resource.Object { return &corev1.Event{} },
	NewList: func() runtime.Object { return &corev1.EventList{} },
	Absence: resource.AbsenceIgnored,
	TTL:     time.Hour,

	Default: setDefaults,
	ValidateCreate: validateCreate(func(event *core.Event) field.ErrorList {
		return validation.ValidateEventCreate(event, coreV1)
	}),
	ValidateUpdate: validateUpdate(func(event, old *core.Event) field.ErrorList {
		return validation.ValidateEventUpdate(event, old, coreV1)
	}),
	Fields: eventFields,
	// The same objects in another group, validated strictly when they are written in that group.
	Versions: []resource.Version{{
		GVK:     eventsv1.SchemeGroupVersion.WithKind("Event"),
		New:     func() resource.Object { return &eventsv1.Event{} },
		NewList: func() runtime.Object { return &eventsv1.EventList{} },
		ValidateCreate: validateCreate(func(event *core.Event) field.ErrorList {
			return validation.ValidateEventCreate(event, eventsv1.SchemeGroupVersion)
		}),
		ValidateUpdate: validateUpdate(func(event, old *core.Event) field.ErrorList {
			return validation.ValidateEventUpdate(event, old, eventsv1.SchemeGroupVersion)
		}),
	}},
}

func eventFields(obj resource.Object) fields.Set {
	event := obj.(*corev1.Event)
	source := event.Source.Component
	if source == "" {
		source = event.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            event.InvolvedObject.Kind,
		"involvedObject.namespace":       event.InvolvedObject.Namespace,
		"involvedObject.name":            event.InvolvedObject.Name,
		"involvedObject.uid":             string(event.InvolvedObject.UID),
		"involvedObject.apiVersion":      event.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": event.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       event.InvolvedObject.FieldPath,
		"reason":                         event.Reason,
		"reportingComponent":             event.ReportingController,
		"source":                         source,
		"type":                           event.Type,
	}
}
