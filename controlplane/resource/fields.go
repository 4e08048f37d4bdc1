package resource

import (
	"context"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/scheme"
)

// builtin says how the fields of Kubernetes' own types are merged, from the schema that upstream generates for clients. It is read when the
// first object is applied: a cluster in which nothing is applied pays nothing.
var builtin = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(scheme.Scheme) })

// fieldTypes is what upstream's field manager needs to know of one type: it makes, converts and describes its objects. Defaults
// are the registry's own to set.
type fieldTypes struct {
	gvk schema.GroupVersionKind
	new func() runtime.Object
}

// fieldManager keeps who set which fields of a kind's objects, or of a part of them.
func (k *Kind) fieldManager(part string) (*managedfields.FieldManager, error) {
	t := fieldTypes{gvk: k.GVK, new: func() runtime.Object { return k.New() }}
	return t.manager(part, k.resetFields(part))
}

// scaleManager is fieldManager for the scale of an object.
func scaleManager() (*managedfields.FieldManager, error) {
	t := fieldTypes{gvk: ScaleKind, new: func() runtime.Object { return &autoscalingv1.Scale{} }}
	return t.manager("scale", nil)
}

func (t fieldTypes) manager(part string, reset *fieldpath.Set) (*managedfields.FieldManager, error) {
	filters := map[fieldpath.APIVersion]fieldpath.Filter{}
	if reset != nil {
		filters[fieldpath.APIVersion(t.gvk.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(reset)
	}
	return managedfields.NewDefaultFieldManager(t.converter(), t, t, t, t.gvk, t.gvk.GroupVersion(), part, filters)
}

// converter deduces how to merge a type that Kubernetes' schema does not have, as upstream does for custom resources without a schema.
func (t fieldTypes) converter() managedfields.TypeConverter {
	if t.gvk == ScaleKind || !scheme.Scheme.Recognizes(t.gvk) {
		return managedfields.NewDeducedTypeConverter()
	}
	return builtin()
}

// resetFields are those that an update of a part cannot change, so that nobody comes to own them by it.
func (k *Kind) resetFields(part string) *fieldpath.Set {
	set := fieldpath.NewSet()
	switch {
	case part == "" && k.Status != nil:
		set.Insert(fieldpath.MakePathOrDie("status"))
	case part == "status":
		set.Insert(fieldpath.MakePathOrDie("spec"))
	}
	if rules, ok := k.updateRules(part); ok {
		for _, path := range rules.ResetFields {
			set.Insert(path)
		}
	}
	return set
}

// ConvertToVersion makes an object of the type out of its merged form. What managers have in another version of the kind is not
// converted: they lose it, as they do upstream when a version is no longer served.
func (t fieldTypes) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	if gvk, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{t.gvk}); !ok || gvk != t.gvk {
		return nil, runtime.NewNotRegisteredErrForTarget("fields", reflect.TypeOf(in), to)
	}
	if u, ok := in.(*unstructured.Unstructured); ok {
		out := t.new()
		if _, same := out.(*unstructured.Unstructured); same {
			return in, nil
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
			return nil, err
		}
		out.GetObjectKind().SetGroupVersionKind(t.gvk)
		return out, nil
	}
	if in.GetObjectKind().GroupVersionKind() == t.gvk {
		return in, nil
	}
	if reflect.TypeOf(in) == reflect.TypeOf(t.new()) { // an object of a cache, which is shared
		in = in.DeepCopyObject()
		in.GetObjectKind().SetGroupVersionKind(t.gvk)
		return in, nil
	}
	return nil, runtime.NewNotRegisteredErrForTarget("fields", reflect.TypeOf(in), to)
}

// Convert is not called by field managers.
func (t fieldTypes) Convert(in, out, context any) error {
	return scheme.Scheme.Convert(in, out, context)
}

// ConvertFieldLabel is not called by field managers either.
func (t fieldTypes) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return scheme.Scheme.ConvertFieldLabel(gvk, label, value)
}

// Default leaves defaults to the registry.
func (t fieldTypes) Default(runtime.Object) {}

// New makes an empty object of the type.
func (t fieldTypes) New(schema.GroupVersionKind) (runtime.Object, error) {
	obj := t.new()
	obj.GetObjectKind().SetGroupVersionKind(t.gvk)
	return obj, nil
}

// tracked says whether the record of who set the fields of an object is kept: from the first time that it is applied, or that somebody
// writes the record with it.
func tracked(obj metav1.Object) bool { return len(obj.GetManagedFields()) > 0 }

// track records that a manager has changed live into obj, if live or obj is tracked. On creation live is nil.
func (k *Kind) track(ctx context.Context, part string, obj, live Object, manager string) error {
	if entries := obj.GetManagedFields(); tracked(obj) && (live == nil || !empties(entries)) && !readable(entries) {
		obj.SetManagedFields(nil) // the one that is stored stays
	}
	if !tracked(obj) && (live == nil || !tracked(live)) {
		obj.SetManagedFields(nil)
		return nil
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	if live == nil {
		live = k.New()
		live.GetObjectKind().SetGroupVersionKind(k.GVK)
	}
	fields, err := k.fieldManager(part)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	fields.UpdateNoErrors(live, obj, managerName(ctx, manager)) // it writes its record into obj
	return nil
}

// maxFieldDepth is how deep the fields of a record may be nested. No type of the API is nested so deep, while JSON decoders take 10,000:
// a record near that, which protobuf lets pass, would make every list that has its object unreadable for clients.
const maxFieldDepth = 500

// readable says whether a record that a client sends can be decoded.
func readable(entries []metav1.ManagedFieldsEntry) bool {
	return !slices.ContainsFunc(entries, tooDeep) && managedfields.ValidateManagedFields(entries) == nil
}

// empties says whether what a client sends means that the record is to be emptied, by a single empty entry.
func empties(entries []metav1.ManagedFieldsEntry) bool {
	return len(entries) == 1 && reflect.DeepEqual(entries[0], metav1.ManagedFieldsEntry{})
}

func tooDeep(entry metav1.ManagedFieldsEntry) bool {
	if entry.FieldsV1 == nil {
		return false
	}
	depth, quoted, raw := 0, false, entry.FieldsV1.GetRawBytes()
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && c == '{':
			if depth++; depth > maxFieldDepth {
				return true
			}
		case !quoted && c == '}':
			depth--
		}
	}
	return false
}

// managerName is the manager that a change is recorded for: the one that it names, else whoever acts, as a part of skepd.
func managerName(ctx context.Context, name string) string {
	if name != "" {
		return name
	}
	return strings.TrimPrefix(identity.From(ctx).GetName(), "system:")
}

// sameManagers says whether two records differ only in times.
func sameManagers(a, b []metav1.ManagedFieldsEntry) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := a[i], b[i]
		x.Time, y.Time = nil, nil
		if !reflect.DeepEqual(x, y) {
			return false
		}
	}
	return true
}

// applyError returns errors that a client can act upon as they are, and other errors as kube-apiserver does: as a 500 with their text.
func applyError(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonUnknown, Message: fmt.Sprint(err),
	}}
}
