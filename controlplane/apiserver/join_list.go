package apiserver

import (
	"encoding/json"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// joinList returns the chunks of a list document made of its items' cached bytes. Every list type of Kubernetes has its
// metadata in field 1 and its items in field 2.
func (f *format) joinList(k *resource.Kind, listMeta metav1.ListMeta, objects []*watchcache.Object) ([][]byte, error) {
	items := make([][]byte, len(objects))
	for i, obj := range objects {
		var err error
		if items[i], err = k.Encoded(obj, f.mediaType, f.encodeItem); err != nil {
			return nil, err
		}
	}
	kind := k.GVK
	kind.Kind += "List"
	if f == protobufFormat {
		return joinProtobuf(kind, listMeta, items)
	}
	return joinJSON(kind, listMeta, items)
}

func joinJSON(kind schema.GroupVersionKind, listMeta metav1.ListMeta, items [][]byte) ([][]byte, error) {
	apiVersion, name := kind.ToAPIVersionAndKind()
	head, err := json.Marshal(struct {
		Kind       string          `json:"kind"`
		APIVersion string          `json:"apiVersion"`
		Metadata   metav1.ListMeta `json:"metadata"`
	}{name, apiVersion, listMeta})
	if err != nil {
		return nil, err
	}
	chunks := make([][]byte, 0, 2*len(items)+2)
	chunks = append(chunks, append(head[:len(head)-1], `,"items":[`...))
	comma := []byte(",")
	for i, item := range items {
		if i > 0 {
			chunks = append(chunks, comma)
		}
		chunks = append(chunks, item)
	}
	return append(chunks, []byte("]}\n")), nil
}

func joinProtobuf(kind schema.GroupVersionKind, listMeta metav1.ListMeta, items [][]byte) ([][]byte, error) {
	encodedMeta, err := listMeta.Marshal()
	if err != nil {
		return nil, err
	}
	body := make([][]byte, 0, 2*len(items)+2)
	head := appendBytes(nil, 1, encodedMeta)
	size := len(head)
	body = append(body, head)
	for _, item := range items {
		header := appendHeader(make([]byte, 0, 6), 2, len(item))
		body = append(body, header, item)
		size += len(header) + len(item)
	}
	chunks := append([][]byte{protobufEnvelope(kind, size)}, body...)
	return append(chunks, protobufTrailer), nil
}
