// Package resource is the registry, through which the API server and the control loops
// read and write: it lists, watches, creates, changes and deletes objects with
// Kubernetes' semantics and error texts. What differs between kinds is in Kind values; it
// has no kind of its own. It never speaks HTTP, and it reaches etcd through storage only.
package resource

import (
	"cmp"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Object is an API object of a v1 type.
type Object = watchcache.Resource

// Kind says how the objects of one resource behave. Functions may be nil where a kind has
// no rule. Objects that come to a function as old or current are shared and must not be
// changed.
type Kind struct {
	GVK        schema.GroupVersionKind
	Resource   string
	Singular   string
	ShortNames []string
	Categories []string
	Namespaced bool
	// Verbs are those that discovery lists.
	Verbs []string

	New     func() Object
	NewList func() runtime.Object
	// Versions are further groups and versions of the same objects.
	Versions []Version

	// base is the kind as it was registered, for the Kind of a further version and for what stored points to; nil: this one.
	base *Kind
	// stored is set for a further version: the kind in the stored version, with what is different for this one.
	stored *Kind
	// Path is where objects are stored, below storage.Root; empty: the resource's name, as nearly all of Kubernetes' own have it,
	// while custom resources have GROUP/RESOURCE.
	Path string
	// Codec is the encoding in which objects are stored; nil: that of the scheme.
	Codec storage.Codec
	// Unstructured says that objects are of no Go type, but unstructured JSON, which Schema explains; see NewUnstructured.
	Unstructured bool
	Schema       *spec.Schema
	// Absence says whether control loops act on an object's absence from their cache.
	Absence Absence
	// TTL is after how long an object expires; 0: never.
	TTL time.Duration

	Default          func(Object)
	PrepareForCreate func(Object)
	ValidateCreate   func(Object) field.ErrorList
	PrepareForUpdate func(obj, old Object)
	ValidateUpdate   func(obj, old Object) field.ErrorList
	// SpecChanged says whether an update is one that raises metadata.generation,
	// which then starts at 1. Nil: the kind has no generation of its own.
	SpecChanged func(obj, old Object) bool
	// Status is how the status subresource is written, nil if there is none.
	Status *UpdateRules
	// Scale reaches the replicas for the scale subresource, nil if there is none.
	Scale *ScaleAccess
	// Subresources are those beside status and scale.
	Subresources []Subresource
	Warnings     func(Object) []string
	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	// It returns the same names for every object, also for an empty one.
	Fields func(Object) fields.Set
	// Indexes are looked up by a field selector on the same name, and by ByIndex.
	Indexes map[string]func(Object) []string
	// Canonicalize sets what follows from the rest of a valid object, including its name.
	Canonicalize func(Object)
	// GracePeriod says how long a deletion waits for the object's owner on a node,
	// and whether it waits at all. Nil: objects are deleted at once.
	GracePeriod func(obj Object, opts *metav1.DeleteOptions) (seconds int64, graceful bool)
	// MarkDeleted says in the object itself that its deletion has begun, for a kind that has a place for that, and whether it
	// changed anything. Nil: metadata says it.
	MarkDeleted func(Object) (changed bool)
	// Awaited says whether a deletion waits for more than the finalizers in the metadata.
	Awaited func(Object) bool
	// OrphanByDefault orphans dependents when a deletion does not name a propagation policy.
	OrphanByDefault bool
	// ReturnsDeleted says that a deletion is answered with the object, not with a Status.
	ReturnsDeleted bool
}

// Absence says whether control loops or the scheduler act when an object of a kind is absent.
type Absence uint8

const (
	// AbsenceUndeclared counts as AbsenceDecides.
	AbsenceUndeclared Absence = iota
	// AbsenceDecides: they create, delete or change other objects because one of this kind is absent. They do not start while one is
	// stored that cannot be decoded.
	AbsenceDecides
	// AbsenceIgnored: no loop decides by the objects of this kind.
	AbsenceIgnored
)

// Tx collects what is written in one transaction.
type Tx struct {
	Guards []storage.Guard
	Ops    []storage.Op
}

// Prefix is the part that the storage keys of all objects have in common.
func (k *Kind) Prefix() string { return storage.Prefix(k.path()) }

// Key is the storage key of an object. The namespace of a kind that has none is left out.
func (k *Kind) Key(ns, name string) string {
	if !k.Namespaced {
		ns = ""
	}
	return storage.Key(k.path(), ns, name)
}

func (k *Kind) path() string { return cmp.Or(k.Path, k.Resource) }

// codec is the form in which objects are stored.
func (k *Kind) codec() storage.Codec {
	codec := k.Codec
	if codec == nil {
		codec = scheme.Codec
	}
	if len(k.Versions) > 0 {
		return convertingCodec{codec, k}
	}
	return codec
}

// Encode is the stored form of an object.
func (k *Kind) Encode(obj Object) ([]byte, error) { return k.codec().Encode(obj) }

// awaited says whether a deletion has anything to wait for but the object's grace period.
func (k *Kind) awaited(obj Object) bool {
	return len(obj.GetFinalizers()) > 0 || k.Awaited != nil && k.Awaited(obj)
}

// GroupResource is the name that errors are made of.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.GVK.Group, Resource: k.Resource}
}

// GroupVersionResource is the name that request paths are made of.
func (k *Kind) GroupVersionResource() schema.GroupVersionResource {
	return k.GVK.GroupVersion().WithResource(k.Resource)
}
