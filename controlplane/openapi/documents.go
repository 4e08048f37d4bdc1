package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/openapiconv"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skep-io/skep/controlplane/resource"
)

// document is made when it is first asked for, and kept compressed after that:
// most clusters serve it a few times a day, and it is large.
type document struct {
	build func() ([]byte, error)

	once   sync.Once
	packed []byte
	hash   string
	err    error
}

func (d *document) load() error {
	d.once.Do(func() {
		var data []byte
		if data, d.err = d.build(); d.err != nil {
			return
		}
		d.hash = fmt.Sprintf("%X", sha512.Sum512(data))
		var buffer bytes.Buffer
		w := gzip.NewWriter(&buffer)
		if _, d.err = w.Write(data); d.err == nil {
			d.err = w.Close()
		}
		d.packed = bytes.Clone(buffer.Bytes())
	})
	return d.err
}

func (d *document) bytes() ([]byte, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(d.packed))
	if err != nil {
		return nil, fmt.Errorf("unpack an OpenAPI document: %w", err)
	}
	return io.ReadAll(r)
}

// Documents describe a set of kinds. Each is made when it is first asked for.
type Documents struct {
	v2, v2Proto *document
	v3          map[schema.GroupVersion]*versionDocuments
}

// New describes kinds.
func New(served []*resource.Kind) *Documents {
	var kinds []*resource.Kind
	for _, k := range served {
		kinds = append(kinds, k.AllVersions()...)
	}
	d := &Documents{v3: map[schema.GroupVersion]*versionDocuments{}}
	d.v2 = &document{build: func() ([]byte, error) { return json.Marshal(swagger(kinds, newDefinitions())) }}
	d.v2Proto = &document{build: func() ([]byte, error) {
		data, err := d.v2.bytes()
		if err != nil {
			return nil, err
		}
		parsed, err := openapi_v2.ParseDocument(data)
		if err != nil {
			return nil, fmt.Errorf("OpenAPI v2 document: %w", err)
		}
		return proto.Marshal(parsed)
	}}
	byVersion := map[schema.GroupVersion][]*resource.Kind{}
	for _, kind := range kinds {
		gv := kind.GVK.GroupVersion()
		byVersion[gv] = append(byVersion[gv], kind)
	}
	for gv, kinds := range byVersion {
		d.v3[gv] = newVersionDocuments(kinds)
	}
	return d
}

// versionDocuments is the document of one group version in its two forms.
type versionDocuments struct{ json, proto *document }

func newVersionDocuments(kinds []*resource.Kind) *versionDocuments {
	docs := &versionDocuments{json: &document{build: func() ([]byte, error) { return json.Marshal(openAPIv3(kinds)) }}}
	docs.proto = &document{build: func() ([]byte, error) {
		data, err := docs.json.bytes()
		if err != nil {
			return nil, err
		}
		parsed, err := openapi_v3.ParseDocument(data)
		if err != nil {
			return nil, fmt.Errorf("OpenAPI v3 document: %w", err)
		}
		return proto.Marshal(parsed)
	}}
	return docs
}

// V2 is the OpenAPI v2 document of everything, as JSON.
func (d *Documents) V2() ([]byte, error) { return d.v2.bytes() }

// V2Proto is the same in the form application/com.github.proto-openapi.spec.v2@v1.0+protobuf.
func (d *Documents) V2Proto() ([]byte, error) { return d.v2Proto.bytes() }

// NotServedError says that a group version has no document because it is not served.
type NotServedError struct{ GroupVersion schema.GroupVersion }

func (e *NotServedError) Error() string {
	return fmt.Sprintf("group version %q is not served", e.GroupVersion)
}

// V3 is the OpenAPI v3 document of a group version, as JSON.
func (d *Documents) V3(group, version string) ([]byte, error) {
	docs, err := d.find(group, version)
	if err != nil {
		return nil, err
	}
	return docs.json.bytes()
}

