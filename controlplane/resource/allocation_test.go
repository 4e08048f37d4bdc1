package resource

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
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

	"github.com/skep-io/skep/controlplane/storage"
)

// allocationEtcd is a real etcd for one test, and where it is reached.
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
func allocationRegistry(t *testing.T, endpoint string, cfg Config) *Registry {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	r := NewRegistry(storage.NewEtcd(client), cfg, Kinds())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := r.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	if err := EnsureNamespaces(ctx, r); err != nil {
		t.Fatal(err)
	}
	return r
}

func clusterWith(ranges ...string) Config {
	cfg := Config{PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), NodeMask: 24}
	for _, text := range ranges {
		cfg.ServiceCIDRs = append(cfg.ServiceCIDRs, netip.MustParsePrefix(text))
	}
	return cfg
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

func create(t *testing.T, r *Registry, service *corev1.Service) *corev1.Service {
	t.Helper()
	created, err := r.Create(t.Context(), Services, service, CreateOptions{})
	if err != nil {
		t.Fatalf("create service %s: %v", service.Name, err)
	}
	return created.(*corev1.Service)
}

func TestServiceAddresses(t *testing.T) {
	store := allocationEtcd(t)
	r := allocationRegistry(t, store, clusterWith("10.96.0.0/16"))
	if err := EnsureServiceCIDR(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	service := create(t, r, newService("any", nil))
	addr := netip.MustParseAddr(service.Spec.ClusterIP)
	if !slices.Equal(service.Spec.ClusterIPs, []string{addr.String()}) || *service.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack ||
		!slices.Equal(service.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol}) {
		t.Errorf("got %+v", service.Spec)
	}
	if addr.Less(netip.MustParseAddr("10.96.1.1")) || !netip.MustParsePrefix("10.96.0.0/16").Contains(addr) {
		t.Errorf("%s is not of the dynamic band", addr)
	}
	record, err := r.Get(t.Context(), IPAddresses, "", addr.String(), "")
	if err != nil {
		t.Fatal(err)
	}
	ip := record.(*networkingv1.IPAddress)
	if *ip.Spec.ParentRef != (networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: "any"}) ||
		ip.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" || ip.Labels[networkingv1.LabelManagedBy] != "ipallocator.k8s.io" {
		t.Errorf("record is %+v", ip)
	}

	for name, tc := range map[string]struct{ ip, want string }{
		"taken":             {addr.String(), "provided IP is already allocated"},
		"outside":           {"10.97.0.1", "the provided network does not match the current range"},
		"network address":   {"10.96.0.0", "is not in the valid range. The range of valid IPs is 10.96.0.0/16"},
		"broadcast address": {"10.96.255.255", "is not in the valid range"},
	} {
		_, err := r.Create(t.Context(), Services, newService("asks", func(s *corev1.ServiceSpec) { s.ClusterIP = tc.ip }), CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "spec.clusterIPs") {
			t.Errorf("%s: %v, want one that says %q", name, err, tc.want)
		}
	}
	if got := create(t, r, newService("static", func(s *corev1.ServiceSpec) { s.ClusterIP = "10.96.0.10" })); got.Spec.ClusterIP != "10.96.0.10" {
		t.Errorf("asked for 10.96.0.10, got %s", got.Spec.ClusterIP)
	}
	if got := create(t, r, newService("headless", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })); !slices.Equal(got.Spec.ClusterIPs, []string{"None"}) {
		t.Errorf("headless service got %v", got.Spec.ClusterIPs)
	}
	create(t, r, newService("external", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org"
	}))
	if _, _, err := r.Delete(t.Context(), Services, "default", "any", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), IPAddresses, "", addr.String(), ""); !apierrors.IsNotFound(err) {
		t.Errorf("the address of a deleted service: %v", err)
	}
	if got := create(t, r, newService("again", func(s *corev1.ServiceSpec) { s.ClusterIP = addr.String() })); got.Spec.ClusterIP != addr.String() {
		t.Errorf("a freed address was not given out: %s", got.Spec.ClusterIP)
	}
	checkRecords(t, r)
}

