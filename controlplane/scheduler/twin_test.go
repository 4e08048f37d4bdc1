package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func testNode(name, zone string, milliCPU, pods int64) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone, "disk": "ssd"}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{
				corev1.ResourceCPU:    *resource.NewMilliQuantity(milliCPU, resource.DecimalSI),
				corev1.ResourceMemory: resource.MustParse("64Gi"),
				corev1.ResourcePods:   *resource.NewQuantity(pods, resource.DecimalSI),
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func testPod(name, app string, milliCPU int64, port int32) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name), Labels: map[string]string{"app": app}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: *resource.NewMilliQuantity(milliCPU, resource.DecimalSI)},
		}}}},
	}
	if port != 0 {
		pod.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: port, HostPort: port, Protocol: corev1.ProtocolTCP}}
	}
	return pod
}

// twin has the same state as the cluster and computes everything from scratch, each time.
type twin struct {
	nodes  map[string]*corev1.Node
	placed map[string]*corev1.Pod // by name, with nodeName
}

func (w *twin) on(node string) (pods []*corev1.Pod) {
	for _, p := range w.placed {
		if p.Spec.NodeName == node {
			pods = append(pods, p)
		}
	}
	return pods
}

func cpuOf(p *corev1.Pod) int64 { return p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() }

func (w *twin) fits(pod *corev1.Pod, node *corev1.Node) bool {
	used, pods := int64(0), w.on(node.Name)
	for _, p := range pods {
		used += cpuOf(p)
		for _, have := range p.Spec.Containers[0].Ports {
			for _, want := range pod.Spec.Containers[0].Ports {
				if have.HostPort == want.HostPort {
					return false
				}
			}
		}
	}
	return !node.Spec.Unschedulable && used+cpuOf(pod) <= node.Status.Allocatable.Cpu().MilliValue() &&
		int64(len(pods)) < node.Status.Allocatable.Pods().Value()
}

// spread is how many pods of the same app are in a node's zone and on the node.
func (w *twin) spread(pod *corev1.Pod, node *corev1.Node) (zone, host int) {
	for _, p := range w.placed {
		if p.Labels["app"] != pod.Labels["app"] {
			continue
		}
		if p.Spec.NodeName == node.Name {
			host++
		}
		if w.nodes[p.Spec.NodeName].Labels[corev1.LabelTopologyZone] == node.Labels[corev1.LabelTopologyZone] {
			zone++
		}
	}
	return zone, host
}

// check says what is wrong with a choice.
func (w *twin) check(pod *corev1.Pod, chosen *host) string {
	bestZone, bestHost, any := 0, 0, false
	for _, n := range w.nodes {
		if !w.fits(pod, n) {
			continue
		}
		zone, host := w.spread(pod, n)
		if !any || zone < bestZone || zone == bestZone && host < bestHost {
			bestZone, bestHost, any = zone, host, true
		}
	}
	switch {
	case chosen == nil && any:
		return "no node was chosen, but there is room"
	case chosen == nil:
		return ""
	case !w.fits(pod, w.nodes[chosen.name]):
		return "does not fit on " + chosen.name
	}
	if zone, host := w.spread(pod, w.nodes[chosen.name]); zone != bestZone || host != bestHost {
		return fmt.Sprintf("%s has %d of its group in the zone and %d on the host, %d and %d are possible", chosen.name, zone, host, bestZone, bestHost)
	}
	return ""
}

// step schedules one pod in both and compares.
func step(t *testing.T, c *cluster, w *twin, pod *corev1.Pod) bool {
	t.Helper()
	req := newRequest(pod)
	c.mu.Lock()
	h, _ := c.choose(req)
	if h != nil {
		c.assume(req, h)
	}
	c.mu.Unlock()
	if wrong := w.check(pod, h); wrong != "" {
		t.Fatalf("pod %s: %s", pod.Name, wrong)
	}
	if h == nil {
		return false
	}
	bound := pod.DeepCopy()
	bound.Spec.NodeName = h.name
	w.placed[pod.Name] = bound
	c.place(newRequest(bound)) // what the cache delivers after the binding
	return true
}

