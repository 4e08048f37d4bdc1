package scheduler

import (
	"fmt"
	"math"
	"runtime"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

const (
	benchNodes = 5000
	benchRound = 2000
)

// cpuTime is what this process has spent of CPUs: on a shared machine it says more than the clock does.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchCluster(nodes int, milliCPU int64) *cluster {
	c := newCluster(DefaultConfiguration())
	for i := range nodes {
		c.setNode(testNode(fmt.Sprintf("node%04d", i), fmt.Sprintf("zone%d", i%5), milliCPU, 1<<30))
	}
	return c
}

// decide places a pod, on the room of pods of lower priority if it must.
func decide(b *testing.B, c *cluster, req *request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, why := c.choose(req)
	if h == nil {
		k, refusal := c.preempt(req, c.checksFor(req), why)
		if k == nil {
			b.Fatalf("%v preemption: %s", why, refusal)
		}
		for _, p := range k.victims {
			c.remove(keyOf(p.request.pod), p)
		}
		h = k.host
	}
	c.assume(req, h)
}

// measure places rounds of pods and reports decisions a second of CPU, and how evenly the pods lie on the hosts.
func measure(b *testing.B, c *cluster, pod func(i int) *corev1.Pod) (rate float64) {
	var spent time.Duration
	n := 0
	for b.Loop() {
		reqs := make([]*request, benchRound)
		for i := range reqs {
			reqs[i] = newRequest(pod(n))
			n++
		}
		runtime.GC() // what the pods left behind is not the decisions'
		began := cpuTime(b)
		for _, req := range reqs {
			decide(b, c, req)
		}
		spent += cpuTime(b) - began
	}
	rate = float64(n) / spent.Seconds()
	b.ReportMetric(rate, "decisions/cpu-s")
	mean, squares := float64(len(c.placed))/float64(len(c.hosts)), 0.0
	for _, h := range c.hosts {
		squares += (float64(h.pods) - mean) * (float64(h.pods) - mean)
	}
	b.ReportMetric(math.Sqrt(squares/float64(len(c.hosts))), "pods-stddev")
	b.ReportMetric(0, "ns/op")
	return rate
}

func benchPod(i int) *corev1.Pod { return testPod(fmt.Sprint("pod", i), fmt.Sprint("app", i%50), 1, 0) }

func term(app, key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}}
}

// BenchmarkDecisions is kube-scheduler's scheduler_perf in memory, with 5,000 nodes in five zones: what choosing nodes takes, without the API.
// plain is the workload basic with the former scheduler's work only: filters by node and amounts, and the score by room; ratios are to it.
func BenchmarkDecisions(b *testing.B) {
	plain := 0.0
	run := func(name string, setUp func() *cluster, pod func(i int) *corev1.Pod) {
		b.Run(name, func(b *testing.B) {
			rate := measure(b, setUp(), pod)
			if name == "plain" {
				plain = rate
			} else if plain > 0 {
				b.ReportMetric(rate/plain, "of-plain")
			}
		})
	}
	empty := func() *cluster { return benchCluster(benchNodes, 64000) }
	run("plain", func() *cluster {
		c := empty()
		p := c.configuration.profiles[corev1.DefaultSchedulerName]
		p.filters, p.scores = []filter{nodeStateFilter{}, nodeAffinityFilter{}, portFilter{}, resourceFilter{}}, []weightedScore{{leastAllocatedScore{}, 1}}
		return c
	}, benchPod)
	run("basic", empty, benchPod)
	run("preferred-node-affinity", empty, func(i int) *corev1.Pod {
		p := benchPod(i)
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: []string{"zone1"}}}},
		}}}}
		return p
	})
	run("preferred-pod-affinity", empty, func(i int) *corev1.Pod {
		p := benchPod(i)
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: term(p.Labels["app"], corev1.LabelHostname)},
		}}}
		return p
	})
	run("preferred-anti-affinity", empty, func(i int) *corev1.Pod {
		p := benchPod(i)
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: term(p.Labels["app"], corev1.LabelHostname)},
		}}}
		return p
	})
	run("anti-affinity", empty, func(i int) *corev1.Pod {
		p := testPod(fmt.Sprint("pod", i), fmt.Sprint("app", i/1000), 1, 0)
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(p.Labels["app"], corev1.LabelHostname)},
		}}
		return p
	})
	spread := func(action corev1.UnsatisfiableConstraintAction) func(i int) *corev1.Pod {
		return func(i int) *corev1.Pod {
			p := benchPod(i)
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
				MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: action, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}},
			}}
			return p
		}
	}
	run("spread", empty, spread(corev1.DoNotSchedule))
	run("preferred-spread", empty, spread(corev1.ScheduleAnyway))
	run("preemption", func() *cluster {
		c := benchCluster(500, 4000)
		for i := range 4 * 500 {
			p := testPod(fmt.Sprint("low", i), "low", 900, 0)
			p.Spec.NodeName = fmt.Sprintf("node%04d", i%500)
			c.place(newRequest(p))
		}
		return c
	}, func(i int) *corev1.Pod {
		p := testPod(fmt.Sprint("high", i), "high", 3000, 0)
		p.Spec.Priority = ptr.To(int32(1 + i)) // each takes the room of those before
		return p
	})
}
