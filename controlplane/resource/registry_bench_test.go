package resource_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// BenchmarkBind binds pods on an etcd that syncs to disk; one operation is one pod.
func BenchmarkBind(b *testing.B) {
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
	if _, err := r.Create(ctx, kinds.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, resource.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	bindings := make([]kinds.Binding, b.N)
	var group errgroup.Group
	group.SetLimit(32)
	for i := range b.N {
		bindings[i] = kinds.Binding{Namespace: "default", Name: fmt.Sprintf("p%d", i), Node: fmt.Sprintf("node%d", i%100)}
		group.Go(func() error {
			_, err := r.Create(ctx, kinds.Pods, pod(bindings[i].Name, ""), resource.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for i, err := range kinds.Bind(ctx, r, bindings) {
		if err != nil {
			b.Fatalf("binding %d: %v", i, err)
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
