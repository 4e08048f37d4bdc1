package openapi

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/controlplane/resource"
)

// nameOf is the name of a request's or response's body: that of its type, or of its kind where it has no type of its own.
func nameOf(obj any, gvk schema.GroupVersionKind) (string, bool) {
	switch obj.(type) {
	case *unstructured.Unstructured:
		return unstructuredName(gvk), true
	case *unstructured.UnstructuredList:
		return unstructuredName(gvk) + "List", true
	}
	return modelName(reflect.TypeOf(obj).Elem())
}

// unstructuredName is built as kube-apiserver names custom resources: com.example.v1.Widget.
func unstructuredName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(append(parts, gvk.Version, gvk.Kind), ".")
}

// form is the schema of a request's or response's body.
func (b *pathBuilder) form(obj any, gvk schema.GroupVersionKind) spec.Schema {
	switch obj.(type) {
	case *unstructured.Unstructured, *unstructured.UnstructuredList:
		name, _ := nameOf(obj, gvk)
		return reference(name)
	}
	return b.defs.of(reflect.TypeOf(obj))
}

func reference(name string) spec.Schema {
	return spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(definitionPrefix + name)}}
}

// defineUnstructured defines a kind by the schema that it gives, with the fields that every object has, and its list.
func (d *definitions) defineUnstructured(k *resource.Kind) {
	schema := object("")
	if k.Schema == nil {
		schema.AddExtension("x-kubernetes-preserve-unknown-fields", true)
	} else {
		schema = *k.Schema
	}
	types := metav1.TypeMeta{}.SwaggerDoc()
	property := func(s spec.Schema, description string) spec.Schema {
		s.Description = description
		return s
	}
	envelope := func(metadata reflect.Type) map[string]spec.Schema {
		return map[string]spec.Schema{
			"apiVersion": property(scalar("string", ""), types["apiVersion"]),
			"kind":       property(scalar("string", ""), types["kind"]),
			"metadata":   property(d.of(metadata), "Standard object's metadata. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#metadata"),
		}
	}
	properties := maps.Clone(schema.Properties)
	if properties == nil {
		properties = map[string]spec.Schema{}
	}
	maps.Copy(properties, envelope(reflect.TypeFor[metav1.ObjectMeta]()))
	schema.Properties = properties
	name := unstructuredName(k.GVK)
	d.schemas[name] = schema

	list := object(k.GVK.Kind + "List is a list of " + k.GVK.Kind)
	list.Properties = envelope(reflect.TypeFor[metav1.ListMeta]())
	item := reference(name)
	list.Properties["items"] = spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"array"}, Items: &spec.SchemaOrArray{Schema: &item}}}
	list.Required = []string{"items"}
	d.schemas[name+"List"] = list
}
