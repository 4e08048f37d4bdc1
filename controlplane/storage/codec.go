package storage

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// encryptedPrefix is the prefix of every value that kube-apiserver's transformers have encrypted.
var encryptedPrefix = []byte("k8s:enc:")

// Codec is the form in which objects are stored.
type Codec interface {
	// Encode omits the resource version, which is the key's revision. The object itself is not changed.
	Encode(obj runtime.Object) ([]byte, error)
	// Decode reads a stored value. The object carries its kind, and as its resource
	// version the revision at which its key last changed.
	Decode(data []byte, modRevision int64) (runtime.Object, error)
}

// protobufCodec is protobuf in Kubernetes' envelope.
type protobufCodec struct {
	types      runtime.ObjectTyper
	serializer *protobuf.Serializer
}

// NewProtobuf stores objects of the v1 types that a scheme knows, as kube-apiserver does.
func NewProtobuf(s *runtime.Scheme) Codec {
	return &protobufCodec{types: s, serializer: protobuf.NewSerializer(s, s)}
}

func (c *protobufCodec) Encode(obj runtime.Object) ([]byte, error) {
	gvks, _, err := c.types.ObjectKinds(obj)
	if err != nil {
		return nil, fmt.Errorf("encode for storage: %w", err)
	}
	// Metadata is part of the struct, so that clearing it in a shallow copy does not change the object.
	v := reflect.New(reflect.TypeOf(obj).Elem())
	v.Elem().Set(reflect.ValueOf(obj).Elem())
	stored, ok := v.Interface().(interface {
		runtime.Object
		metav1.Object
	})
	if !ok {
		return nil, fmt.Errorf("encode for storage: %T has no metadata", obj)
	}
	stored.SetResourceVersion("")
	stored.SetSelfLink("")
	stored.GetObjectKind().SetGroupVersionKind(gvks[0])
	var buf bytes.Buffer
	if err := c.serializer.Encode(stored, &buf); err != nil {
		return nil, fmt.Errorf("encode %s for storage: %w", gvks[0].Kind, err)
	}
	return buf.Bytes(), nil
}

func (c *protobufCodec) Decode(data []byte, modRevision int64) (runtime.Object, error) {
	obj, _, err := c.serializer.Decode(data, nil, nil)
	if err != nil {
		return nil, notDecodable(data, modRevision, err)
	}
	stored, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("object not decodable revision=%d: %T has no metadata", modRevision, obj)
	}
	stored.SetResourceVersion(strconv.FormatInt(modRevision, 10))
	return obj, nil
}

func notDecodable(data []byte, modRevision int64, err error) error {
	if bytes.HasPrefix(data, encryptedPrefix) {
		return fmt.Errorf("object not decodable revision=%d: it is encrypted: give the --encryption-provider-config that it was written with", modRevision)
	}
	return fmt.Errorf("object not decodable revision=%d: %w", modRevision, err)
}
