package pod_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
	"github.com/skep-io/skep/agent/services"
	"github.com/skep-io/skep/agent/sysctl"
	"github.com/skep-io/skep/dataplane/podnet"
	"github.com/skep-io/skep/dataplane/service"
)

const (
	testImage = "skep.test/busybox:1"
	testNode  = "node1"
)

// addresses is a network that hands out addresses and makes no interface:
// what pods do with one is podnet's business.
type addresses struct {
	mu   sync.Mutex
	next byte
	held map[string]podnet.Attachment
	hang chan struct{} // while it is open, the kernel does not answer
}

// cut has calls hang from now on, until the kernel answers again.
func (a *addresses) cut() (restore func()) {
	hang := make(chan struct{})
	a.mu.Lock()
	a.hang = hang
	a.mu.Unlock()
	return sync.OnceFunc(func() {
		a.mu.Lock()
		a.hang = nil
		a.mu.Unlock()
		close(hang)
	})
}

// kernel waits while there is no answer.
func (a *addresses) kernel() {
	a.mu.Lock()
	hang := a.hang
	a.mu.Unlock()
	if hang != nil {
		<-hang
	}
}

func (a *addresses) Attach(podID, _ string, _ podnet.Bandwidth) (podnet.Attachment, error) {
	a.kernel()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil {
		a.held = map[string]podnet.Attachment{}
	}
	if have, ok := a.held[podID]; ok {
		return have, nil
	}
	a.next++
	a.held[podID] = podnet.Attachment{Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 244, 7, a.next})}}
	return a.held[podID], nil
}

func (a *addresses) Detach(podID string) error {
	a.kernel()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.held, podID)
	return nil
}

func (a *addresses) Attachments() map[string]podnet.Attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := map[string]podnet.Attachment{}
	for k, v := range a.held {
		all[k] = v
	}
	return all
}

// plane records what has been withdrawn.
type plane struct {
	mu        sync.Mutex
	withdrawn map[netip.Addr]time.Time
	times     int
}

func (p *plane) WithdrawAddress(addr netip.Addr) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.withdrawn == nil {
		p.withdrawn = map[netip.Addr]time.Time{}
	}
	p.withdrawn[addr] = time.Now()
	p.times++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.withdrawn, addr)
	}
}

// The watcher's events about services are not checked here.
func (p *plane) SetService(service.Service)            {}
func (p *plane) DeleteService(string)                  {}
func (p *plane) Synced()                               {}
func (p *plane) SetNodeDown(string, bool)              {}
func (p *plane) SetNodeAddresses(string, []netip.Addr) {}
func (p *plane) SetNodeUnwraps(string, bool)           {}
func (p *plane) Flush(context.Context) error           { return nil }
func (p *plane) AwaitProblems(ctx context.Context) map[string][]service.Problem {
	<-ctx.Done()
	return nil
}

type noRoutes struct{}

func (noRoutes) SyncRoutes([]podnet.Peer) error { return nil }

// cluster is one node's agent part on a real containerd.
type cluster struct {
	t       testing.TB
	node    *runtimetest.Node
	client  kubernetes.Interface
	network *addresses
	plane   *plane
	ports   *hostPorts
	watcher *services.Watcher
	events  *record.FakeRecorder
	pods    *pod.Pods
	stop    func()
	change  func(*podConfig)

	mu  sync.Mutex
	log []string
}

func newCluster(t testing.TB, client kubernetes.Interface) *cluster {
	t.Helper()
	return newClusterOn(t, client, func(*runtimetest.Node) {})
}

// newClusterOn has a runtime that the test changes first.
func newClusterOn(t testing.TB, client kubernetes.Interface, change func(*runtimetest.Node)) *cluster {
	t.Helper()
	if client == nil {
		client = fake.NewClientset()
	}
	c := &cluster{t: t, node: runtimetest.StartWith(t, change), client: client, network: &addresses{}, plane: &plane{}, ports: &hostPorts{}}
	if _, err := c.node.Import(context.Background(), runtimetest.Archive(t, testImage, runtimetest.Image(t, nil))); err != nil {
		t.Fatal(err)
	}
	c.events = record.NewFakeRecorder(1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range c.events.Events {
			c.mu.Lock()
			c.log = append(c.log, e)
			c.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		c.stop()
		close(c.events.Events)
		<-done
		if t.Failed() {
			c.mu.Lock()
			defer c.mu.Unlock()
			for _, e := range c.log {
				t.Log("event:", e)
			}
		}
	})
	c.startAgent()
	return c
}

