package openapi

import (
	"fmt"
	"net/http"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/controlplane/resource"
)

const protobuf = "application/vnd.kubernetes.protobuf"

var (
	anyContent   = []string{"*/*"}
	objectForms  = []string{"application/json", "application/yaml", protobuf}
	listForms    = append(slices.Clone(objectForms), "application/json;stream=watch", protobuf+";stream=watch")
	patchContent = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}
)

// operation is one thing that can be done at one path.
type operation struct {
	method, action string
	gvk            schema.GroupVersionKind
	summary        string
	parameters     []spec.Parameter
	body, answer   any // nil: none
	consumes       []string
	produces       []string
	created        bool
}

// pathBuilder collects the paths of one document.
type pathBuilder struct {
	defs  *definitions
	paths map[string]spec.PathItem
}

// addKind adds every path of a kind.
func (b *pathBuilder) addKind(k *resource.Kind) {
	if k.Unstructured {
		b.defs.defineUnstructured(k)
	}
	gv := "/api/" + k.GVK.Version
	if k.GVK.Group != "" {
		gv = "/apis/" + k.GVK.Group + "/" + k.GVK.Version
	}
	collection := gv + "/" + k.Resource
	var scope []spec.Parameter
	if k.Namespaced {
		b.add(collection, scope, b.list(k, "list or watch objects of kind "+k.GVK.Kind+" in all namespaces"))
		collection = gv + "/namespaces/{namespace}/" + k.Resource
		scope = []spec.Parameter{pathParameter("namespace", "object name and auth scope, such as for teams and projects")}
	}
	b.add(collection, scope, b.collectionOperations(k)...)
	one := append(slices.Clone(scope), pathParameter("name", "name of the "+k.GVK.Kind))
	b.add(collection+"/{name}", one, b.objectOperations(k)...)
	for _, sub := range k.AllSubresources() {
		path := collection + "/{name}/" + sub.Name
		b.add(path, one, b.subresourceOperations(k, sub)...)
		if sub.Path {
			below := append(slices.Clone(one), pathParameter("path", "path to the resource"))
			b.add(path+"/{path}", below, b.subresourceOperations(k, sub)...)
		}
	}
}

func (b *pathBuilder) collectionOperations(k *resource.Kind) []operation {
	var ops []operation
	if slices.Contains(k.Verbs, "list") {
		ops = append(ops, b.list(k, "list or watch objects of kind "+k.GVK.Kind))
	}
	if slices.Contains(k.Verbs, "create") {
		ops = append(ops, operation{method: http.MethodPost, action: "post", gvk: k.GVK, summary: "create a " + k.GVK.Kind,
			parameters: writeParameters(), body: k.New(), answer: k.New(), consumes: anyContent, produces: objectForms, created: true})
	}
	if slices.Contains(k.Verbs, "deletecollection") {
		ops = append(ops, operation{method: http.MethodDelete, action: "deletecollection", gvk: k.GVK,
			summary:    "delete collection of " + k.GVK.Kind,
			parameters: append(listParameters(), deleteParameters()...), body: &metav1.DeleteOptions{}, answer: &metav1.Status{},
			consumes: anyContent, produces: objectForms})
	}
	return ops
}

func (b *pathBuilder) list(k *resource.Kind, summary string) operation {
	return operation{method: http.MethodGet, action: "list", gvk: k.GVK, summary: summary, parameters: listParameters(),
		answer: k.NewList(), consumes: anyContent, produces: listForms}
}

func (b *pathBuilder) objectOperations(k *resource.Kind) []operation {
	ops := partOperations(k.Verbs, k.GVK, k.New(), "the specified "+k.GVK.Kind)
	if slices.Contains(k.Verbs, "delete") {
		ops = append(ops, operation{method: http.MethodDelete, action: "delete", gvk: k.GVK, summary: "delete a " + k.GVK.Kind,
			parameters: deleteParameters(), body: &metav1.DeleteOptions{}, answer: &metav1.Status{}, consumes: anyContent, produces: objectForms})
	}
	return ops
}

// subresourceOperations are what can be done with a subresource of an object.
func (b *pathBuilder) subresourceOperations(k *resource.Kind, sub resource.Subresource) []operation {
	switch {
	case sub.Update != nil || sub.Scale != nil:
		return partOperations(sub.Verbs, sub.GVK, sub.New(), sub.Name+" of the specified "+k.GVK.Kind)
	case sub.Options == nil:
		return []operation{{method: http.MethodPost, action: "post", gvk: sub.GVK, summary: "create " + sub.Name + " of a " + k.GVK.Kind,
			parameters: writeParameters(), body: sub.New(), answer: sub.New(), consumes: anyContent, produces: objectForms, created: true}}
	}
	what, summary := "connect", "connect %s requests to "+sub.Name+" of "+k.GVK.Kind
	if !slices.Contains(sub.Verbs, "create") {
		what, summary = "get", "read "+sub.Name+" of the specified "+k.GVK.Kind
	}
	var ops []operation
	for _, verb := range sub.Verbs {
		method := methods[verb]
		ops = append(ops, operation{method: method, action: what, gvk: sub.GVK, summary: strings.Replace(summary, "%s", method, 1),
			parameters: optionParameters(sub.Options()), consumes: anyContent, produces: []string{sub.MediaType}})
	}
	return ops
}

