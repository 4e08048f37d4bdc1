package endpoints

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/services"
	"github.com/skep-io/skep/controlplane"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/dataplane/service"
	"github.com/skep-io/skep/test/hurts/lab"
)

const (
	servicesTotal = 10_000
	changeEvery   = 20 * time.Millisecond
	workers       = 16 // that make the services
)

func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

// arrivals are the times at which the maps had each change.
type arrivals struct {
	*service.Plane
	ctx context.Context

	mu      sync.Mutex
	waiting map[string]chan<- time.Time // the backend's address that a change sets -> where its time is sent
	running sync.WaitGroup
	synced  chan struct{} // closed when all services that there were have been set
}

// Synced is called once.
func (a *arrivals) Synced() {
	a.Plane.Synced()
	close(a.synced)
}

// SetService notes when what it sets is in the maps, if a change waits for it.
func (a *arrivals) SetService(s service.Service) {
	a.Plane.SetService(s)
	if len(s.Backends) == 0 {
		return
	}
	key := s.Name + " " + s.Backends[0].Addr.String()
	a.mu.Lock()
	tell := a.waiting[key]
	delete(a.waiting, key)
	a.mu.Unlock()
	if tell != nil {
		a.running.Go(func() {
			if a.Flush(a.ctx) == nil {
				tell <- time.Now()
			}
		})
	}
}

func (a *arrivals) await(key string) <-chan time.Time {
	c := make(chan time.Time, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting[key] = c
	return c
}

type noRoutes struct{}

func (noRoutes) SyncRoutes([]podnet.Peer) error { return nil }

// BenchmarkEndpointChange makes a change for each iteration, 50 a second. "commit" is counted from the answer to the write,
// which follows etcd's commit, "request" from its sending, which precedes it: the real time is between the two.
func BenchmarkEndpointChange(b *testing.B) {
	client := startControlPlane(b)
	slicesOf := makeServices(b, client)
	plane := lab.Open(b, lab.Pins(b))
	a := startWatcher(b, client, plane)

	var fromCommit, fromRequest []time.Duration
	var latest string
	ticks := time.NewTicker(changeEvery)
	defer ticks.Stop()
	round := 0
	for b.Loop() {
		<-ticks.C
		i := (round * 7919) % servicesTotal
		round++
		addr := fmt.Sprintf("10.%d.%d.%d", 200+round>>16&15, round>>8&255, round&255)
		slice := slicesOf[i].DeepCopy()
		slice.Endpoints[0].Addresses = []string{addr}
		arrived := a.await(fmt.Sprintf("bench/s%d %s", i, addr))
		began := time.Now()
		updated, err := client.DiscoveryV1().EndpointSlices("bench").Update(b.Context(), slice, metav1.UpdateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		answered := time.Now()
		slicesOf[i], latest = updated, addr
		select {
		case at := <-arrived:
			fromCommit, fromRequest = append(fromCommit, max(0, at.Sub(answered))), append(fromRequest, at.Sub(began))
		case <-time.After(lab.Deadline):
			b.Fatalf("change %d did not reach the maps", round)
		}
	}
	b.StopTimer()
	for name, list := range map[string][]time.Duration{"commit": fromCommit, "request": fromRequest} {
		slices.Sort(list)
		b.ReportMetric(float64(list[len(list)/2])/1e6, name+"-p50-ms")
		b.ReportMetric(float64(list[len(list)*99/100])/1e6, name+"-p99-ms")
	}
	hasBackend(b, plane, latest)
}

// hasBackend reads the kernel's maps themselves.
func hasBackend(b *testing.B, plane *service.Plane, addr string) {
	b.Helper()
	dump, err := plane.Dump()
	if err != nil {
		b.Fatal(err)
	}
	want := netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)
	if !slices.ContainsFunc(dump.Services, func(s service.DumpService) bool { return slices.Contains(s.Slots, want) }) {
		b.Errorf("no service's slots have %s, the last change", want)
	}
}

func startControlPlane(b *testing.B) kubernetes.Interface {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skep-bench-")
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	serving := make(chan controlplane.Serving, 1)
	options := controlplane.Options{
		DataDir: dir, Listen: freePort(b), DNSEtcdListen: freePort(b), Version: "bench",
		Serving: func(s controlplane.Serving) { serving <- s },
	}
	go func() { ended <- controlplane.Run(ctx, options) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Errorf("control plane ended with %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	var s controlplane.Serving
	select {
	case s = <-serving:
	case err := <-ended:
		ended <- nil
		b.Fatalf("control plane ended while starting: %v", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	config.QPS = -1
	config.ContentType, config.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	return kubernetes.NewForConfigOrDie(config)
}

func freePort(b *testing.B) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// makeServices makes them without selectors, so that only the benchmark writes their slices, and returns those.
func makeServices(b *testing.B, client kubernetes.Interface) []*discoveryv1.EndpointSlice {
	b.Helper()
	ctx := b.Context()
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "bench"}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	made := make([]*discoveryv1.EndpointSlice, servicesTotal)
	failed := make(chan error, workers)
	var running sync.WaitGroup
	for worker := range workers {
		running.Go(func() {
			for i := worker; i < servicesTotal; i += workers {
				var err error
				if made[i], err = makeService(ctx, client, i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	running.Wait()
	select {
	case err := <-failed:
		b.Fatal(err)
	default:
	}
	return made
}

func makeService(ctx context.Context, client kubernetes.Interface, i int) (*discoveryv1.EndpointSlice, error) {
	name := fmt.Sprintf("s%d", i)
	if _, err := client.CoreV1().Services("bench").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}},
	}, metav1.CreateOptions{}); err != nil {
		return nil, err
	}
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: "bench"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To[int32](8080), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for k := range 4 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.%d.%d.%d", 244+k, i>>8, i&255)}, NodeName: ptr.To(fmt.Sprintf("node%d", k)),
		})
	}
	return client.DiscoveryV1().EndpointSlices("bench").Create(ctx, slice, metav1.CreateOptions{})
}

// startWatcher runs a node's watcher and returns when all services are in the maps.
func startWatcher(b *testing.B, client kubernetes.Interface, plane *service.Plane) *arrivals {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a := &arrivals{Plane: plane, ctx: ctx, waiting: map[string]chan<- time.Time{}, synced: make(chan struct{})}
	factory := informers.NewSharedInformerFactory(client, 0)
	w, err := services.New(services.Config{
		Factory: factory, Node: "node0", Plane: a, Router: noRoutes{}, Recorder: record.NewFakeRecorder(1000),
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
	})
	if err != nil {
		cancel()
		b.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	factory.StartWithContext(ctx)
	b.Cleanup(func() {
		cancel()
		factory.Shutdown()
		if err := <-done; err != nil {
			b.Error(err)
		}
		a.running.Wait()
	})
	patience, stop := context.WithTimeout(ctx, lab.Deadline)
	defer stop()
	select {
	case <-a.synced:
	case <-patience.Done():
		b.Fatal("not all services were set")
	}
	if err := plane.Flush(patience); err != nil {
		b.Fatal(err)
	}
	return a
}
