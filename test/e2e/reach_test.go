package e2e

import (
	"flag"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

var saturated = flag.Duration("saturated", 10*time.Second, "how long every CPU is kept busy while hosts watch each other")

// watched waits until every host watches the others, and returns them.
func (s *space) watched() []*cluster.Node {
	s.Helper()
	hosts, err := local.Nodes()
	if err != nil {
		s.Fatal(err)
	}
	for _, host := range hosts {
		for s.Metric(host.Name, "skep_reach_nodes_watched") != float64(len(hosts)-1) {
			if s.Context().Err() != nil {
				s.Fatalf("%s does not watch the others", host.Name)
			}
		}
	}
	return hosts
}

func (s *space) verdicts(hosts []*cluster.Node) (sum float64) {
	s.Helper()
	for _, host := range hosts {
		sum += s.Metric(host.Name, "skep_reach_verdicts_total")
	}
	return sum
}

// A host that is cut off leaves the maps of the others by their verdict, without the control plane, and is back as fast.
func TestCutOffHostLeavesTheMaps(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	hosts := s.watched()
	for _, host := range hosts {
		others := slices.DeleteFunc(slices.Clone(hosts), func(n *cluster.Node) bool { return n == host })
		before := s.verdicts(others)
		if err := host.Cut(); err != nil {
			t.Fatal(err)
		}
		out, err := clustertest.AwaitStates(others, host.Name, clustertest.Down, clustertest.None)
		if healErr := host.Heal(); err != nil || healErr != nil {
			t.Fatal(err, healErr)
		}
		back, err := clustertest.AwaitStates(others, host.Name, clustertest.Up, clustertest.None)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: out of the others' maps %v after it was cut off, in them again %v after it was healed", host.Name, out.Round(time.Millisecond), back.Round(time.Millisecond))
		if made := s.verdicts(others) - before; made < float64(len(others)) {
			t.Errorf("%s: %v verdicts at %d others: it was not their verdict that took it out", host.Name, made, len(others))
		}
	}
}

// A host whose processes all stand still for three seconds can be reached: its kernel answers, and nobody takes it out.
func TestPausedHostIsReachable(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	hosts := s.watched()
	paused, others := hosts[0], hosts[1:]
	before := s.verdicts(others)
	if err := paused.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		for _, host := range others {
			if state, err := clustertest.StateOf(host, paused.Name); err != nil || state == clustertest.Down {
				t.Errorf("%s has %s as down, or %v", host.Name, paused.Name, err)
			}
		}
	}
	if err := paused.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if made := s.verdicts(others) - before; made != 0 {
		t.Errorf("%v verdicts while %s was paused", made, paused.Name)
	}
}

// While every CPU of the machine is busy, nobody is taken for lost (-saturated says how long).
func TestNoFalseAlarmWhenSaturated(t *testing.T) {
	s := newSpace(t)
	hosts := s.watched()
	before := s.verdicts(hosts)
	for range 4 * runtime.NumCPU() {
		busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	}
	time.Sleep(*saturated) // the load's time is what is tested
	var late float64
	for _, host := range hosts {
		late += s.Metric(host.Name, `skep_reach_void_rounds_total{reason="late"}`)
	}
	if made := s.verdicts(hosts) - before; made != 0 {
		t.Errorf("%v verdicts in %v with every CPU busy", made, *saturated)
	}
	t.Logf("no verdict in %v with %d busy processes on %d CPUs; %v rounds of probes were late", *saturated, 4*runtime.NumCPU(), runtime.NumCPU(), late)
}

// witnessed is how many hosts the control plane has given up by what their watchers said.
func (s *space) witnessed() float64 {
	s.Helper()
	for line := range strings.Lines(s.Skep("get", "--raw", "/metrics")) {
		if value, ok := strings.CutPrefix(line, `skep_node_silences_total{by="witnesses"} `); ok {
			count, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				s.Fatal(err)
			}
			return count
		}
	}
	return 0
}

// boundElsewhere is how many of the pods are to run on other hosts.
func boundElsewhere(pods []corev1.Pod, host string) (count int) {
	for _, pod := range pods {
		if pod.Labels["app"] == "echo" && pod.DeletionTimestamp == nil && pod.Spec.NodeName != "" && pod.Spec.NodeName != host {
			count++
		}
	}
	return count
}

// The pods of a host that is cut off are bound elsewhere before its lease has run out, by its watchers' word.
func TestPodsOfLostHostMove(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	s.watched()
	pods, err := client.CoreV1().Pods(s.Name).List(t.Context(), metav1.ListOptions{LabelSelector: "app=echo"})
	if err != nil {
		t.Fatal(err)
	}
	asks, err := client.CoreV1().Pods(s.Name).Get(t.Context(), "client", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The client has no controller: on a host that is lost it would be lost too.
	lost := slices.IndexFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Spec.NodeName != asks.Spec.NodeName })
	if lost < 0 {
		t.Fatalf("all pods are on %s", asks.Spec.NodeName)
	}
	host, err := local.Node(pods.Items[lost].Spec.NodeName)
	if err != nil {
		t.Fatal(err)
	}
	before := s.witnessed()
	if err := host.Cut(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Heal(); err != nil {
			t.Error(err)
		}
	}()
	began := time.Now()
	s.Await("three echo pods on other hosts", func(pods []corev1.Pod) bool { return boundElsewhere(pods, host.Name) == 3 })
	took := time.Since(began)
	if s.witnessed() == before {
		t.Errorf("the pods moved after %v, but not by its watchers' word", took)
	}
	t.Logf("bound elsewhere %v after the host was cut off", took.Round(time.Millisecond))
	if err := host.Heal(); err != nil {
		t.Fatal(err)
	}
	s.untilAsked(3)
}