// V3Proto is the same in the form application/com.github.proto-openapi.spec.v3@v1.0+protobuf.
func (d *Documents) V3Proto(group, version string) ([]byte, error) {
	docs, err := d.find(group, version)
	if err != nil {
		return nil, err
	}
	return docs.proto.bytes()
}

// V3Hash changes with the document: a response to a request that names it may
// be cached for ever.
func (d *Documents) V3Hash(group, version string) (string, error) {
	docs, err := d.find(group, version)
	if err != nil {
		return "", err
	}
	if err := docs.json.load(); err != nil {
		return "", err
	}
	return docs.json.hash, nil
}

func (d *Documents) find(group, version string) (*versionDocuments, error) {
	gv := schema.GroupVersion{Group: group, Version: version}
	docs, ok := d.v3[gv]
	if !ok {
		return nil, &NotServedError{gv}
	}
	return docs, nil
}

// V3Index lists the documents of all group versions, as JSON, each with its hash.
func (d *Documents) V3Index() ([]byte, error) {
	type entry struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	index := struct {
		Paths map[string]entry `json:"paths"`
	}{map[string]entry{}}
	for gv, docs := range d.v3 {
		if err := docs.json.load(); err != nil {
			return nil, err
		}
		path := "api/" + gv.Version
		if gv.Group != "" {
			path = "apis/" + gv.String()
		}
		index.Paths[path] = entry{"/openapi/v3/" + path + "?hash=" + docs.json.hash}
	}
	return json.Marshal(index)
}

// swagger describes kinds in OpenAPI v2.
func swagger(kinds []*resource.Kind, defs *definitions) *spec.Swagger {
	b := &pathBuilder{defs: defs, paths: map[string]spec.PathItem{}}
	type kindMark struct {
		model string
		gvk   schema.GroupVersionKind
	}
	kindsOf, marked := map[string][]any{}, map[kindMark]bool{}
	mark := func(obj any, gvk schema.GroupVersionKind) {
		name, _ := nameOf(obj, gvk)
		if !marked[kindMark{name, gvk}] {
			marked[kindMark{name, gvk}] = true
			kindsOf[name] = append(kindsOf[name], gvkMap(gvk))
		}
	}
	for _, kind := range kinds {
		b.addKind(kind)
		mark(kind.New(), kind.GVK)
		if !kind.Unstructured {
			mark(kind.NewList(), kind.GVK.GroupVersion().WithKind(kind.GVK.Kind+"List"))
		}
		mark(&metav1.DeleteOptions{}, kind.GVK.GroupVersion().WithKind("DeleteOptions"))
		for _, sub := range kind.AllSubresources() {
			if sub.GVK != kind.GVK && sub.Options == nil {
				mark(sub.New(), sub.GVK)
			}
		}
	}
	mark(&metav1.Status{}, schema.GroupVersionKind{Version: "v1", Kind: "Status"})
	for name, gvks := range kindsOf {
		definition := defs.schemas[name]
		definition.AddExtension(extensionGVK, gvks)
		defs.schemas[name] = definition
	}
	return &spec.Swagger{SwaggerProps: spec.SwaggerProps{
		Swagger:     "2.0",
		Info:        &spec.Info{InfoProps: spec.InfoProps{Title: "Skep", Version: "unversioned"}},
		Paths:       &spec.Paths{Paths: b.paths},
		Definitions: defs.schemas,
	}}
}

// openAPIv3 describes kinds in OpenAPI v3: as in v2, with the values that may be of
// several types.
func openAPIv3(kinds []*resource.Kind) *spec3.OpenAPI {
	defs := newDefinitions()
	out := openapiconv.ConvertV2ToV3(swagger(kinds, defs))
	out.Version = "3.0.0"
	for name, types := range defs.oneOf {
		schema := out.Components.Schemas[name]
		schema.Type = nil
		for _, t := range types {
			schema.OneOf = append(schema.OneOf, spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{t}}})
		}
	}
	return out
}
