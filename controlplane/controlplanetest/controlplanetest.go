// Package controlplanetest starts a registry on a real etcd for tests, and waits for
// states by watching them. It is for tests only.
package controlplanetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// patience is how long to wait for a state on a busy machine.
const patience = 30 * time.Second

// SingleStack and DualStack are configurations of the usual ranges.
var (
	SingleStack = allocator.Cluster{
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		PodCIDRs:     []allocator.PodRange{{Prefix: netip.MustParsePrefix("10.244.0.0/16"), NodeMask: 24}},
	}
	DualStack = allocator.Cluster{
		ServiceCIDRs: append(slices.Clip(SingleStack.ServiceCIDRs), netip.MustParsePrefix("fd00:10:96::/112")),
		PodCIDRs:     append(slices.Clip(SingleStack.PodCIDRs), allocator.PodRange{Prefix: netip.MustParsePrefix("fd00:10:244::/56"), NodeMask: 64}),
	}
)

// Start runs etcd and a registry with the namespaces that every cluster has, until the test ends.
func Start(t testing.TB) *resource.Registry {
	t.Helper()
	return StartWith(t, SingleStack)
}

// StartWith is Start for a cluster of another configuration.
func StartWith(t testing.TB, cluster allocator.Cluster) *resource.Registry {
	t.Helper()
	server, err := etcd.Start(t.Context(), etcd.Config{DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	registry := kinds.NewRegistry(storage.NewEtcd(server.Client), kinds.Options{Cluster: cluster})
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = registry.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		server.Close()
	})
	if err := kinds.EnsureNamespaces(ctx, registry); err != nil {
		t.Fatal(err)
	}
	if err := kinds.EnsurePriorityClasses(ctx, registry); err != nil {
		t.Fatal(err)
	}
	if err := kinds.EnsureServiceCIDR(ctx, registry, cluster.ServiceCIDRs); err != nil {
		t.Fatal(err)
	}
	return registry
}

// Go runs a loop until the test ends, and waits for its end.
func Go(t testing.TB, run func(context.Context)) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { run(ctx) })
	stop = func() {
		cancel()
		wg.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// Parse reads the objects of a YAML text with any number of documents.
func Parse(t testing.TB, text string) []resource.Object {
	t.Helper()
	reader := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text)))
	var objects []resource.Object
	for {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(bytes.TrimSpace(doc)) == 0 {
			continue
		}
		asJSON, err := sigsyaml.YAMLToJSON(doc)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(asJSON, nil, nil)
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		objects = append(objects, obj.(resource.Object))
	}
}

// KindOf finds the kind of an object.
func KindOf(t testing.TB, r *resource.Registry, obj runtime.Object) *resource.Kind {
	t.Helper()
	gvks, _, err := scheme.Scheme.ObjectKinds(obj)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range r.Kinds() {
		if k.GVK == gvks[0] {
			return k
		}
	}
	t.Fatalf("%v is served by no kind", gvks[0])
	return nil
}

// Create creates objects with the status that they carry.
func Create(t testing.TB, r *resource.Registry, objects ...resource.Object) []resource.Object {
	t.Helper()
	created := make([]resource.Object, len(objects))
	for i, obj := range objects {
		k := KindOf(t, r, obj)
		if k.Namespaced && obj.GetNamespace() == "" {
			obj.SetNamespace("default")
		}
		status := obj.DeepCopyObject().(resource.Object)
		made, err := r.Create(t.Context(), k, obj, resource.CreateOptions{})
		if err != nil {
			t.Fatalf("create %s %s: %v", k.Singular, obj.GetName(), err)
		}
		if k.Status != nil && hasStatus(t, status) {
			status.SetName(made.GetName())
			status.SetResourceVersion("")
			status.SetUID("")
			if made, err = r.Update(t.Context(), k, "status", status, resource.UpdateOptions{}); err != nil {
				t.Fatalf("set the status of %s %s: %v", k.Singular, obj.GetName(), err)
			}
		}
		created[i] = made
		seen(t, r, k, made)
	}
	return created
}

// hasStatus says whether an object carries a status: writing an empty one would undo what
// a loop has written meanwhile.
func hasStatus(t testing.TB, obj resource.Object) bool {
	t.Helper()
	fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
	if err != nil {
		t.Fatal(err)
	}
	status, ok := fields["status"].(map[string]any)
	return ok && len(status) > 0
}

// Modify changes an object; sub is "" or "status".
func Modify[T resource.Object](t testing.TB, r *resource.Registry, k *resource.Kind, sub, namespace, name string, change func(T)) T {
	t.Helper()
	obj, err := r.Modify(t.Context(), k, sub, namespace, name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		next := current.DeepCopyObject().(T)
		next.SetResourceVersion("")
		change(next)
		return next, nil
	})
	if err != nil {
		t.Fatalf("change %s %s/%s: %v", k.Singular, namespace, name, err)
	}
	seen(t, r, k, obj)
	return obj.(T)
}

// seen waits until the cache has a write of the test, so that the next read includes it.
func seen(t testing.TB, r *resource.Registry, k *resource.Kind, obj resource.Object) {
	t.Helper()
	revision, err := strconv.ParseInt(obj.GetResourceVersion(), 10, 64)
	if err == nil {
		err = r.Cache(k).WaitUntil(t.Context(), revision)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// List reads all objects of a kind from the cache.
func List[T resource.Object](r *resource.Registry, k *resource.Kind, namespace string) []T {
	return resource.ListAs[T](r, k, namespace, labels.Everything())
}

// Await returns when check returns "". It calls check again after every change of one of
// the kinds; the last result of check is the error.
func Await(t testing.TB, r *resource.Registry, kinds []*resource.Kind, check func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, k := range kinds {
		wg.Go(func() {
			_ = r.Cache(k).Follow(ctx, func(watchcache.Event) {
				select {
				case changed <- struct{}{}:
				default:
				}
			})
		})
	}
	for {
		wrong := check()
		if wrong == "" {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("not so after %s: %s", patience, wrong)
		}
	}
}