// TestDryRunAllocatesNothing also covers a create that fails for its name.
func TestDryRunAllocatesNothing(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/24"))
	if _, err := r.Create(t.Context(), Services, newService("a", nil), CreateOptions{DryRun: true}); err != nil {
		t.Fatal(err)
	}
	create(t, r, newService("b", nil))
	if _, err := r.Create(t.Context(), Services, newService("b", nil), CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("second service of one name: %v", err)
	}
	list, err := r.List(t.Context(), IPAddresses, "", ListOptions{})
	if err != nil || len(list.Objects) != 1 {
		t.Fatalf("%d addresses are held, want 1 (%v)", len(list.Objects), err)
	}
}

func TestServiceTypeChanges(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	service := create(t, r, newService("web", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }))
	nodePort, ip := service.Spec.Ports[0].NodePort, service.Spec.ClusterIP
	if nodePort < firstNodePort+staticNodePorts || nodePort > lastNodePort {
		t.Errorf("node port %d is not of the dynamic band", nodePort)
	}
	change := func(change func(*corev1.ServiceSpec)) (*corev1.Service, error) {
		updated, err := r.Modify(t.Context(), Services, "", "default", "web", UpdateOptions{}, func(current Object) (Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			change(&service.Spec)
			return service, nil
		})
		if err != nil {
			return nil, err
		}
		checkRecords(t, r)
		return updated.(*corev1.Service), nil
	}
	must := func(f func(*corev1.ServiceSpec)) *corev1.Service {
		t.Helper()
		service, err := change(f)
		if err != nil {
			t.Fatal(err)
		}
		return service
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Ports[0].NodePort = 30001 }); got.Spec.Ports[0].NodePort != 30001 {
		t.Errorf("node port is %d", got.Spec.Ports[0].NodePort)
	}
	if got := must(func(s *corev1.ServiceSpec) {
		s.Ports = []corev1.ServicePort{{Name: "a", Port: 53, Protocol: "UDP"}, {Name: "b", Port: 53, Protocol: "TCP"}}
	}); got.Spec.Ports[0].NodePort != got.Spec.Ports[1].NodePort {
		t.Errorf("UDP and TCP of one port have node ports %d and %d", got.Spec.Ports[0].NodePort, got.Spec.Ports[1].NodePort)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP }); got.Spec.Ports[0].NodePort != 0 || got.Spec.ClusterIP != ip {
		t.Errorf("as ClusterIP: %+v", got.Spec)
	}
	got := must(func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	if got.Spec.HealthCheckNodePort == 0 || got.Spec.Ports[0].NodePort == 0 {
		t.Errorf("as LoadBalancer: %+v", got.Spec)
	}
	if _, err := change(func(s *corev1.ServiceSpec) { s.ClusterIP, s.ClusterIPs = "10.96.0.77", []string{"10.96.0.77"} }); !apierrors.IsInvalid(err) {
		t.Errorf("the cluster IP was changed: %v", err)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeExternalName, "example.org" }); got.Spec.ClusterIP != "" || len(got.Spec.IPFamilies) != 0 {
		t.Errorf("as ExternalName: %+v", got.Spec)
	}
	if got := must(func(s *corev1.ServiceSpec) { s.Type, s.ExternalName = corev1.ServiceTypeClusterIP, "" }); got.Spec.ClusterIP == "" {
		t.Errorf("as ClusterIP again: %+v", got.Spec)
	}
}

func TestNodePortsAskedFor(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	ask := func(name string, port int32) error {
		_, err := r.Create(t.Context(), Services, newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.Ports = corev1.ServiceTypeNodePort, []corev1.ServicePort{{Port: 80, NodePort: port}}
		}), CreateOptions{})
		return err
	}
	if err := ask("a", 30080); err != nil {
		t.Fatal(err)
	}
	for port, want := range map[int32]string{
		30080: "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
		80:    "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
	} {
		if err := ask("b", port); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v, want %s", port, err, want)
		}
	}
	if _, _, err := r.Delete(t.Context(), Services, "default", "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := ask("c", 30080); err != nil {
		t.Errorf("a freed node port: %v", err)
	}
	checkRecords(t, r)
}

