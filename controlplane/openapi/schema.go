package openapi

import (
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

const (
	definitionPrefix = "#/definitions/"

	extensionGVK           = "x-kubernetes-group-version-kind"
	extensionAction        = "x-kubernetes-action"
	extensionPatchStrategy = "x-kubernetes-patch-strategy"
	extensionPatchMergeKey = "x-kubernetes-patch-merge-key"
	extensionListType      = "x-kubernetes-list-type"
	extensionListMapKeys   = "x-kubernetes-list-map-keys"
)

// Methods by which types of k8s.io describe what reflection cannot see.
type (
	named     interface{ OpenAPIModelName() string }
	described interface{ SwaggerDoc() map[string]string }
	typed     interface {
		OpenAPISchemaType() []string
		OpenAPISchemaFormat() string
	}
	oneOf interface{ OpenAPIV3OneOfTypes() []string }
)

// opaque are structs whose JSON form does not follow from their fields.
var opaque = map[reflect.Type]spec.Schema{
	reflect.TypeFor[metav1.FieldsV1](): object("FieldsV1 stores a set of fields in a data structure like a Trie, in JSON format."),
	reflect.TypeFor[runtime.RawExtension](): object(
		"RawExtension holds an object of a kind that is known only when it is read."),
	reflect.TypeFor[resource.Quantity](): {SchemaProps: spec.SchemaProps{
		Description: "Quantity is a number with a suffix: a decimal one (m, k, M, G, T, P, E), a binary one (Ki, Mi, Gi, Ti, Pi, Ei) or an exponent (e3).",
		Type:        []string{"string"},
	}},
	reflect.TypeFor[intstr.IntOrString](): {SchemaProps: spec.SchemaProps{
		Description: "IntOrString is a number or a string.", Type: []string{"string"}, Format: "int-or-string",
	}},
}

func object(description string) spec.Schema {
	return spec.Schema{SchemaProps: spec.SchemaProps{Description: description, Type: []string{"object"}}}
}

// mergedByMoreThanTheirKey are lists, by their elements' type, whose elements
// differ in more fields than the one that strategic merge uses as the key.
var mergedByMoreThanTheirKey = map[string][]string{
	"io.k8s.api.core.v1.ContainerPort":            {"containerPort", "protocol"},
	"io.k8s.api.core.v1.ServicePort":              {"port", "protocol"},
	"io.k8s.api.core.v1.TopologySpreadConstraint": {"topologyKey", "whenUnsatisfiable"},
}

// definitions collects the schemas of types, and of all types that they refer to.
type definitions struct {
	schemas spec.Definitions
	// oneOf are the definitions that OpenAPI 3 can say more exactly than 2.
	oneOf map[string][]string
}

func newDefinitions() *definitions {
	return &definitions{schemas: spec.Definitions{}, oneOf: map[string][]string{}}
}

// of is the schema of a type: a reference, if the type has a name in the documents.
func (d *definitions) of(t reflect.Type) spec.Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if name, ok := modelName(t); ok {
		d.define(name, t)
		return spec.Schema{SchemaProps: spec.SchemaProps{Ref: spec.MustCreateRef(definitionPrefix + name)}}
	}
	switch t.Kind() {
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return scalar("string", "byte")
		}
		items := d.of(t.Elem())
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"array"}, Items: &spec.SchemaOrArray{Schema: &items}}}
	case reflect.Map:
		values := d.of(t.Elem())
		return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"},
			AdditionalProperties: &spec.SchemaOrBool{Allows: true, Schema: &values}}}
	case reflect.String:
		return scalar("string", "")
	case reflect.Bool:
		return scalar("boolean", "")
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint8, reflect.Uint16:
		return scalar("integer", "int32")
	case reflect.Int, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64:
		return scalar("integer", "int64")
	case reflect.Float32, reflect.Float64:
		return scalar("number", "double")
	}
	return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
}

func scalar(kind, format string) spec.Schema {
	return spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{kind}, Format: format}}
}

// modelName is the name under which a type is defined. Only structs have one of
// their own: strings and maps are written out where they are used.
func modelName(t reflect.Type) (string, bool) {
	if t.Kind() != reflect.Struct {
		return "", false
	}
	if n, ok := reflect.New(t).Interface().(named); ok {
		return n.OpenAPIModelName(), true
	}
	return "", false
}

// define adds the definition of a struct, once. The name is reserved before the fields
// are visited: types may contain themselves.
func (d *definitions) define(name string, t reflect.Type) {
	if _, ok := d.schemas[name]; ok {
		return
	}
	d.schemas[name] = spec.Schema{}
	value := reflect.New(t).Interface()
	if o, ok := value.(oneOf); ok {
		d.oneOf[name] = o.OpenAPIV3OneOfTypes()
	}
	docs := map[string]string{}
	if s, ok := value.(described); ok {
		docs = s.SwaggerDoc()
	}
	if schema, ok := opaque[t]; ok {
		d.schemas[name] = schema
		return
	}
	if ty, ok := value.(typed); ok {
		schema := scalar(ty.OpenAPISchemaType()[0], ty.OpenAPISchemaFormat())
		schema.Description = docs[""]
		d.schemas[name] = schema
		return
	}
	schema := object(docs[""])
	schema.Properties = map[string]spec.Schema{}
	d.addFields(&schema, t, docs)
	d.schemas[name] = schema
}

// addFields adds the properties of a struct, those of embedded structs among them.
func (d *definitions) addFields(schema *spec.Schema, t reflect.Type, docs map[string]string) {
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" || !field.IsExported() {
			continue
		}
		if name == "" {
			if field.Anonymous {
				embedded := field.Type
				inner := map[string]string{}
				if s, ok := reflect.New(embedded).Interface().(described); ok {
					inner = s.SwaggerDoc()
				}
				d.addFields(schema, embedded, inner)
			}
			continue
		}
		property := d.of(field.Type)
		property.Description = docs[name]
		addMergeRules(&property, field)
		schema.Properties[name] = property
		if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
			schema.Required = append(schema.Required, name)
		}
	}
}

// addMergeRules describes how clients merge a list, from the tags that strategic merge
// itself uses.
func addMergeRules(property *spec.Schema, field reflect.StructField) {
	strategy, key := field.Tag.Get("patchStrategy"), field.Tag.Get("patchMergeKey")
	if strategy != "" {
		property.AddExtension(extensionPatchStrategy, strategy)
	}
	if key != "" {
		property.AddExtension(extensionPatchMergeKey, key)
	}
	isList := field.Type.Kind() == reflect.Slice && field.Type.Elem().Kind() != reflect.Uint8
	if !isList {
		return
	}
	element, _ := modelName(field.Type.Elem())
	switch merges := strings.Contains(strategy, "merge"); {
	case merges && key != "":
		keys := mergedByMoreThanTheirKey[element]
		if keys == nil {
			keys = []string{key}
		}
		property.AddExtension(extensionListType, "map")
		property.AddExtension(extensionListMapKeys, keys)
	case merges:
		property.AddExtension(extensionListType, "set")
	default:
		property.AddExtension(extensionListType, "atomic")
	}
}
