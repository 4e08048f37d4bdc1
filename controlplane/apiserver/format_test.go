package apiserver

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httptest"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
	"k8s.io/apimachinery/pkg/watch"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	restwatch "k8s.io/client-go/rest/watch"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/watchcache"
)

func podObjects(n int) []*watchcache.Object {
	var objects []*watchcache.Object
	for i := range n {
		pod := &corev1.Pod{
			TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i), Namespace: "a", ResourceVersion: fmt.Sprint(i + 1), Labels: map[string]string{"k": "ü\"\n"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1", Command: make([]string, i%300)}}},
		}
		objects = append(objects, watchcache.NewObject("/registry/pods/a/"+pod.Name, int64(i+1), pod))
	}
	return objects
}

// A list assembled from its items' bytes must decode to the same as the list that the codec would have written.
func TestJoinedListsReadAsTypedOnes(t *testing.T) {
	remaining := int64(7)
	for _, n := range []int{0, 1, 2, 500} {
		for _, f := range []*format{jsonFormat, protobufFormat} {
			objects := podObjects(n)
			listMeta := metav1.ListMeta{ResourceVersion: "99", Continue: "next", RemainingItemCount: &remaining}
			chunks, err := f.joinList(kinds.Pods, listMeta, objects)
			if err != nil {
				t.Fatal(err)
			}
			got, _, err := clientscheme.Codecs.UniversalDeserializer().Decode(bytes.Join(chunks, nil), nil, nil)
			if err != nil {
				t.Fatalf("%s, %d items: %v", f.mediaType, n, err)
			}
			want := &corev1.PodList{ListMeta: listMeta, Items: []corev1.Pod{}}
			for _, obj := range objects {
				want.Items = append(want.Items, *obj.Value().(*corev1.Pod))
			}
			list := got.(*corev1.PodList)
			list.TypeMeta = metav1.TypeMeta{}
			for i := range list.Items {
				list.Items[i].TypeMeta = want.Items[i].TypeMeta
			}
			if !equality.Semantic.DeepEqual(list, want) {
				t.Errorf("%s, %d items: the list reads differently:\n%.300v\n%.300v", f.mediaType, n, list, want)
			}
			if n == 0 && f == jsonFormat && !bytes.Contains(bytes.Join(chunks, nil), []byte(`"items":[]`)) {
				t.Error("an empty list has no items field; clients take null for a broken answer")
			}
		}
	}
}

// client-go must be able to read events, in both framings.
func TestEventsReadByClientGo(t *testing.T) {
	objects := podObjects(3)
	for _, f := range []*format{jsonFormat, protobufFormat} {
		var buf []byte
		kinds := []watch.EventType{watch.Added, watch.Modified, watch.Deleted}
		for i, obj := range objects {
			data, err := obj.Encoded(f.mediaType, f.encodeItem)
			if err != nil {
				t.Fatal(err)
			}
			if f == protobufFormat {
				buf = appendProtobufEvent(buf, kinds[i], protobufEnvelope(corev1.SchemeGroupVersion.WithKind("Pod"), len(data)), data)
			} else {
				buf = appendJSONEvent(buf, kinds[i], data)
			}
		}
		info, ok := runtime.SerializerInfoForMediaType(clientscheme.Codecs.SupportedMediaTypes(), f.mediaType)
		if !ok {
			t.Fatal(f.mediaType)
		}
		reader := info.StreamSerializer.Framer.NewFrameReader(io.NopCloser(bytes.NewReader(buf)))
		decoder := restwatch.NewDecoder(streaming.NewDecoder(reader, info.StreamSerializer.Serializer), clientscheme.Codecs.UniversalDeserializer())
		for i, obj := range objects {
			event, got, err := decoder.Decode()
			if err != nil {
				t.Fatalf("%s: event %d: %v", f.mediaType, i, err)
			}
			pod := got.(*corev1.Pod)
			pod.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
			if event != kinds[i] || !equality.Semantic.DeepEqual(pod, obj.Value()) {
				t.Errorf("%s: event %d reads as %s %v", f.mediaType, i, event, pod.Name)
			}
		}
		if _, _, err := decoder.Decode(); err != io.EOF {
			t.Errorf("%s: after the last event: %v, want EOF", f.mediaType, err)
		}
	}
}

func TestNegotiate(t *testing.T) {
	tests := []struct {
		accept         string
		shaped, stream bool
		mediaType      string // "" means 406
		shape          shape
	}{
		{"", true, false, mediaJSON, shapePlain},
		{"*/*", true, false, mediaJSON, shapePlain},
		{"application/*", true, false, mediaJSON, shapePlain},
		{"application/yaml", true, false, mediaYAML, shapePlain},
		{"application/vnd.kubernetes.protobuf,application/json", true, false, mediaProtobuf, shapePlain},
		{"application/json;q=0.5,application/vnd.kubernetes.protobuf", true, false, mediaProtobuf, shapePlain},
		{"application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", true, false, mediaJSON, shapeTable},
		{"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", false, false, mediaJSON, shapePlain},
		{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json", true, false, mediaProtobuf, shapeMetaList},
		{"application/vnd.kubernetes.protobuf;as=Table;g=meta.k8s.io;v=v1", true, false, "", ""},
		{"application/json;as=Chart;g=meta.k8s.io;v=v1", true, false, "", ""},
		{"application/json;as=Table;g=meta.k8s.io;v=v3", true, false, "", ""},
		{"text/html", true, false, "", ""},
		{"text/html, */*;q=0.1", true, false, mediaJSON, shapePlain},
		{"application/yaml", true, true, "", ""},
		{"application/json;stream=watch", true, true, mediaJSON, shapePlain},
		{"application/vnd.kubernetes.protobuf;stream=watch,application/json", true, true, mediaProtobuf, shapePlain},
		{"application/json;stream=other", true, true, "", ""},
		{"rubbish;;;=", true, false, "", ""},
	}
	for _, tt := range tests {
		r := httptest.NewRequest("GET", "/api/v1/pods", nil)
		if tt.accept != "" {
			r.Header.Set("Accept", tt.accept)
		}
		o, err := negotiate(r, r.URL.Query(), tt.shaped, tt.stream)
		if tt.mediaType == "" {
			if err == nil || statusOf(err).Code != 406 {
				t.Errorf("%q: %v, %v; want 406", tt.accept, o.format.mediaType, err)
			}
			continue
		}
		if err != nil || o.format.mediaType != tt.mediaType || o.shape != tt.shape {
			t.Errorf("%q: %v %q %v; want %s %q", tt.accept, o.format, o.shape, err, tt.mediaType, tt.shape)
		}
	}
}

func TestAcceptsGzip(t *testing.T) {
	for header, want := range map[string]bool{"gzip": true, "deflate, gzip;q=0.5": true, "gzip;q=0": false, "br": false, "": false} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Accept-Encoding", header)
		if acceptsGzip(r) != want {
			t.Errorf("Accept-Encoding %q: %v", header, !want)
		}
	}
}
