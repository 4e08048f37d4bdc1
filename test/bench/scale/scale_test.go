package scale

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/sandbox"
	"github.com/skep-io/skep/test/bench/skepd"
	"github.com/skep-io/skep/witness"
)

var (
	nodes    = flag.Int("nodes", 400, "how many nodes the cluster grows to")
	pods     = flag.Int("pods", 12000, "how many pods run on all nodes then")
	services = flag.Int("services", 800, "how many services select them")
)

// namespace is where the pods and services are.
const namespace = "scale"

// changes is how many endpoint changes are measured at each size, and quiet for how long the cluster is watched doing nothing.
const (
	changes = 20
	quiet   = 15 * time.Second
)

// A network of its own: the hollow nodes' addresses lead nowhere.
func TestMain(m *testing.M) { os.Exit(sandbox.Main(m, nil)) }

func BenchmarkScale(b *testing.B) {
	ctx, stop := context.WithCancel(b.Context())
	s := skepd.Start(b, "../../../bin/skepd", "--pod-cidr", "172.16.0.0/12", "--node-cidr-mask-size", "25", "--service-cidr", "10.0.0.0/16")
	f := &fleet{ctx: ctx}
	defer f.end(stop)
	c := &cluster{Process: s, fleet: f, dir: skepd.MemoryDir(b)}
	if _, err := s.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	c.makeProbe(b)
	for b.Loop() { // once: a cluster of one size cannot be had twice in a run
		if c.done {
			break
		}
		for _, share := range []int{4, 2, 1} {
			c.measure(b, *nodes/share, *pods/share, *services/share)
		}
		c.done = true
	}
	b.ReportMetric(0, "ns/op")
}

// end stops all nodes.
func (f *fleet) end(stop context.CancelFunc) {
	stop()
	for _, h := range f.nodes {
		h.end()
	}
}

// cluster is the control plane with its hollow nodes.
type cluster struct {
	*skepd.Process
	fleet *fleet
	dir   string
	apps  int
	done  bool
}

// measure grows the cluster to a size, and prints what it costs.
func (c *cluster) measure(b *testing.B, nodes, pods, services int) {
	b.Helper()
	began := time.Now()
	if err := c.fleet.grow(b.Context(), c.Process, c.dir, nodes); err != nil {
		b.Fatal(err)
	}
	joined := time.Since(began)
	began = time.Now()
	started := c.growApps(b, services, pods/services)
	fmt.Printf("%d nodes, %d pods, %d services: joined in %.1fs, %d pods created, bound and running in %.1fs (%.0f/s)\n",
		nodes, pods, services, joined.Seconds(), started, time.Since(began).Seconds(), float64(started)/time.Since(began).Seconds())
	c.measureRest(b)
	c.measureChanges(b)
	c.measureFailure(b, false)
	c.measureFailure(b, true)
	report := func(figure float64, unit string) { b.ReportMetric(figure, fmt.Sprintf("%d-nodes-%s", nodes, unit)) }
	report(c.ResidentMB(b), "MB")
}

// growApps makes replication controllers with a service each, and returns how many pods that were when all of them run.
func (c *cluster) growApps(b *testing.B, n, replicas int) int {
	b.Helper()
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(16)
	before := c.apps
	for ; c.apps < n; c.apps++ {
		name := fmt.Sprintf("app%05d", c.apps)
		group.Go(func() error { return c.makeApp(ctx, name, int32(replicas)) })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	c.awaitReady(b, n*replicas)
	return (n - before) * replicas
}

func (c *cluster) makeApp(ctx context.Context, name string, replicas int32) error {
	labels := map[string]string{"app": name}
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}},
	}
	if _, err := c.Client.CoreV1().Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/app:1"}}},
		}},
	}
	_, err := c.Client.CoreV1().ReplicationControllers(namespace).Create(ctx, rc, metav1.CreateOptions{})
	return err
}

