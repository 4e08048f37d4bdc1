package storage

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// Scheme knows the storage version of every type that Skep stores.
var Scheme = newScheme()

// encryptedPrefix begins every value that kube-apiserver's transformers have encrypted.
var encryptedPrefix = []byte("k8s:enc:")

var serializer = protobuf.NewSerializer(Scheme, Scheme)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, discoveryv1.AddToScheme, coordinationv1.AddToScheme, networkingv1.AddToScheme,
	} {
		utilruntime.Must(add(s))
	}
	return s
}

// Encode is the form in which an object is stored: protobuf in Kubernetes'
// envelope. The resource version is left out, since the key's revision is it.
// The object itself is not changed.
func Encode(obj runtime.Object) ([]byte, error) {
	gvks, _, err := Scheme.ObjectKinds(obj)
	if err != nil {
		return nil, fmt.Errorf("encode for storage: %w", err)
	}
	// Metadata is part of the struct, so that a shallow copy is enough to clear it there alone.
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
	if err := serializer.Encode(stored, &buf); err != nil {
		return nil, fmt.Errorf("encode %s for storage: %w", gvks[0].Kind, err)
	}
	return buf.Bytes(), nil
}

// Decode reads a stored value. The object carries its kind, and as its resource
// version the revision at which its key last changed.
func Decode(data []byte, modRevision int64) (runtime.Object, error) {
	obj, _, err := serializer.Decode(data, nil, nil)
	if err != nil && bytes.HasPrefix(data, encryptedPrefix) {
		return nil, fmt.Errorf("object not decodable revision=%d: it is encrypted: give the --encryption-provider-config that it was written with", modRevision)
	}
	if err != nil {
		return nil, fmt.Errorf("object not decodable revision=%d: %w", modRevision, err)
	}
	stored, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("object not decodable revision=%d: %T has no metadata", modRevision, obj)
	}
	stored.SetResourceVersion(strconv.FormatInt(modRevision, 10))
	return obj, nil
}
