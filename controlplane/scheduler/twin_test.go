package scheduler

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

func testNode(name, zone string, milliCPU, pods int64) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone, corev1.LabelHostname: name, "disk": "ssd"}},
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

// check says what is wrong with a choice.
func (w *twin) check(pod *corev1.Pod, chosen *host) string {
	totals := w.totals(pod)
	best := int64(-1)
	for _, total := range totals {
		best = max(best, total)
	}
	switch {
	case chosen == nil && len(totals) > 0:
		return fmt.Sprintf("no node was chosen, but there is room: %v", totals)
	case chosen == nil:
		return ""
	}
	total, fits := totals[chosen.name]
	if !fits {
		return "does not fit on " + chosen.name
	}
	if len(totals) > 1 && total != best {
		return fmt.Sprintf("%s has the score %d of %v", chosen.name, total, totals)
	}
	return ""
}

// checkVictims says what is wrong with the pods that are to go for one that fits nowhere.
func (w *twin) checkVictims(pod *corev1.Pod, k *candidate) string {
	without := func(gone func(*corev1.Pod) bool) *twin {
		rest := *w
		rest.placed = map[string]*corev1.Pod{}
		for name, p := range w.placed {
			if !gone(p) {
				rest.placed[name] = p
			}
		}
		return &rest
	}
	if k == nil {
		for name, n := range w.nodes {
			lower := func(p *corev1.Pod) bool { return p.Spec.NodeName == name && *p.Spec.Priority < *pod.Spec.Priority }
			if without(lower).fits(pod, n) {
				return "no victims were found, but it fits on " + name + " without the pods of lower priority"
			}
		}
		return ""
	}
	gone := map[string]bool{}
	for _, v := range k.victims {
		gone[v.request.pod.Name] = true
		if *v.request.pod.Spec.Priority >= *pod.Spec.Priority || v.host != k.host {
			return v.request.pod.Name + " is no victim for it"
		}
	}
	if !without(func(p *corev1.Pod) bool { return gone[p.Name] }).fits(pod, w.nodes[k.host.name]) {
		return fmt.Sprintf("it does not fit on %s without %v", k.host.name, gone)
	}
	return ""
}

// step schedules one pod in both and compares.
func step(t *testing.T, c *cluster, w *twin, pod *corev1.Pod) bool {
	t.Helper()
	req := newRequest(pod)
	c.mu.Lock()
	h, why := c.choose(req)
	var victims *candidate
	if h != nil {
		c.assume(req, h)
	} else if why.nodes > 0 {
		victims, _ = c.preempt(req, c.checksFor(req), why)
	}
	c.mu.Unlock()
	if wrong := w.check(pod, h); wrong != "" {
		t.Fatalf("pod %s: %s", textOf(pod), wrong)
	}
	if h == nil {
		if wrong := w.checkVictims(pod, victims); wrong != "" {
			t.Fatalf("pod %s: %s", textOf(pod), wrong)
		}
		if victims != nil {
			for _, p := range victims.victims {
				delete(w.placed, p.request.pod.Name)
				c.free(p.request.pod)
			}
		}
		return false
	}
	bound := pod.DeepCopy()
	bound.Spec.NodeName = h.name
	w.placed[pod.Name] = bound
	c.place(newRequest(bound)) // what the cache delivers after the binding
	return true
}

func TestChoiceAgainstTwin(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			c, w := newCluster(DefaultConfiguration()), newTwin()
			addNode := func(i int) {
				n := randomNode(rng, i)
				w.nodes[n.Name] = n
				c.setNode(n)
			}
			nodes := 1 + rng.IntN(20)
			for i := range nodes {
				addNode(i)
			}
			for i := range 150 {
				switch rng.IntN(16) {
				case 0: // a pod goes
					for _, p := range w.any(rng) {
						delete(w.placed, p.Name)
						c.free(p)
					}
				case 1: // a pod begins to go
					for _, p := range w.any(rng) {
						p.DeletionTimestamp = &metav1.Time{}
						w.placed[p.Name] = p
						c.place(newRequest(p))
					}
				case 2: // a pod's labels change
					for _, p := range w.any(rng) {
						p.Labels = map[string]string{"app": fmt.Sprint("app", rng.IntN(3))}
						w.placed[p.Name] = p
						c.place(newRequest(p))
					}
				case 3: // a node changes, perhaps its labels and taints too
					addNode(rng.IntN(nodes))
				case 4: // a node goes, and its pods stay
					name := fmt.Sprintf("node%02d", rng.IntN(nodes))
					delete(w.nodes, name)
					c.removeNode(name)
				case 5:
					team := map[string]string{"team": fmt.Sprint(rng.IntN(2))}
					w.namespaces["other"] = team
					c.setNamespace("other", team)
				case 6:
					w.service = labels.Set{"app": fmt.Sprint("app", rng.IntN(3))}
					c.setService("default", "web", labels.SelectorFromSet(w.service))
				case 7:
					for range rng.IntN(4) {
						c.sweep()
					}
				default:
					step(t, c, w, randomPod(rng, i))
				}
			}
		})
	}
}

// Equal hosts take turns, and pods of a kind stay even to within one, per zone and per host.
func TestSpreadIsEven(t *testing.T) {
	c, w := newCluster(DefaultConfiguration()), newTwin()
	for i := range 9 {
		n := testNode(fmt.Sprintf("node%d", i), fmt.Sprintf("zone%d", i%3), 100000, 110)
		w.nodes[n.Name] = n
		c.setNode(n)
	}
	for i := range 100 {
		if !step(t, c, w, testPod(fmt.Sprintf("pod%d", i), "web", 1, 0)) {
			t.Fatal("no room")
		}
		hosts, zones := map[string]int{}, map[string]int{}
		for _, p := range w.placed {
			hosts[p.Spec.NodeName]++
			zones[w.nodes[p.Spec.NodeName].Labels[corev1.LabelTopologyZone]]++
		}
		for total, counts := range map[int]map[string]int{9: hosts, 3: zones} {
			least, most := 1<<30, 0
			if len(counts) < total {
				least = 0
			}
			for _, n := range counts {
				least, most = min(least, n), max(most, n)
			}
			if most-least > 1 {
				t.Fatalf("after %d pods they are spread as %v", i+1, counts)
			}
		}
	}
}

// Large clusters are searched in part; what is chosen must fit all the same, and all hosts get pods.
func TestManyHosts(t *testing.T) {
	const hosts = 2000
	c := newCluster(DefaultConfiguration())
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
