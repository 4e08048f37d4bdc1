package apiserver

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/kinds"
)

var fuzzedPod = &corev1.Pod{
	TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
	ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default", Labels: map[string]string{"a": "1"}},
	Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
}

// FuzzBody decodes bodies of every content type: nothing panics, and what is accepted can be written and read again.
func FuzzBody(f *testing.F) {
	for i, format := range formats {
		data, err := format.encode(fuzzedPod)
		if err != nil {
			f.Fatal(err)
		}
		for _, body := range []string{string(data), string(data[:len(data)/2]), "", "k8s\x00", "k8s\x00\x12\xff\xff\xff\xff\x07", `{"spec":{"containers":[{},{}]}}`, "a: &a [*a]", "a: &a {b: *a}", "[[[[", "{\"metadata\":{\"name\":\"\\ud800\"}}"} {
			f.Add(i, body)
		}
	}
	f.Fuzz(func(t *testing.T, which int, body string) {
		format := formats[uint(which)%uint(len(formats))]
		if len(body) > maxBody || checkShape(format.mediaType, []byte(body)) != nil {
			return
		}
		w := httptest.NewRecorder()
		for _, validation := range []string{metav1.FieldValidationWarn, metav1.FieldValidationStrict, metav1.FieldValidationIgnore} {
			pod := &corev1.Pod{}
			if err := decodeBody(w, format.mediaType, []byte(body), corev1.SchemeGroupVersion.WithKind("Pod"), pod, validation); err != nil {
				if status := statusOf(err); status.Code < 400 || status.Code >= 500 || len(status.Message) > maxMessage+3 {
					t.Fatalf("%d %.200s", status.Code, status.Message)
				}
				continue
			}
			data, err := jsonFormat.encode(pod)
			if err != nil {
				continue // strings that are not UTF-8, say, which validation refuses
			}
			if err := decodeBody(w, mediaJSON, data, corev1.SchemeGroupVersion.WithKind("Pod"), &corev1.Pod{}, metav1.FieldValidationIgnore); err != nil {
				t.Fatalf("what was accepted cannot be read again: %v", err)
			}
		}
	})
}

// FuzzPatch applies patches of every kind to a pod, which must not be changed itself.
func FuzzPatch(f *testing.F) {
	for i, body := range []string{
		`[{"op":"copy","from":"/spec","path":"/spec/x"},{"op":"copy","from":"","path":"/spec/y"}]`, `[{"op":"add","path":"/spec/containers/-","value":{}}]`,
		`[{"op":"remove","path":"/spec/containers/-1"}]`, `[{"op":"test","path":"/a~1b","value":null}]`, `[{"op":"move","from":"/a","path":"/a/b"}]`, `[{}]`, `[null]`, `{}`,
		`{"spec":{"containers":[{"name":"c","$patch":"delete"}]}}`, `{"spec":{"$retainKeys":["x"],"containers":[]}}`, `{"$patch":"replace"}`,
		`{"spec":{"$setElementOrder/containers":[{"name":"c"}]}}`, `{"spec":{"$deleteFromPrimitiveList/finalizers":["a"]}}`, `{"metadata":null}`, `null`, `[`,
	} {
		f.Add(i, body)
		f.Add(i+1, body)
		f.Add(i+2, body)
	}
	before := fuzzedPod.DeepCopy().String()
	f.Fuzz(func(t *testing.T, which int, body string) {
		kind := types.PatchType(patchTypes[uint(which)%uint(len(patchTypes))])
		if len(body) > maxBody || checkShape(string(kind), []byte(body)) != nil {
			return
		}
		p := &objectPatch{kind: kind, body: []byte(body), validation: metav1.FieldValidationWarn, w: httptest.NewRecorder()}
		if err := p.apply(fuzzedPod, &corev1.Pod{}); err != nil {
			if status := statusOf(err); status.Code < 400 || status.Code >= 500 {
				t.Fatalf("%d %.200s", status.Code, status.Message)
			}
		}
		if after := fuzzedPod.String(); after != before {
			t.Fatalf("the patch changed what it was applied to:\n%s\n%s", before, after)
		}
	})
}

// FuzzListOptions reads selectors, continue tokens and all the other options of a list from a query.
func FuzzListOptions(f *testing.F) {
	for _, query := range []string{
		"labelSelector=a%3Db,c!%3Dd,e+in+(f,g),!h", "labelSelector=((((", "labelSelector=a>1", "fieldSelector=metadata.name%3Dx,spec.nodeName!%3Dy", "fieldSelector=%5C%5C%3D%5C,",
		"limit=-1", "limit=9223372036854775808", "continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIuLi8ifQ", "resourceVersion=x&resourceVersionMatch=Exact",
		"watch=1&timeoutSeconds=-1&sendInitialEvents=true", "a=%zz",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		values, _ := url.ParseQuery(query) // as net/http does: what could be read
		c := &call{query: values, kind: kinds.Pods, verb: "list"}
		options, err := listOptions(c)
		if err != nil {
			if status := statusOf(err); status.Code < 400 || status.Code >= 500 {
				t.Fatalf("%d %.200s", status.Code, status.Message)
			}
			return
		}
		if options.LabelSelector != nil {
			options.LabelSelector.Matches(noLabels{})
		}
	})
}

type noLabels struct{}

func (noLabels) Has(string) bool              { return false }
func (noLabels) Get(string) string            { return "" }
func (noLabels) Lookup(string) (string, bool) { return "", false }

// FuzzAccept negotiates the form of an answer.
func FuzzAccept(f *testing.F) {
	for _, header := range []string{
		"application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "*/*", "application/*;q=0.5, application/yaml;q=NaN", "application/vnd.kubernetes.protobuf;stream=watch",
		";;;=,", "application/json;q=-1", `application/json;as="\"`, "application/json;as=PartialObjectMetadataList;v=v1beta1;g=meta.k8s.io",
	} {
		f.Add(header, true, false)
		f.Add(header, false, true)
	}
	f.Fuzz(func(t *testing.T, header string, shaped, stream bool) {
		o, err := negotiate(&http.Request{Header: http.Header{"Accept": {header}}}, url.Values{}, shaped, stream)
		switch {
		case o.format == nil:
			t.Fatal("no format to answer in")
		case err == nil && stream && !o.format.streams:
			t.Fatalf("a watch in %s", o.format.mediaType)
		case !shaped && o.shape != shapePlain:
			t.Fatalf("the shape %s where there is none", o.shape)
		}
	})
}
