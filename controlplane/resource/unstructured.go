package resource

import (
	"fmt"
	"maps"
	"strings"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/controlplane/storage"
)

// Unstructured describes a kind whose objects are of no Go type. They are stored as JSON.
type Unstructured struct {
	GVK                    schema.GroupVersionKind
	Resource, Singular     string
	ShortNames, Categories []string
	Namespaced             bool
	// Status says that objects have a status of their own, which the status subresource writes and nothing else.
	Status bool
	// Schema explains the objects to clients; nil: any fields.
	Schema *spec.Schema
}

// unstructuredVerbs are those of custom resources.
var unstructuredVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// NewUnstructured makes a kind that can be served: only metadata is validated. Its objects have keys with their group, as
// kube-apiserver stores custom resources, so that the same name can be served in two groups.
func NewUnstructured(u Unstructured) (*Kind, error) {
	if !strings.Contains(u.GVK.Group, ".") || u.GVK.Version == "" || u.GVK.Kind == "" || u.Resource == "" {
		return nil, fmt.Errorf("kind %s of resource %q: it needs a version, a kind, a resource, and a group with a dot, by which its keys differ from Kubernetes' own", u.GVK, u.Resource)
	}
	k := &Kind{
		GVK: u.GVK, Resource: u.Resource, Singular: u.Singular, ShortNames: u.ShortNames, Categories: u.Categories,
		Namespaced: u.Namespaced, Verbs: unstructuredVerbs,
		New: func() Object { return newUnstructured(u.GVK) },
		NewList: func() runtime.Object {
			list := &unstructured.UnstructuredList{}
			list.SetGroupVersionKind(u.GVK.GroupVersion().WithKind(u.GVK.Kind + "List"))
			return list
		},
		Path: u.GVK.Group + "/" + u.Resource, Codec: storage.JSON, Unstructured: true, Schema: u.Schema,
		Absence: AbsenceIgnored,
	}
	k.ValidateCreate = func(obj Object) field.ErrorList {
		return append(validateMetadata(obj), validation.ValidateObjectMetaAccessor(obj, u.Namespaced, validation.NameIsDNSSubdomain, field.NewPath("metadata"))...)
	}
	k.ValidateUpdate = func(obj, old Object) field.ErrorList {
		return append(validateMetadata(obj), validation.ValidateObjectMetaAccessorUpdate(obj, old, field.NewPath("metadata"))...)
	}
	k.Canonicalize = pruneMetadata
	k.SpecChanged = func(obj, old Object) bool {
		return !apiequality.Semantic.DeepEqual(content(obj, u.Status), content(old, u.Status))
	}
	if u.Status {
		k.PrepareForCreate = func(obj Object) { delete(fieldsOf(obj), "status") }
		k.PrepareForUpdate = func(obj, old Object) { moveStatus(fieldsOf(obj), fieldsOf(old)) }
		k.Status = &UpdateRules{PrepareForUpdate: prepareStatus, Validate: k.ValidateUpdate}
	}
	return k, nil
}

func newUnstructured(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	obj := &unstructured.Unstructured{}
	obj.SetGroupVersionKind(gvk)
	return obj
}

func fieldsOf(obj Object) map[string]any { return obj.(*unstructured.Unstructured).Object }

// moveStatus copies the status of from into to. They share the values, which must not be changed any more.
func moveStatus(to, from map[string]any) {
	if status, ok := from["status"]; ok {
		to["status"] = runtime.DeepCopyJSONValue(status)
	} else {
		delete(to, "status")
	}
}

// prepareStatus keeps everything of an object but its status.
func prepareStatus(obj, old Object) {
	fields := fieldsOf(obj)
	kept := runtime.DeepCopyJSON(fieldsOf(old))
	moveStatus(kept, fields)
	kept["metadata"] = fields["metadata"]
	clear(fields)
	maps.Copy(fields, kept)
	for _, keep := range []func(){
		func() { obj.SetLabels(old.GetLabels()) }, func() { obj.SetAnnotations(old.GetAnnotations()) },
		func() { obj.SetFinalizers(old.GetFinalizers()) }, func() { obj.SetOwnerReferences(old.GetOwnerReferences()) },
		func() { obj.SetDeletionTimestamp(old.GetDeletionTimestamp()) }, func() { obj.SetGenerateName(old.GetGenerateName()) },
	} {
		keep()
	}
}

// content returns the fields whose change raises an object's generation.
func content(obj Object, status bool) map[string]any {
	fields := maps.Clone(fieldsOf(obj))
	for _, name := range []string{"apiVersion", "kind", "metadata"} {
		delete(fields, name)
	}
	if status {
		delete(fields, "status")
	}
	return fields
}

// validateMetadata refuses metadata that has the wrong type: accessors would take it for empty.
func validateMetadata(obj Object) field.ErrorList {
	metadata, given := fieldsOf(obj)["metadata"]
	typed, ok := metadata.(map[string]any)
	if given && !ok {
		return field.ErrorList{field.Invalid(field.NewPath("metadata"), metadata, "must be an object")}
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(typed, &metav1.ObjectMeta{}); err != nil {
		return field.ErrorList{field.Invalid(field.NewPath("metadata"), field.OmitValueType{}, err.Error())}
	}
	return nil
}

// pruneMetadata leaves out what metadata has no field for.
func pruneMetadata(obj Object) {
	var typed metav1.ObjectMeta
	metadata, _ := fieldsOf(obj)["metadata"].(map[string]any)
	if runtime.DefaultUnstructuredConverter.FromUnstructured(metadata, &typed) != nil {
		return // it has been validated
	}
	if pruned, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&typed); err == nil {
		fieldsOf(obj)["metadata"] = pruned
	}
}

// unstructuredRows print names and ages, as kube-apiserver does for custom resources that define no columns.
func unstructuredRows(obj Object) *metav1.Table {
	age := "<unknown>"
	if t := obj.GetCreationTimestamp(); !t.IsZero() {
		age = duration.HumanDuration(time.Since(t.Time))
	}
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	return &metav1.Table{
		ColumnDefinitions: []metav1.TableColumnDefinition{
			{Name: "Name", Type: "string", Format: "name", Description: docs["name"]},
			{Name: "Age", Type: "string", Description: docs["creationTimestamp"]},
		},
		Rows: []metav1.TableRow{{Cells: []any{obj.GetName(), age}, Object: runtime.RawExtension{Object: obj}}},
	}
}