func TestChoiceAgainstTwin(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			c, w := newCluster(), &twin{nodes: map[string]*corev1.Node{}, placed: map[string]*corev1.Pod{}}
			addNode := func(i int) {
				n := testNode(fmt.Sprintf("node%02d", i), fmt.Sprintf("zone%d", rng.IntN(4)), 500+rng.Int64N(4000), 1+rng.Int64N(12))
				n.Spec.Unschedulable = rng.IntN(8) == 0
				w.nodes[n.Name] = n
				c.setNode(n)
			}
			nodes := 1 + rng.IntN(20)
			for i := range nodes {
				addNode(i)
			}
			for i := range 150 {
				switch rng.IntN(10) {
				case 0: // a pod goes
					for name, p := range w.placed {
						delete(w.placed, name)
						c.free(p)
						break
					}
				case 1: // a node changes, perhaps its zone too
					addNode(rng.IntN(nodes))
				default:
					port := int32(0)
					if rng.IntN(6) == 0 {
						port = 8000 + rng.Int32N(2)
					}
					step(t, c, w, testPod(fmt.Sprintf("pod%d", i), fmt.Sprintf("app%d", rng.IntN(3)), 10+rng.Int64N(900), port))
				}
			}
		})
	}
}

// Equal hosts take turns, and groups stay even to within one, per zone and per host.
func TestSpreadIsEven(t *testing.T) {
	c, w := newCluster(), &twin{nodes: map[string]*corev1.Node{}, placed: map[string]*corev1.Pod{}}
	for i := range 9 {
		n := testNode(fmt.Sprintf("node%d", i), fmt.Sprintf("zone%d", i%3), 100000, 110)
		w.nodes[n.Name] = n
		c.setNode(n)
	}
	for i := range 100 {
		if !step(t, c, w, testPod(fmt.Sprintf("pod%d", i), "web", 1, 0)) {
			t.Fatal("no room")
		}
		g := c.groups["default/app=web"]
		for what, counts := range map[string]map[string]int{"host": g.byHost, "zone": g.byZone} {
			least, most := 1<<30, 0
			total := map[string]int{"host": 9, "zone": 3}[what]
			if len(counts) < total {
				least = 0
			}
			for _, n := range counts {
				least, most = min(least, n), max(most, n)
			}
			if most-least > 1 {
				t.Fatalf("after %d pods the %ss have %v", i+1, what, counts)
			}
		}
	}
}

// Large clusters are searched in part; what is chosen must fit all the same, and all hosts get pods.
func TestManyHosts(t *testing.T) {
	const hosts = 2000
	c := newCluster()
	for i := range hosts {
		c.setNode(testNode(fmt.Sprintf("node%04d", i), fmt.Sprintf("zone%d", i%5), 1000, 3))
	}
	for i := range 3 * hosts {
		req := newRequest(testPod(fmt.Sprintf("pod%d", i), fmt.Sprint("app", i%50), 300, 0))
		c.mu.Lock()
		h, why := c.choose(req)
		if h == nil {
			t.Fatalf("pod %d: %v", i, why)
		}
		c.assume(req, h)
		c.mu.Unlock()
	}
	for name, h := range c.hosts {
		if h.pods != 3 || h.requested.milliCPU != 900 {
			t.Fatalf("%s has %d pods that request %d, want 3 and 900", name, h.pods, h.requested.milliCPU)
		}
	}
	_, why := c.choose(newRequest(testPod("one-more", "x", 300, 0)))
	if got, want := why.String(), "0/2000 nodes are available: 2000 Insufficient cpu, 2000 Too many pods."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func BenchmarkChoose5000(b *testing.B) {
	c := newCluster()
	for i := range 5000 {
		c.setNode(testNode(fmt.Sprintf("node%04d", i), fmt.Sprintf("zone%d", i%5), 64000, 1<<30))
	}
	for i := 0; b.Loop(); i++ {
		req := newRequest(testPod(fmt.Sprintf("pod%d", i), fmt.Sprint("app", i%50), 1, 0))
		c.mu.Lock()
		h, _ := c.choose(req)
		c.assume(req, h)
		c.mu.Unlock()
	}
}