// methods are the HTTP methods of verbs on one object.
var methods = map[string]string{
	"create": http.MethodPost, "delete": http.MethodDelete, "get": http.MethodGet, "patch": http.MethodPatch, "update": http.MethodPut,
}

// partOperations are get, replace and patch of an object, or of a part of it.
func partOperations(verbs []string, gvk schema.GroupVersionKind, form any, what string) []operation {
	var ops []operation
	if slices.Contains(verbs, "get") {
		ops = append(ops, operation{method: http.MethodGet, action: "get", gvk: gvk, summary: "read " + what, answer: form, consumes: anyContent, produces: objectForms})
	}
	if slices.Contains(verbs, "update") {
		ops = append(ops, operation{method: http.MethodPut, action: "put", gvk: gvk, summary: "replace " + what, parameters: writeParameters(),
			body: form, answer: form, consumes: anyContent, produces: objectForms, created: true})
	}
	if slices.Contains(verbs, "patch") {
		ops = append(ops, operation{method: http.MethodPatch, action: "patch", gvk: gvk, summary: "partially update " + what,
			parameters: append(writeParameters(), queryParameter("force", "boolean", "Force applies a patch even where another manager owns a field.")),
			body:       &metav1.Patch{}, answer: form, consumes: patchesOf(form), produces: objectForms, created: true})
	}
	return ops
}

// patchesOf are the patches that a form can have: strategic ones go by a Go type's tags.
func patchesOf(form any) []string {
	if _, ok := form.(runtime.Unstructured); ok {
		return patchContent[:2]
	}
	return patchContent
}

func (b *pathBuilder) add(path string, scope []spec.Parameter, ops ...operation) {
	item := b.paths[path]
	item.Parameters = append(slices.Clone(scope), queryParameter("pretty", "string", "If 'true', then the output is pretty printed."))
	for _, op := range ops {
		described := b.describe(path, op)
		switch op.method {
		case http.MethodGet:
			item.Get = described
		case http.MethodPost:
			item.Post = described
		case http.MethodPut:
			item.Put = described
		case http.MethodPatch:
			item.Patch = described
		case http.MethodDelete:
			item.Delete = described
		}
	}
	b.paths[path] = item
}

func (b *pathBuilder) describe(path string, op operation) *spec.Operation {
	out := &spec.Operation{OperationProps: spec.OperationProps{
		ID:          operationID(op.method, path),
		Description: op.summary,
		Tags:        []string{tag(path)},
		Consumes:    op.consumes,
		Produces:    op.produces,
		Schemes:     []string{"https"},
		Parameters:  op.parameters,
		Responses:   &spec.Responses{ResponsesProps: spec.ResponsesProps{StatusCodeResponses: map[int]spec.Response{}}},
	}}
	if op.body != nil {
		form := b.form(op.body, op.gvk)
		body := spec.Parameter{ParamProps: spec.ParamProps{Name: "body", In: "body", Schema: &form,
			Required: op.method != http.MethodDelete}}
		out.Parameters = append([]spec.Parameter{body}, out.Parameters...)
	}
	answer := spec.Response{ResponseProps: spec.ResponseProps{Description: "OK"}}
	if op.answer != nil {
		form := b.form(op.answer, op.gvk)
		answer.Schema = &form
	} else {
		text := scalar("string", "")
		answer.Schema = &text
	}
	out.Responses.StatusCodeResponses[http.StatusOK] = answer
	if op.created {
		answer.Description = "Created"
		out.Responses.StatusCodeResponses[http.StatusCreated] = answer
	}
	out.Responses.StatusCodeResponses[http.StatusUnauthorized] = spec.Response{ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}
	out.AddExtension(extensionAction, op.action)
	out.AddExtension(extensionGVK, gvkMap(op.gvk))
	return out
}

func gvkMap(gvk schema.GroupVersionKind) map[string]any {
	return map[string]any{"group": gvk.Group, "version": gvk.Version, "kind": gvk.Kind}
}

// operationID is unique among operations, as generators of clients need it.
func operationID(method, path string) string {
	var id strings.Builder
	id.WriteString(strings.ToLower(method))
	for _, part := range strings.Split(path, "/") {
		part = strings.Trim(part, "{}")
		if part != "" {
			id.WriteString(strings.ToUpper(part[:1]) + strings.NewReplacer(".", "").Replace(part[1:]))
		}
	}
	return id.String()
}

// tag groups operations by group version, as in core_v1.
func tag(path string) string {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if parts[0] == "api" {
		return "core_" + parts[1]
	}
	group, _, _ := strings.Cut(parts[1], ".")
	return fmt.Sprintf("%s_%s", group, parts[2])
}
