package openapi

import (
	"reflect"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

func pathParameter(name, description string) spec.Parameter {
	p := parameter("path", name, "string", description)
	p.Required = true
	return p
}

func queryParameter(name, kind, description string) spec.Parameter {
	return parameter("query", name, kind, description)
}

func parameter(in, name, kind, description string) spec.Parameter {
	return spec.Parameter{
		ParamProps:        spec.ParamProps{Name: name, In: in, Description: description},
		SimpleSchema:      spec.SimpleSchema{Type: kind},
		CommonValidations: spec.CommonValidations{UniqueItems: true},
	}
}

// writeParameters are those of create, update and patch.
func writeParameters() []spec.Parameter {
	return pickParameters(&metav1.UpdateOptions{}, "dryRun", "fieldManager", "fieldValidation")
}

func listParameters() []spec.Parameter {
	return pickParameters(&metav1.ListOptions{}, "allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit",
		"resourceVersion", "resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch")
}

func deleteParameters() []spec.Parameter {
	return pickParameters(&metav1.DeleteOptions{}, "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
}

// optionParameters makes a query parameter of every field of an options type.
func optionParameters(options any) []spec.Parameter { return pickParameters(options) }

// pickParameters makes query parameters of the fields that are named, or of all.
// Lists are given by repeating the parameter.
func pickParameters(options any, names ...string) []spec.Parameter {
	docs := map[string]string{}
	if d, ok := options.(described); ok {
		docs = d.SwaggerDoc()
	}
	wanted := map[string]bool{}
	for _, name := range names {
		wanted[name] = true
	}
	var out []spec.Parameter
	t := reflect.TypeOf(options).Elem()
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name == "" || len(names) > 0 && !wanted[name] {
			continue
		}
		kind := t.Field(i).Type
		for kind.Kind() == reflect.Pointer || kind.Kind() == reflect.Slice {
			kind = kind.Elem()
		}
		out = append(out, queryParameter(name, queryType(kind), docs[name]))
	}
	return out
}

func queryType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "integer"
	}
	return "string"
}
