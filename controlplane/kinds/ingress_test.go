package kinds_test

import (
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// TestDefaultIngressClass also sees that only a spec's change is a new generation.
func TestDefaultIngressClass(t *testing.T) {
	r := controlplanetest.Start(t)
	addClass := func(name, isDefault string) {
		_, err := r.Create(t.Context(), kinds.IngressClasses, &networkingv1.IngressClass{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: isDefault}},
			Spec:       networkingv1.IngressClassSpec{Controller: "example.org/" + name},
		}, resource.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.WaitForStore(t.Context(), kinds.IngressClasses); err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string, class *string, annotations map[string]string) *networkingv1.Ingress {
		t.Helper()
		obj, err := r.Create(t.Context(), kinds.Ingresses, &networkingv1.Ingress{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: annotations},
			Spec: networkingv1.IngressSpec{IngressClassName: class, DefaultBackend: &networkingv1.IngressBackend{
				Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}},
			}},
		}, resource.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return obj.(*networkingv1.Ingress)
	}
	addClass("plain", "false")
	if got := add("a", nil, nil).Spec.IngressClassName; got != nil {
		t.Errorf("without a default class: %q", *got)
	}
	addClass("standard", "true")
	for name, tc := range map[string]struct {
		class       *string
		annotations map[string]string
		want        string
	}{
		"b": {nil, nil, "standard"},
		"c": {ptr.To("plain"), nil, "plain"},
		"d": {nil, map[string]string{"kubernetes.io/ingress.class": "old"}, ""},
	} {
		if got := ptr.Deref(add(name, tc.class, tc.annotations).Spec.IngressClassName, ""); got != tc.want {
			t.Errorf("%s has class %q, want %q", name, got, tc.want)
		}
	}
	change := func(sub string, f func(*networkingv1.Ingress)) int64 {
		t.Helper()
		obj, err := r.Modify(t.Context(), kinds.Ingresses, sub, "default", "b", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			ingress := current.DeepCopyObject().(*networkingv1.Ingress)
			f(ingress)
			return ingress, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return obj.GetGeneration()
	}
	if got := change("", func(i *networkingv1.Ingress) { i.Labels = map[string]string{"a": "b"} }); got != 1 {
		t.Errorf("labels made generation %d", got)
	}
	if got := change("status", func(i *networkingv1.Ingress) {
		i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}
	}); got != 1 {
		t.Errorf("a status made generation %d", got)
	}
	if got := change("", func(i *networkingv1.Ingress) { i.Spec.DefaultBackend.Service.Port.Number = 81 }); got != 2 {
		t.Errorf("a spec made generation %d", got)
	}
}
