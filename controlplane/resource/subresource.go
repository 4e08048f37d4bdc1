package resource

import (
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Subresource is what is served below an object's own path: a part of the object, the object in another form, an action, or a connection.
// Discovery, OpenAPI and the API server's routes are made from it.
type Subresource struct {
	Name string
	// Verbs are those that discovery lists, and that are served; a connection with a path accepts every method.
	Verbs []string
	// GVK is that of the body, or of the options of a connection. Empty: the kind's own.
	GVK schema.GroupVersionKind
	// New makes an empty body; nil: the kind's own objects.
	New func() runtime.Object

	// Update is set for a part of the object: how it is written through the registry.
	Update *UpdateRules
	// Scale is set for the replicas of an object, shown as a Scale.
	Scale *ScaleAccess
	// Options is set for a subresource that streams bytes: it makes the type that its query is read into.
	Options func() runtime.Object
	// MediaType is of the bytes that are streamed.
	MediaType string
	// Path says that the rest of the request path after the subresource's name belongs to it.
	Path bool
}

// UpdateRules are those of an update of an object, or of a part of it.
type UpdateRules struct {
	// PrepareForUpdate puts back what the update may not change.
	PrepareForUpdate func(obj, old Object)
	Validate         func(obj, old Object) field.ErrorList
	// ResetFields are what PrepareForUpdate puts back, beside status in an update of an object, and spec in one of its status.
	ResetFields []fieldpath.Path
}

// ScaleAccess reads and sets what the scale subresource shows.
type ScaleAccess struct {
	Replicas    func(Object) int32
	SetReplicas func(obj Object, replicas int32)
	Current     func(Object) int32
	Selector    func(Object) string
}

// partVerbs are what can be done with most parts of an object.
var partVerbs = []string{"get", "patch", "update"}

// ScaleKind is what the scale subresource of every kind is.
var ScaleKind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")

// AllSubresources are those of a kind, status and scale among them.
func (k *Kind) AllSubresources() []Subresource {
	var all []Subresource
	if k.Status != nil {
		all = append(all, Subresource{Name: "status", Verbs: partVerbs, Update: k.Status})
	}
	if k.Scale != nil {
		all = append(all, Subresource{
			Name: "scale", Verbs: partVerbs, GVK: ScaleKind, Scale: k.Scale, New: func() runtime.Object { return &autoscalingv1.Scale{} },
		})
	}
	all = append(all, k.Subresources...)
	for i := range all {
		sub := &all[i]
		if sub.GVK.Empty() {
			sub.GVK = k.GVK
		}
		if sub.New == nil {
			sub.New = func() runtime.Object { return k.New() }
		}
	}
	return all
}

// Subresource finds one by its name.
func (k *Kind) Subresource(name string) (Subresource, bool) {
	all := k.AllSubresources()
	i := slices.IndexFunc(all, func(s Subresource) bool { return s.Name == name })
	if i < 0 {
		return Subresource{}, false
	}
	return all[i], true
}

// updateRules are those of the kind itself for "", else those of a part.
func (k *Kind) updateRules(part string) (*UpdateRules, bool) {
	switch {
	case part == "":
		return &UpdateRules{PrepareForUpdate: k.PrepareForUpdate, Validate: k.ValidateUpdate}, true
	case part == "status" && k.Status != nil: // the most frequent write by far
		return k.Status, true
	}
	sub, ok := k.Subresource(part)
	return sub.Update, ok && sub.Update != nil
}