type podConfig = pod.Config

// startWith starts the agent again with other settings.
func (c *cluster) startWith(change func(*podConfig), away func()) {
	c.t.Helper()
	runtimetest.Eventually(c.t, "the agent's start", func() bool { return c.watcher.HasSynced() && c.pods.HasSynced() })
	c.change = change
	c.restartAgent(away)
}

func (c *cluster) startAgent() {
	ctx, cancel := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(c.client, 0)
	watcher, err := services.New(services.Config{
		Factory: factory, Node: testNode, Plane: c.plane, Router: noRoutes{}, Recorder: c.events,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.watcher = watcher
	watching := make(chan error, 1)
	go func() { watching <- watcher.Run(ctx) }()
	factory.Start(ctx.Done())
	allowed, err := sysctl.NewAllowlist(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	cfg := pod.Config{
		Client: c.client, NodeName: testNode, NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
		Runtime: c.node.Runtime, Network: c.network, Plane: c.plane, Recorder: c.events,
		Endpoints: watcher, HostPorts: c.ports, Adopted: func() {},
		Services: watcher.Lister(), ServicesSynced: watcher.HasSynced,
		ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ClusterDomain: "cluster.local",
		Sysctls: allowed,
	}
	if c.change != nil {
		c.change(&cfg)
	}
	c.pods = pod.New(cfg)
	done := make(chan error, 1)
	go func() { done <- c.pods.Run(ctx) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("Run: %v", err)
		}
		if err := <-watching; err != nil {
			c.t.Errorf("watcher: %v", err)
		}
		factory.Shutdown()
	})
}

// restartAgent is what an upgrade does: nothing of the old one remains.
func (c *cluster) restartAgent(away func()) {
	c.stop()
	c.node.Disconnect()
	away()
	c.node.Connect()
	c.startAgent()
}

// awaitEvent waits for an event that has all these parts.
func (c *cluster) awaitEvent(parts ...string) {
	c.t.Helper()
	runtimetest.Eventually(c.t, fmt.Sprintf("an event with %q", parts), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.ContainsFunc(c.log, func(e string) bool {
			return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(e, part) })
		})
	})
}

func (c *cluster) hasEvent(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.log {
		if e == text {
			return true
		}
	}
	return false
}

// newPod is a pod bound to the node, as the API server would give it out.
func newPod(name string, change func(*corev1.PodSpec)) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{
			NodeName: testNode, RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst,
			TerminationGracePeriodSeconds: &grace,
			Containers:                    []corev1.Container{container("main", "sleep 1000")},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	if change != nil {
		change(&p.Spec)
	}
	return p
}

func container(name, script string) corev1.Container {
	return corev1.Container{
		Name: name, Image: testImage, Command: []string{"sh", "-c", script}, ImagePullPolicy: corev1.PullIfNotPresent,
		TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
}

func (c *cluster) create(p *corev1.Pod) *corev1.Pod {
	c.t.Helper()
	created, err := c.client.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return created
}

func (c *cluster) get(name string) *corev1.Pod {
	c.t.Helper()
	p, err := c.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// await watches the pod until the condition holds.
func (c *cluster) await(name, what string, condition func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var last *corev1.Pod
	for ctx.Err() == nil { // a server may end a watch at any time
		w, err := c.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			break
		}
		last = c.get(name)
		found := condition(last)
		for !found {
			var e watch.Event
			select {
			case e = <-w.ResultChan():
			case <-ctx.Done(): // which a fake server's watch does not notice
			}
			if e.Object == nil {
				break
			}
			if p, ok := e.Object.(*corev1.Pod); ok && p.Name == name {
				last = p
				found = condition(p)
			}
		}
		w.Stop()
		if found {
			return last
		}
	}
	c.t.Fatalf("pod %s: not in a minute: %s; status %s", name, what, describe(last))
	return nil
}

func describe(p *corev1.Pod) string {
	s := fmt.Sprintf("%s %s", p.Status.Phase, p.Status.Reason)
	for _, cs := range append(append([]corev1.ContainerStatus(nil), p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		s += fmt.Sprintf("; %s ready=%v restarts=%d %+v last %+v", cs.Name, cs.Ready, cs.RestartCount, cs.State, cs.LastTerminationState)
	}
	return s
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
