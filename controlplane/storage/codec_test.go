package storage_test

import (
	"bytes"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/skep-io/skep/controlplane/scheme"
)

func TestEncodedFormIsKubernetes(t *testing.T) {
	pod := &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", ResourceVersion: "42", Labels: map[string]string{"b": "2", "a": "1"}},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	before := pod.DeepCopy()
	data, err := scheme.Codec.Encode(pod)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(pod, before) {
		t.Errorf("encoding changed the object to %+v", pod)
	}
	if !bytes.HasPrefix(data, []byte("k8s\x00")) {
		t.Fatalf("encoded form begins with %q, want k8s\\0", data[:4])
	}
	var envelope runtime.Unknown
	if err := envelope.Unmarshal(data[4:]); err != nil {
		t.Fatal(err)
	}
	if envelope.APIVersion != "v1" || envelope.Kind != "Pod" {
		t.Errorf("the envelope says %s %s, want v1 Pod", envelope.APIVersion, envelope.Kind)
	}
	var inside corev1.Pod
	if err := inside.Unmarshal(envelope.Raw); err != nil || inside.ResourceVersion != "" || inside.Spec.NodeName != "node1" {
		t.Errorf("the envelope holds %+v, %v; want the pod without its resource version", inside, err)
	}
	decoded, err := scheme.Codec.Decode(data, 43)
	if err != nil {
		t.Fatal(err)
	}
	before.ResourceVersion = "43"
	if !reflect.DeepEqual(decoded, before) {
		t.Errorf("decoded %+v, want %+v", decoded, before)
	}
}

func TestEncodeFindsTheKindOfAnObjectThatDoesNotSay(t *testing.T) {
	for _, obj := range []runtime.Object{&corev1.Node{}, &discoveryv1.EndpointSlice{}, &networkingv1.IPAddress{}} {
		data, err := scheme.Codec.Encode(obj)
		if err != nil {
			t.Fatal(err)
		}
		decoded, err := scheme.Codec.Decode(data, 1)
		if err != nil || reflect.TypeOf(decoded) != reflect.TypeOf(obj) {
			t.Errorf("%T comes back as %T, %v", obj, decoded, err)
		}
		if decoded.GetObjectKind().GroupVersionKind().Kind == "" {
			t.Errorf("%T comes back without its kind", obj)
		}
	}
}

func TestDecodeRefusesGarbage(t *testing.T) {
	for name, data := range map[string][]byte{"empty": nil, "text": []byte("default/web"), "cut": []byte("k8s\x00\x0a\x09"), "json": []byte(`{"kind":"Pod","apiVersion":"v1"}`)} {
		if obj, err := scheme.Codec.Decode(data, 1); err == nil {
			t.Errorf("%s decodes to %+v", name, obj)
		}
	}
}
