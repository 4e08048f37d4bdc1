package namespace_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller/namespace"
	"github.com/skep-io/skep/controlplane/controller/serviceaccount"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const content = `
{apiVersion: v1, kind: Namespace, metadata: {name: team}}
---
{apiVersion: v1, kind: Pod, metadata: {name: unbound, namespace: team}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: team}, spec: {ports: [{port: 80}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: held, namespace: team, finalizers: [example.com/hold]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: bystander, namespace: default}}
`

func TestNamespaceIsFurnishedEmptiedAndFinalized(t *testing.T) {
	r := controlplanetest.Start(t)
	controlplanetest.Go(t, func(ctx context.Context) { _ = namespace.New(r).Run(ctx) })
	controlplanetest.Go(t, func(ctx context.Context) {
		_ = serviceaccount.New(r, func() []byte { return []byte("the CA") }).Run(ctx)
	})
	controlplanetest.Create(t, r, controlplanetest.Parse(t, content)...)
	furnished := func() string {
		cm, err := resource.Get[*corev1.ConfigMap](t.Context(), r, kinds.ConfigMaps, "team", "kube-root-ca.crt")
		if err != nil || cm.Data["ca.crt"] != "the CA" {
			return fmt.Sprint("no CA: ", err)
		}
		if _, err := resource.Get[*corev1.ServiceAccount](t.Context(), r, kinds.ServiceAccounts, "team", "default"); err != nil {
			return err.Error()
		}
		return ""
	}
	both := []*resource.Kind{kinds.ConfigMaps, kinds.ServiceAccounts}
	controlplanetest.Await(t, r, both, furnished)
	// Deleted or changed objects are restored.
	if _, _, err := r.Delete(t.Context(), kinds.ServiceAccounts, "team", "default", nil); err != nil {
		t.Fatal(err)
	}
	controlplanetest.Modify(t, r, kinds.ConfigMaps, "", "team", "kube-root-ca.crt", func(cm *corev1.ConfigMap) { cm.Data = nil })
	controlplanetest.Await(t, r, both, furnished)

	if _, _, err := r.Delete(t.Context(), kinds.Namespaces, "", "team", &metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Namespaces}, func() string {
		ns, err := resource.Get[*corev1.Namespace](t.Context(), r, kinds.Namespaces, "", "team")
		if err != nil {
			return "the namespace went before its content: " + err.Error()
		}
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue &&
				c.Message == "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances" {
				return ""
			}
		}
		return fmt.Sprint(ns.Status)
	})
	controlplanetest.Modify(t, r, kinds.ConfigMaps, "", "team", "held", func(cm *corev1.ConfigMap) { cm.Finalizers = nil })
	controlplanetest.Await(t, r, []*resource.Kind{kinds.Namespaces}, func() string {
		_, err := resource.Get[*corev1.Namespace](t.Context(), r, kinds.Namespaces, "", "team")
		if apierrors.IsNotFound(err) {
			return ""
		}
		return fmt.Sprint("still there: ", err)
	})
	for _, k := range r.Kinds() {
		if list, err := r.List(t.Context(), k, "team", resource.ListOptions{}); k.Namespaced && (err != nil || len(list.Objects) > 0) {
			t.Errorf("%d %s are left, %v", len(list.Objects), k.Resource, err)
		}
	}
	if _, err := resource.Get[*corev1.ConfigMap](t.Context(), r, kinds.ConfigMaps, "default", "bystander"); err != nil {
		t.Error(err)
	}
}
