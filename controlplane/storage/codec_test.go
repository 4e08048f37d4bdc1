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
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
)

func TestKeysAreThoseOfKubernetes(t *testing.T) {
	for _, tc := range []struct {
		group, resource, namespace, name, want string
	}{
		{"", "pods", "default", "web", "/registry/pods/default/web"},
		{"", "nodes", "", "node1", "/registry/minions/node1"},
		{"", "services", "default", "web", "/registry/services/specs/default/web"},
		{"", "endpoints", "default", "web", "/registry/services/endpoints/default/web"},
		{"", "replicationcontrollers", "default", "web", "/registry/controllers/default/web"},
		{"", "namespaces", "", "default", "/registry/namespaces/default"},
		{"", "events", "default", "web.1", "/registry/events/default/web.1"},
		{"", "serviceaccounts", "default", "default", "/registry/serviceaccounts/default/default"},
		{"coordination.k8s.io", "leases", "kube-node-lease", "node1", "/registry/leases/kube-node-lease/node1"},
		{"discovery.k8s.io", "endpointslices", "default", "web-x", "/registry/endpointslices/default/web-x"},
		{"networking.k8s.io", "ipaddresses", "", "10.96.0.10", "/registry/ipaddresses/10.96.0.10"},
		{"networking.k8s.io", "servicecidrs", "", "kubernetes", "/registry/servicecidrs/kubernetes"},
	} {
		gr := schema.GroupResource{Group: tc.group, Resource: tc.resource}
		key := storage.Key(gr, tc.namespace, tc.name)
		if key != tc.want {
			t.Errorf("key of %s: %s, want %s", gr, key, tc.want)
		}
		namespace, name, ok := storage.ParseKey(gr, key)
		if !ok || namespace != tc.namespace || name != tc.name {
			t.Errorf("%s parses to %q, %q, %t", key, namespace, name, ok)
		}
	}
	for _, key := range []string{"/registry/services/endpoints/a/b", "/registry/services/specs/a", "/registry/services/specs/a/b/c", "/registry/services/specs//b", ""} {
		if namespace, name, ok := storage.ParseKey(schema.GroupResource{Resource: "services"}, key); ok {
			t.Errorf("%q is taken for service %s/%s", key, namespace, name)
		}
	}
}

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
