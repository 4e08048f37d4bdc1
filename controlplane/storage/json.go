package storage

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
)

// JSON stores unstructured objects as JSON, as kube-apiserver stores custom resources.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Encode(obj runtime.Object) ([]byte, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok || u.GetKind() == "" || u.GetAPIVersion() == "" {
		return nil, fmt.Errorf("encode for storage: %T is no unstructured object with a kind and a version", obj)
	}
	stored := maps.Clone(u.Object)
	if metadata, ok := stored["metadata"].(map[string]any); ok {
		metadata = maps.Clone(metadata)
		delete(metadata, "resourceVersion")
		delete(metadata, "selfLink")
		stored["metadata"] = metadata
	}
	data, err := json.Marshal(stored)
	if err != nil {
		return nil, fmt.Errorf("encode %s for storage: %w", u.GetKind(), err)
	}
	return append(data, '\n'), nil
}

func (jsonCodec) Decode(data []byte, modRevision int64) (runtime.Object, error) {
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		return nil, notDecodable(data, modRevision, err)
	}
	u.SetResourceVersion(strconv.FormatInt(modRevision, 10))
	return u, nil
}
