package apiserver

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/skep-io/skep/controlplane/scheme"
)

// format is one way to write and read objects.
type format struct {
	mediaType       string
	encoder, pretty runtime.Encoder
	decoder, strict runtime.Decoder
	// streams says whether a watch can be written in it.
	streams bool
}

const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

var formats = newFormats()

func newFormats() []*format {
	serializer := func(o json.SerializerOptions) *json.Serializer {
		return json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, o)
	}
	plain := serializer(json.SerializerOptions{})
	yaml := serializer(json.SerializerOptions{Yaml: true})
	proto := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	return []*format{
		{mediaJSON, plain, serializer(json.SerializerOptions{Pretty: true}), plain, serializer(json.SerializerOptions{Strict: true}), true},
		{mediaYAML, yaml, yaml, yaml, serializer(json.SerializerOptions{Yaml: true, Strict: true}), false},
		{mediaProtobuf, proto, proto, proto, proto, true},
	}
}

var jsonFormat, yamlFormat, protobufFormat = formats[0], formats[1], formats[2]

// encode returns obj as a document of its own.
func (f *format) encode(obj runtime.Object) ([]byte, error) {
	var buf bytes.Buffer
	if err := f.encoder.Encode(obj, &buf); err != nil {
		return nil, fmt.Errorf("encode %T as %s: %w", obj, f.mediaType, err)
	}
	return buf.Bytes(), nil
}

// encodeItem returns obj as it stands inside a list: JSON without the final newline, protobuf without the envelope. It is
// also what the watch cache keeps, since a document of its own is made from it by adding a few bytes at its ends.
func (f *format) encodeItem(obj runtime.Object) ([]byte, error) {
	if f == protobufFormat {
		m, ok := obj.(interface{ Marshal() ([]byte, error) })
		if !ok {
			return nil, fmt.Errorf("encode %T as %s: the type has no such form", obj, f.mediaType)
		}
		return m.Marshal()
	}
	data, err := f.encode(obj)
	return bytes.TrimSuffix(data, []byte("\n")), err
}

// protobufMagic begins every document in Kubernetes' protobuf envelope.
var protobufMagic = []byte("k8s\x00")

// protobufEnvelope returns the bytes that make a document when size bytes of an object's message follow them.
func protobufEnvelope(gvk schema.GroupVersionKind, size int) []byte {
	apiVersion, kind := gvk.ToAPIVersionAndKind()
	var meta []byte
	meta = appendBytes(meta, 1, []byte(apiVersion))
	meta = appendBytes(meta, 2, []byte(kind))
	out := append([]byte(nil), protobufMagic...)
	out = appendBytes(out, 1, meta)
	return appendHeader(out, 2, size)
}

// protobufTrailer ends a document: the fields contentEncoding and contentType, both empty.
var protobufTrailer = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

// appendHeader appends the tag and the length of a length-delimited protobuf field.
func appendHeader(out []byte, field, size int) []byte {
	return binary.AppendUvarint(append(out, byte(field<<3|2)), uint64(size))
}

func appendBytes(out []byte, field int, value []byte) []byte {
	return append(appendHeader(out, field, len(value)), value...)
}
