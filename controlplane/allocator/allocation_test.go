package allocator_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// allocationEtcd is a real etcd for one test, and its address.
func allocationEtcd(t *testing.T) (endpoint string) {
	t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = t.TempDir()
	cfg.LogLevel = "fatal"
	cfg.UnsafeNoFsync = true
	socket := url.URL{Scheme: "unix", Path: filepath.Join(t.TempDir(), "client")}
	peer := url.URL{Scheme: "unix", Path: filepath.Join(t.TempDir(), "peer")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{socket}, []url.URL{socket}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	etcd, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(etcd.Close)
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		t.Fatal(err)
	case <-t.Context().Done():
		t.Fatal("etcd was not ready before the test ended")
	}
	return socket.String()
}

// allocationRegistry is one control plane on an etcd, with a connection of its
// own as it would have on a host of its own, and with the namespaces made.
func allocationRegistry(t *testing.T, endpoint string, cfg allocator.Cluster) *resource.Registry {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	r := kinds.NewRegistry(storage.NewEtcd(client), kinds.Options{Cluster: cfg})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := r.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := kinds.EnsureNamespaces(ctx, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func clusterWith(ranges ...string) allocator.Cluster {
	cfg := allocator.Cluster{PodCIDRs: podRanges("10.244.0.0/16", 24)}
	for _, text := range ranges {
		cfg.ServiceCIDRs = append(cfg.ServiceCIDRs, netip.MustParsePrefix(text))
	}
	return cfg
}

func podRanges(cidr string, mask int) []allocator.PodRange {
	return []allocator.PodRange{{netip.MustParsePrefix(cidr), mask}}
}

func newService(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if change != nil {
		change(&service.Spec)
	}
	return service
}

func create(t *testing.T, r *resource.Registry, service *corev1.Service) *corev1.Service {
	t.Helper()
	created, err := r.Create(t.Context(), kinds.Services, service, resource.CreateOptions{})
	if err != nil {
		t.Fatalf("create service %s: %v", service.Name, err)
	}
	return created.(*corev1.Service)
}

// TestConcurrentAllocation lets two control planes on one etcd create, change and delete
// services and nodes at once: no two objects may hold the same, and in the end the
// records match the objects.
func TestConcurrentAllocation(t *testing.T) {
	store := allocationEtcd(t)
	cfg := clusterWith("10.96.0.0/26")
	cfg.PodCIDRs = podRanges("10.244.0.0/26", 30) // 16 ranges
	planes := []*resource.Registry{allocationRegistry(t, store, cfg), allocationRegistry(t, store, cfg)}
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			random := rand.New(rand.NewPCG(7, uint64(worker)))
			r := planes[worker%len(planes)]
			for step := range 40 {
				if err := allocateAtRandom(t, r, random, fmt.Sprintf("w%d-%d", worker, step%5)); err != nil {
					t.Errorf("worker %d, step %d: %v", worker, step, err)
				}
			}
		})
	}
	group.Wait()
	for _, r := range planes {
		checkRecords(t, r)
	}
}

// allocateAtRandom makes one random change to one object, which may or may not exist. It
// accepts only the errors that follow from that.
func allocateAtRandom(t *testing.T, r *resource.Registry, random *rand.Rand, name string) error {
	var err error
	switch random.IntN(6) {
	case 0:
		_, err = r.Create(t.Context(), kinds.Services, newService(name, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }), resource.CreateOptions{})
	case 1:
		_, err = r.Create(t.Context(), kinds.Services, newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.ClusterIP = corev1.ServiceTypeNodePort, fmt.Sprintf("10.96.0.%d", 1+random.IntN(8))
			s.Ports[0].NodePort = 30000 + random.Int32N(8)
		}), resource.CreateOptions{})
		if apierrors.IsInvalid(err) && strings.Contains(err.Error(), "already allocated") {
			err = nil
		}
	case 2:
		_, err = r.Modify(t.Context(), kinds.Services, "", "default", name, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			if service.Spec.Type = corev1.ServiceTypeClusterIP; random.IntN(2) == 0 {
				service.Spec.Type = corev1.ServiceTypeNodePort
			}
			return service, nil
		})
	case 3:
		_, _, err = r.Delete(t.Context(), kinds.Services, "default", name, nil)
	case 4:
		_, err = r.Create(t.Context(), kinds.Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, resource.CreateOptions{})
		if apierrors.IsInternalError(err) && strings.Contains(err.Error(), "no free pod range of /30") {
			err = nil
		}
	case 5:
		_, _, err = r.Delete(t.Context(), kinds.Nodes, "", name, nil)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// checkRecords compares the records in etcd with what the objects in etcd hold.
func checkRecords(t *testing.T, r *resource.Registry) {
	t.Helper()
	want := map[string]string{}
	hold := func(key, holder string) {
		if other, ok := want[key]; ok {
			t.Errorf("%s is held by %s and by %s", key, other, holder)
		}
		want[key] = holder
	}
	for _, obj := range stored(t, r, kinds.Services) {
		service := obj.(*corev1.Service)
		name := service.Namespace + "/" + service.Name
		for _, ip := range allocator.HeldIPs(service) {
			hold(kinds.IPAddresses.Key("", ip), name)
		}
		for _, port := range allocator.HeldNodePortKeys(service) {
			hold(port, name)
		}
	}
	for _, obj := range stored(t, r, kinds.Nodes) {
		for _, podCIDR := range obj.(*corev1.Node).Spec.PodCIDRs {
			hold(allocator.PodCIDRKey(netip.MustParsePrefix(podCIDR)), obj.GetName())
		}
	}
	got := map[string]string{}
	for _, obj := range stored(t, r, kinds.IPAddresses) {
		ref := obj.(*networkingv1.IPAddress).Spec.ParentRef
		got[kinds.IPAddresses.Key("", obj.GetName())] = ref.Namespace + "/" + ref.Name
	}
	for _, prefix := range []string{allocator.NodePortPrefix, allocator.PodCIDRPrefix} {
		kvs, _, err := r.Store().List(t.Context(), prefix)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range kvs {
			got[kv.Key] = string(kv.Value)
		}
	}
	for key, holder := range want {
		if got[key] != holder {
			t.Errorf("%s is held by %s, but its record names %q", key, holder, got[key])
		}
	}
	for key, holder := range got {
		if want[key] == "" {
			t.Errorf("%s is recorded for %s, which does not hold it", key, holder)
		}
	}
}

func stored(t *testing.T, r *resource.Registry, k *resource.Kind) []resource.Object {
	t.Helper()
	kvs, _, err := r.Store().List(t.Context(), k.Prefix())
	if err != nil {
		t.Fatal(err)
	}
	var out []resource.Object
	for _, kv := range kvs {
		obj, err := k.Decode(kv)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, obj.Value())
	}
	return out
}
