// Package watchcache keeps the objects of one kind in memory, as etcd has them:
// one etcd watch, every change decoded once, and encoded once per content type
// however many read it. It owns the window of past events from which a watch
// can resume. It never writes to etcd, and has no rules of kinds.
package watchcache

import (
	"reflect"
	"strconv"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Resource is an API object: a type of the API with its metadata.
type Resource interface {
	runtime.Object
	metav1.Object
}

// Object is one state of one object. All who read the cache share it, and
// neither it nor its Value may be changed: DeepCopy first.
type Object struct {
	// Key is the storage key.
	Key string
	// Revision is the etcd revision that made this state; it is the value's resourceVersion too.
	Revision int64

	value Resource
	// size is that of the value as etcd stores it; 0 for a state that shares its value with another one.
	size int

	mu      sync.Mutex
	encoded []encoding
}

type encoding struct {
	contentType string
	data        []byte
}

// NewObject wraps a value whose resourceVersion is revision. The value must not change any more.
func NewObject(key string, revision int64, value Resource) *Object {
	return &Object{Key: key, Revision: revision, value: value}
}

// Value is the object itself; it is shared and must not be changed.
func (o *Object) Value() Resource { return o.value }

// Encoded returns the value as encode writes it, and keeps that for the next
// caller with the same content type. The bytes are shared and must not be changed.
func (o *Object) Encoded(contentType string, encode func(runtime.Object) ([]byte, error)) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.encoded {
		if e.contentType == contentType {
			return e.data, nil
		}
	}
	data, err := encode(o.value)
	if err != nil {
		return nil, err
	}
	o.encoded = append(o.encoded, encoding{contentType, data})
	return data, nil
}

// at is the same state under another revision, as a deletion shows it.
func (o *Object) at(revision int64) *Object {
	if _, ok := o.value.(runtime.Unstructured); ok {
		value := o.value.DeepCopyObject().(Resource)
		value.SetResourceVersion(strconv.FormatInt(revision, 10))
		return NewObject(o.Key, revision, value)
	}
	// Metadata is part of the struct, so a shallow copy keeps the shared value as it is.
	v := reflect.New(reflect.TypeOf(o.value).Elem())
	v.Elem().Set(reflect.ValueOf(o.value).Elem())
	value := v.Interface().(Resource)
	value.SetResourceVersion(strconv.FormatInt(revision, 10))
	return NewObject(o.Key, revision, value)
}