func TestDualStack(t *testing.T) {
	store := allocationEtcd(t)
	single := allocationRegistry(t, store, clusterWith("10.96.0.0/16"))
	require, prefer := corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicyPreferDualStack
	if _, err := single.Create(t.Context(), Services, newService("no", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &require }), CreateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "this cluster is not configured for dual-stack services") {
		t.Errorf("dual stack of a cluster that has one family: %v", err)
	}
	if err := EnsureServiceCIDR(t.Context(), single); err != nil {
		t.Fatal(err)
	}
	dual := allocationRegistry(t, store, clusterWith("10.96.0.0/16", "fd00::/112"))
	if err := EnsureServiceCIDR(t.Context(), dual); err != nil {
		t.Fatalf("a second range: %v", err)
	}
	service := create(t, dual, newService("both", func(s *corev1.ServiceSpec) { s.IPFamilyPolicy = &prefer }))
	if len(service.Spec.ClusterIPs) != 2 || familyOf(service.Spec.ClusterIPs[1]) != corev1.IPv6Protocol {
		t.Fatalf("got %v", service.Spec.ClusterIPs)
	}
	checkRecords(t, dual)
	one := corev1.IPFamilyPolicySingleStack
	updated, err := dual.Modify(t.Context(), Services, "", "default", "both", UpdateOptions{}, func(current Object) (Object, error) {
		service := current.DeepCopyObject().(*corev1.Service)
		service.Spec.IPFamilyPolicy = &one
		return service, nil
	})
	if err != nil || len(updated.(*corev1.Service).Spec.ClusterIPs) != 1 {
		t.Fatalf("back to one family: %+v, %v", updated, err)
	}
	checkRecords(t, dual)
	other := allocationRegistry(t, store, clusterWith("10.50.0.0/16"))
	if err := EnsureServiceCIDR(t.Context(), other); err == nil {
		t.Error("other ranges than the cluster was made with were accepted")
	}
}

// TestAddressesAgainstTwin makes and deletes services at random and compares
// every step with a set of addresses.
func TestAddressesAgainstTwin(t *testing.T) {
	r := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/27")) // 30 addresses
	random := rand.New(rand.NewPCG(1, 2))
	twin := map[string]string{} // address -> service
	for step := range 400 {
		name := fmt.Sprintf("s%d", step)
		switch random.IntN(4) {
		case 0:
			for ip, held := range twin {
				if _, _, err := r.Delete(t.Context(), Services, "default", held, nil); err != nil {
					t.Fatalf("step %d: %v", step, err)
				}
				delete(twin, ip)
				break
			}
		case 1:
			ip := fmt.Sprintf("10.96.0.%d", random.IntN(33))
			last := netip.MustParseAddr(ip).As4()[3]
			allowed := twin[ip] == "" && last >= 1 && last <= 30
			_, err := r.Create(t.Context(), Services, newService(name, func(s *corev1.ServiceSpec) { s.ClusterIP = ip }), CreateOptions{})
			if (err == nil) != allowed || err != nil && !apierrors.IsInvalid(err) {
				t.Fatalf("step %d: %s: %v, allowed %v", step, ip, err, allowed)
			}
			if allowed {
				twin[ip] = name
			}
		default:
			created, err := r.Create(t.Context(), Services, newService(name, nil), CreateOptions{})
			if (err == nil) != (len(twin) < 30) {
				t.Fatalf("step %d: with %d held: %v", step, len(twin), err)
			}
			if err == nil {
				ip := created.(*corev1.Service).Spec.ClusterIP
				if twin[ip] != "" {
					t.Fatalf("step %d: %s was given to %s and to %s", step, ip, twin[ip], name)
				}
				twin[ip] = name
			}
		}
	}
	checkRecords(t, r)
}

