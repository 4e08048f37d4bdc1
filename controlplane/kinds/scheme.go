package kinds

import (
	"context"
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/api/validate"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
)

// setDefaults gives a v1 object the defaults of its version.
func setDefaults(obj resource.Object) { scheme.Scheme.Default(obj) }

// replace converts an internal object into obj, in the form in which Kubernetes would
// store it. It starts from an empty object: conversions do not reset the old names of
// fields that are not set.
func replace(obj resource.Object, in any) {
	fresh := reflect.New(reflect.TypeOf(obj).Elem())
	if err := scheme.Scheme.Convert(in, fresh.Interface(), nil); err != nil {
		panic(fmt.Sprintf("convert %T to %T: %v", in, obj, err))
	}
	kind := obj.GetObjectKind().GroupVersionKind()
	reflect.ValueOf(obj).Elem().Set(fresh.Elem())
	obj.GetObjectKind().SetGroupVersionKind(kind)
}

// prepareCreate makes a Kind's PrepareForCreate from a function on the internal type.
func prepareCreate[I any](prepare func(*I)) func(resource.Object) {
	return func(obj resource.Object) {
		in := scheme.Internal[I](obj)
		prepare(in)
		replace(obj, in)
	}
}

// prepareUpdate makes a PrepareForUpdate from a function on the internal type. The old
// object is copied: prepare moves parts of it into the new one, which is changed later.
func prepareUpdate[I any](prepare func(obj, old *I)) func(obj, old resource.Object) {
	return func(obj, old resource.Object) {
		in := scheme.Internal[I](obj)
		prepare(in, scheme.Internal[I](old.DeepCopyObject().(resource.Object)))
		replace(obj, in)
	}
}

// validateCreate makes a ValidateCreate from Kubernetes' hand-written validation, joined
// with the declarative one of the type.
func validateCreate[I any](validate func(*I) field.ErrorList) func(resource.Object) field.ErrorList {
	return func(obj resource.Object) field.ErrorList {
		declared := scheme.Scheme.Validate(context.Background(), validationOptions, obj)
		return joinErrors(validate(scheme.Internal[I](obj)), declared)
	}
}

// validateUpdate does the same for updates, of the main resource if no
// subresource is named.
func validateUpdate[I any](validate func(obj, old *I) field.ErrorList, subresource ...string) func(obj, old resource.Object) field.ErrorList {
	return func(obj, old resource.Object) field.ErrorList {
		declared := scheme.Scheme.ValidateUpdate(context.Background(), validationOptions, obj, old, subresource...)
		return joinErrors(validate(scheme.Internal[I](obj), scheme.Internal[I](old)), declared)
	}
}

// validationOptions are the feature gates that declarative validation asks for, with
// Kubernetes' defaults.
var validationOptions = map[string]bool{
	"InPlacePodVerticalScalingSchedulerPreemption": false,
}

// joinErrors keeps one error where a rule is written both by hand and
// declaratively, as kube-apiserver does: the declarative one if it is enforced.
func joinErrors(handwritten, declared field.ErrorList) field.ErrorList {
	ctx := context.Background()
	enforced := validate.FilterEnforcedDeclarativeErrors(ctx, declared, true)
	handwritten = validate.FilterCoveredHandwrittenErrors(ctx, handwritten.MarkFromImperative(), enforced, true)
	return append(handwritten, enforced...)
}
