package resource_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// BenchmarkTracking is the cost of a write in the process, without the store, for pods without the record of who set which fields and for
// pods with it.
func BenchmarkTracking(b *testing.B) {
	ctx, cancel := context.WithCancel(context.Background())
	server, err := etcd.Start(ctx, etcd.Config{DataDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer server.Close()
	r := kinds.NewRegistry(storage.NewEtcd(server.Client), kinds.Options{})
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if err := kinds.EnsureNamespaces(ctx, r); err != nil {
		b.Fatal(err)
	}
	for _, tracked := range []bool{false, true} {
		newPod := func(name string) *corev1.Pod {
			p := pod(name, "")
			if tracked {
				p.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "x", Operation: "Update", APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")}}
			}
			return p
		}
		name := fmt.Sprintf("p-%t", tracked)
		b.Run(fmt.Sprintf("create/tracked=%t", tracked), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Create(ctx, kinds.Pods, newPod(name), resource.CreateOptions{DryRun: true, FieldManager: "m"}); err != nil {
					b.Fatal(err)
				}
			}
		})
		if _, err := r.Create(ctx, kinds.Pods, newPod(name), resource.CreateOptions{FieldManager: "m"}); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("status/tracked=%t", tracked), func(b *testing.B) {
			for b.Loop() {
				if _, err := r.Modify(ctx, kinds.Pods, "status", "default", name, resource.UpdateOptions{DryRun: true, FieldManager: "m"}, func(current resource.Object) (resource.Object, error) {
					p := current.DeepCopyObject().(*corev1.Pod)
					p.Status.Phase = corev1.PodRunning
					return p, nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