// TestConcurrentAllocation lets two control planes on one etcd make, change and
// delete services and nodes at once: none may hold what another holds, and what
// is held in the end is what the objects say.
func TestConcurrentAllocation(t *testing.T) {
	store := allocationEtcd(t)
	cfg := clusterWith("10.96.0.0/26")
	cfg.PodCIDR, cfg.NodeMask = netip.MustParsePrefix("10.244.0.0/26"), 30 // 16 ranges
	planes := []*Registry{allocationRegistry(t, store, cfg), allocationRegistry(t, store, cfg)}
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

// allocateAtRandom does one thing to one object, which others of its name may
// exist for or not. Only errors that say so are fine.
func allocateAtRandom(t *testing.T, r *Registry, random *rand.Rand, name string) error {
	var err error
	switch random.IntN(6) {
	case 0:
		_, err = r.Create(t.Context(), Services, newService(name, func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }), CreateOptions{})
	case 1:
		_, err = r.Create(t.Context(), Services, newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.ClusterIP = corev1.ServiceTypeNodePort, fmt.Sprintf("10.96.0.%d", 1+random.IntN(8))
			s.Ports[0].NodePort = 30000 + random.Int32N(8)
		}), CreateOptions{})
		if apierrors.IsInvalid(err) && strings.Contains(err.Error(), "already allocated") {
			err = nil
		}
	case 2:
		_, err = r.Modify(t.Context(), Services, "", "default", name, UpdateOptions{}, func(current Object) (Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			if service.Spec.Type = corev1.ServiceTypeClusterIP; random.IntN(2) == 0 {
				service.Spec.Type = corev1.ServiceTypeNodePort
			}
			return service, nil
		})
	case 3:
		_, _, err = r.Delete(t.Context(), Services, "default", name, nil)
	case 4:
		_, err = r.Create(t.Context(), Nodes, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, CreateOptions{})
		if apierrors.IsInternalError(err) && strings.Contains(err.Error(), "no pod range of /30 is left") {
			err = nil
		}
	case 5:
		_, _, err = r.Delete(t.Context(), Nodes, "", name, nil)
	}
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// checkRecords compares the records in etcd with what the objects in etcd hold.
func checkRecords(t *testing.T, r *Registry) {
	t.Helper()
	want := map[string]string{}
	hold := func(key, holder string) {
		if other, ok := want[key]; ok {
			t.Errorf("%s is held by %s and by %s", key, other, holder)
		}
		want[key] = holder
	}
	for _, obj := range stored(t, r, Services) {
		service := obj.(*corev1.Service)
		name := service.Namespace + "/" + service.Name
		for _, ip := range heldIPs(service) {
			hold(storage.Key(IPAddresses.GroupResource(), "", ip), name)
		}
		for _, port := range heldNodePorts(service) {
			hold(port.key(), name)
		}
	}
	for _, obj := range stored(t, r, Nodes) {
		hold(podCIDRKey(netip.MustParsePrefix(obj.(*corev1.Node).Spec.PodCIDR)), obj.GetName())
	}
	got := map[string]string{}
	for _, obj := range stored(t, r, IPAddresses) {
		ref := obj.(*networkingv1.IPAddress).Spec.ParentRef
		got[storage.Key(IPAddresses.GroupResource(), "", obj.GetName())] = ref.Namespace + "/" + ref.Name
	}
	for _, prefix := range []string{nodePortPrefix, podCIDRPrefix} {
		kvs, _, err := r.store.List(t.Context(), prefix)
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

func stored(t *testing.T, r *Registry, k *Kind) []Object {
	t.Helper()
	kvs, _, err := r.store.List(t.Context(), storage.Prefix(k.GroupResource()))
	if err != nil {
		t.Fatal(err)
	}
	var out []Object
	for _, kv := range kvs {
		obj, err := storage.Decode(kv.Value, kv.ModRevision)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, obj.(Object))
	}
	return out
}

func TestPodRanges(t *testing.T) {
	cfg := clusterWith("10.96.0.0/16")
	cfg.PodCIDR = netip.MustParsePrefix("10.244.0.0/22")
	r := allocationRegistry(t, allocationEtcd(t), cfg)
	add := func(name, podCIDR string) (*corev1.Node, error) {
		node, err := r.Create(t.Context(), Nodes, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podCIDR},
		}, CreateOptions{})
		if err != nil {
			return nil, err
		}
		return node.(*corev1.Node), nil
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil || node.Spec.PodCIDR != "10.244.1.0/24" {
		t.Fatalf("%+v, %v", node, err)
	}
	for _, podCIDR := range []string{"10.244.1.0/24", "10.244.1.128/25", "10.244.0.0/22"} {
		if _, err := add("overlaps", podCIDR); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `overlaps 10.244.1.0/24, which node "asks" holds`) {
			t.Errorf("%s: %v", podCIDR, err)
		}
	}
	for i := range 3 {
		node, err := add(fmt.Sprintf("node%d", i), "")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(node.Spec.PodCIDRs, []string{node.Spec.PodCIDR}) {
			t.Errorf("podCIDR %s, podCIDRs %v", node.Spec.PodCIDR, node.Spec.PodCIDRs)
		}
	}
	if _, err := add("toomany", ""); err == nil || !strings.Contains(err.Error(), "no pod range of /24 is left in 10.244.0.0/22") {
		t.Errorf("a fifth node: %v", err)
	}
	if _, _, err := r.Delete(t.Context(), Nodes, "", "asks", nil); err != nil {
		t.Fatal(err)
	}
	if node, err := add("asks", "10.244.1.0/24"); err != nil {
		t.Errorf("a freed range: %+v, %v", node, err)
	}
	checkRecords(t, r)
}