// awaitReady waits until so many pods are ready by their controllers' counts.
func (c *cluster) awaitReady(b *testing.B, want int) {
	b.Helper()
	last, moved := -1, time.Now()
	for {
		list, err := c.Client.CoreV1().ReplicationControllers(namespace).List(b.Context(), metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			b.Fatal(err)
		}
		ready := 0
		for i := range list.Items {
			ready += int(list.Items[i].Status.ReadyReplicas)
		}
		if ready == want {
			return
		}
		if ready != last {
			last, moved = ready, time.Now()
		}
		if time.Since(moved) > 2*time.Minute {
			b.Fatalf("%d of %d pods are ready, and there were no more in 2 minutes", ready, want)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// traffic is what the watches of all nodes have received.
func (f *fleet) traffic() (bytes, events int64) {
	for _, h := range f.nodes {
		bytes += h.received.Load()
		events += h.events.Load()
	}
	return bytes, events
}

// measureRest is what a cluster costs in which nothing happens: leases, heartbeats and bookmarks.
func (c *cluster) measureRest(b *testing.B) {
	b.Helper()
	time.Sleep(quiet / 3) // what the pods' start has left to do; the figures after it are a mean
	cpu, began := c.CPU(b), time.Now()
	bytes, events := c.fleet.traffic()
	time.Sleep(quiet)
	moreBytes, moreEvents := c.fleet.traffic()
	seconds, n := time.Since(began).Seconds(), float64(len(c.fleet.nodes))
	fmt.Printf("  at rest: skepd uses %.2f of a CPU, %.0f MB; a node receives %.0f bytes in %.2f events a second\n",
		(c.CPU(b)-cpu).Seconds()/seconds, c.ResidentMB(b), float64(moreBytes-bytes)/n/seconds, float64(moreEvents-events)/n/seconds)
}

// probe is the service whose endpoints the benchmark changes itself; its slice has as many endpoints as those of the others.
const probe = "probe"

func (c *cluster) makeProbe(b *testing.B) {
	b.Helper()
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: probe}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := c.Client.CoreV1().Services(namespace).Create(b.Context(), service, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	if _, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Create(b.Context(), slice("10.255.255.1", true), metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
}

// slice has an address that is looked for, and an endpoint that is not ready if one is withdrawn.
func slice(address string, ready bool) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: probe, Labels: map[string]string{discoveryv1.LabelServiceName: probe}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: ptr.To[int32](80), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for i := range *pods / *services {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.255.0.%d", i%250+1)}, NodeName: ptr.To(fmt.Sprintf("hollow%05d", i)), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	s.Endpoints[0].Addresses[0], s.Endpoints[0].Conditions.Ready = address, &ready
	return s
}

// measureChanges withdraws endpoints: how long until every node has the event, and until every node's lease says so.
func (c *cluster) measureChanges(b *testing.B) {
	b.Helper()
	var lags, acknowledged []time.Duration
	before, _ := c.fleet.traffic()
	cpu := c.CPU(b)
	for i := range changes {
		address := fmt.Sprintf("10.254.%d.%d", len(c.fleet.nodes)%250, i+100)
		m := c.fleet.expect(address)
		began := time.Now()
		s, err := c.Client.DiscoveryV1().EndpointSlices(namespace).Update(b.Context(), slice(address, false), metav1.UpdateOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if pending := c.awaitApplied(b, s.ResourceVersion); len(pending) > 0 {
			b.Fatalf("%d nodes have not applied revision %s", len(pending), s.ResourceVersion)
		}
		acknowledged = append(acknowledged, time.Since(began))
		lags = append(lags, m.lags(b, began)...)
	}
	after, _ := c.fleet.traffic()
	fmt.Printf("  an endpoint change: at a node after %s (median, p99, longest), acknowledged by all after %s; at most %.0f bytes a node, %.1f ms of skepd's CPU\n",
		times(lags), times(acknowledged), float64(after-before)/changes/float64(len(c.fleet.nodes)), (c.CPU(b)-cpu).Seconds()*1000/changes)
}

func (c *cluster) awaitApplied(b *testing.B, revision string) []string {
	b.Helper()
	data, err := c.Client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathApplied).Param("revision", revision).Param("wait", time.Minute.String()).DoRaw(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	var answer skepv1.Applied
	if err := json.Unmarshal(data, &answer); err != nil {
		b.Fatal(err)
	}
	return answer.Pending
}

// measureFailure has a node fall silent, with two of its watchers saying so or without: how long until its pods are bound elsewhere.
func (c *cluster) measureFailure(b *testing.B, witnessed bool) {
	b.Helper()
	victim := c.fleet.nodes[len(c.fleet.nodes)-1]
	c.fleet.nodes = c.fleet.nodes[:len(c.fleet.nodes)-1]
	lost := c.podsOf(b, victim.name)
	began := time.Now()
	victim.end()
	what := "its lease alone"
	if witnessed {
		what = "two witnesses"
		c.accuse(b, victim, began)
	}
	for len(c.podsOf(b, victim.name)) > 0 {
		if time.Since(began) > 2*time.Minute {
			b.Fatalf("%d pods are still bound to %s", len(c.podsOf(b, victim.name)), victim.name)
		}
		time.Sleep(20 * time.Millisecond)
	}
	given := time.Since(began)
	c.awaitReady(b, c.apps*(*pods / *services))
	fmt.Printf("  a node with %d pods falls silent, by %s: given up after %.2fs, replaced and running after %.2fs\n",
		len(lost), what, given.Seconds(), time.Since(began).Seconds())
}

// podsOf are the pods of a node that are not being deleted.
func (c *cluster) podsOf(b *testing.B, node string) (names []string) {
	b.Helper()
	list, err := c.Client.CoreV1().Pods(namespace).List(b.Context(), metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(), ResourceVersion: "0",
	})
	if err != nil {
		b.Fatal(err)
	}
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			names = append(names, list.Items[i].Name)
		}
	}
	return names
}

// accuse has the node's watchers say that they do not reach it, as soon as probes of 50 ms would have told them.
func (c *cluster) accuse(b *testing.B, victim *hollow, since time.Time) {
	b.Helper()
	list, err := c.Client.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		b.Fatal(err)
	}
	var all []witness.Node
	for i := range list.Items {
		all = append(all, witness.FromObject(&list.Items[i]))
	}
	time.Sleep(time.Until(since.Add(250 * time.Millisecond))) // five probes; a moment of the schedule, not a wait for a state
	for _, name := range witness.NewRing(all).Watchers(victim.name)[:witness.Needed] {
		i := slices.IndexFunc(c.fleet.nodes, func(h *hollow) bool { return h.name == name })
		if i < 0 {
			b.Fatalf("%s, which watches %s, has ended", name, victim.name)
		}
		statement, err := c.fleet.nodes[i].says(victim.name, since)
		if err != nil {
			b.Fatal(err)
		}
		body, err := json.Marshal([]skepv1.Statement{statement})
		if err != nil {
			b.Fatal(err)
		}
		if err := c.fleet.nodes[i].client.CoreV1().RESTClient().Post().AbsPath(skepv1.PathStatements(name)).SetHeader("Content-Type", "application/json").Body(body).Do(b.Context()).Error(); err != nil {
			b.Fatal(err)
		}
	}
}

// times are the median, the 99th percentile and the longest.
func times(list []time.Duration) string {
	slices.Sort(list)
	at := func(share float64) string {
		return strconv.FormatFloat(float64(list[int(share*float64(len(list)-1))].Microseconds())/1000, 'f', 1, 64)
	}
	return at(0.5) + "/" + at(0.99) + "/" + at(1) + " ms"
}