func TestSubnets(t *testing.T) {
	for _, tc := range []struct {
		within string
		mask   int
		n      uint64
		want   string
	}{
		{"10.244.0.0/16", 24, 0, "10.244.0.0/24"},
		{"10.244.0.0/16", 24, 255, "10.244.255.0/24"},
		{"10.0.0.0/8", 24, 257, "10.1.1.0/24"},
		{"10.244.0.0/22", 26, 5, "10.244.1.64/26"},
		{"10.244.0.0/24", 32, 7, "10.244.0.7/32"},
		{"fd00::/48", 64, 0x1234, "fd00:0:0:1234::/64"},
		{"fd00::/112", 120, 3, "fd00::300/120"},
	} {
		if got := subnetAt(netip.MustParsePrefix(tc.within), tc.mask, tc.n); got.String() != tc.want {
			t.Errorf("subnet %d of /%d in %s is %s, want %s", tc.n, tc.mask, tc.within, got, tc.want)
		}
	}
}

// TestAddressBands compares with the bands that kube-apiserver has.
func TestAddressBands(t *testing.T) {
	for prefix, want := range map[string]struct {
		first, last, dynamic string
		size                 uint64
	}{
		"10.96.0.0/16":    {"10.96.0.1", "10.96.255.254", "10.96.1.1", 65534},
		"10.96.0.0/24":    {"10.96.0.1", "10.96.0.254", "10.96.0.17", 254},
		"10.96.0.0/28":    {"10.96.0.1", "10.96.0.14", "10.96.0.1", 14},
		"10.96.0.128/30":  {"10.96.0.129", "10.96.0.130", "10.96.0.129", 2},
		"fd00::/112":      {"fd00::1", "fd00::ffff", "fd00::101", 65535},
		"fd00:1234::/108": {"fd00:1234::1", "fd00:1234::f:ffff", "fd00:1234::101", 1<<20 - 1},
	} {
		band := newAddressBand(netip.MustParsePrefix(prefix))
		if band.first.String() != want.first || band.last.String() != want.last || band.size != want.size ||
			addrAt(band.first, band.static).String() != want.dynamic {
			t.Errorf("%s: %+v, dynamic from %s; want %+v", prefix, band, addrAt(band.first, band.static), want)
		}
	}
	band := newAddressBand(netip.MustParsePrefix("10.96.0.0/27"))
	taken := map[netip.Addr]bool{}
	for i := range band.size {
		addr, ok := band.free(func(addr netip.Addr) bool { return taken[addr] })
		if !ok || taken[addr] || addr.Less(band.first) || band.last.Less(addr) {
			t.Fatalf("address %d is %s, %v", i, addr, ok)
		}
		if dynamic := !addr.Less(addrAt(band.first, band.static)); dynamic != (i < band.size-band.static) {
			t.Fatalf("address %d is %s: the static band is for when the other is full", i, addr)
		}
		taken[addr] = true
	}
	if addr, ok := band.free(func(addr netip.Addr) bool { return taken[addr] }); ok {
		t.Fatalf("%s of a full band", addr)
	}
}
