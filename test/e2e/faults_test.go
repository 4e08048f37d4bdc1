package e2e

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

// hold starts a pod that keeps a connection through the service and returns
// when it has it.
func (s *space) hold() {
	s.Helper()
	s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"hold"},"spec":{"restartPolicy":"Never","containers":[{"name":"c","image":"skep/echo:dev","imagePullPolicy":"IfNotPresent","command":["/echo","hold","echo:7000"]}]}}`, "create", "-f", "-")
	s.Await("the holder to be ready", func(pods []corev1.Pod) bool {
		for _, pod := range pods {
			if pod.Name == "hold" {
				return clustertest.Ready(pod)
			}
		}
		return false
	})
}

// stillHeld checks that the connection is open and was never late, and that it
// still carries data: one more line than before.
func (s *space) stillHeld() {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	stream, err := client.CoreV1().Pods(s.Name).GetLogs("hold", &corev1.PodLogOptions{Follow: true}).Stream(ctx)
	if err != nil {
		s.Fatalf("logs of the holder: %v", err)
	}
	defer stream.Close()
	var text strings.Builder
	buf := make([]byte, 4096)
	lines := -1
	for {
		n, err := stream.Read(buf)
		text.Write(buf[:n])
		seen := strings.Count(text.String(), "\nline ")
		if strings.Contains(text.String(), "lost") || strings.Contains(text.String(), "wrong") || err != nil {
			s.Fatalf("the connection did not live on: %v\n%s", err, text.String())
		}
		if lines < 0 {
			lines = seen // what was written before now
		} else if seen > lines+1 {
			return
		}
	}
}

func TestControlPlaneKilled(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	s.hold()
	s.Skep("create", "configmap", "before", "--from-literal=a=b")
	client := s.podNamed("client")
	pid, address := s.processOf(client), s.serviceIP("echo")

	if err := local.KillControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The API is down, so the client is started from its host.
	for _, count := range []string{"30", "30"} {
		out, err := s.inPod(client, pid, "client", "--count", count, "--quiet", address)
		if err != nil || !strings.Contains(out, "tally 10/10/10, 0 failed") {
			t.Errorf("without a control plane: %v\n%s", err, out)
		}
	}
	if err := local.StartControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.WantIn(s.Skep("get", "configmap", "before", "-o", "jsonpath={.data.a}"), "b")
	s.Skep("scale", "rc", "echo", "--replicas=4")
	s.Await("a fourth echo pod", clustertest.AllReady(6))
	s.untilAsked(4)
	s.stillHeld()
	s.wantUntouched("client", "hold")
}

func (s *space) serviceIP(name string) string {
	s.Helper()
	service, err := client.CoreV1().Services(s.Name).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return service.Spec.ClusterIP
}

func TestAgentKilled(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	s.hold()
	nodes, err := local.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		pid := agentOf(t, node)
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		awaitAgent(t, client, node, pid)
	}
	s.WantIn(s.ask("--count", "30", "--quiet", "echo"), "tally 10/10/10, 0 failed")
	s.stillHeld()
	names := []string{"client", "hold"}
	for _, pod := range s.Await("the pods", clustertest.AllReady(5)) {
		names = append(names, pod.Name)
	}
	s.wantUntouched(names...)
}

// agentOf finds the agent among the host's daemons.
func agentOf(t *testing.T, node *cluster.Node) int {
	t.Helper()
	pid, err := clustertest.Agent(node)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// awaitAgent waits until another process than the given one has all parts of the node's agent up: its server comes last.
func awaitAgent(t *testing.T, api kubernetes.Interface, node *cluster.Node, old int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	healthz := api.CoreV1().RESTClient().Get().Resource("nodes").Name(node.Name).SubResource("proxy").Suffix("healthz")
	for {
		_, err := healthz.DoRaw(ctx)
		if err == nil && agentOf(t, node) != old {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("no new agent of %s is up within %s: %v", node.Name, patience, err)
		}
	}
}

func (s *space) podNamed(name string) corev1.Pod {
	s.Helper()
	pod, err := client.CoreV1().Pods(s.Name).Get(s.Context(), name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	return *pod
}

// wantUntouched checks that no container of the pods was started again.
func (s *space) wantUntouched(names ...string) {
	s.Helper()
	for _, name := range names {
		pod := s.podNamed(name)
		for _, status := range pod.Status.ContainerStatuses {
			if status.RestartCount != 0 || status.State.Running == nil {
				s.Errorf("%s: container %s: %d restarts, state %+v", name, status.Name, status.RestartCount, status.State)
			}
		}
	}
}

// processOf finds the first process of the pod's container.
func (s *space) processOf(pod corev1.Pod) int {
	s.Helper()
	node, err := local.Node(pod.Spec.NodeName)
	if err != nil {
		s.Fatal(err)
	}
	return firstProcess(s.T, node, pod)
}

func firstProcess(t *testing.T, node *cluster.Node, pod corev1.Pod) int {
	t.Helper()
	_, id, _ := strings.Cut(pod.Status.ContainerStatuses[0].ContainerID, "://")
	pid, err := node.ContainerProcess(id)
	if err != nil {
		t.Fatalf("pod %s: %v", pod.Name, err)
	}
	return pid
}

// inPod runs the echo program in the pod's network namespace, from its host.
func (s *space) inPod(pod corev1.Pod, pid int, args ...string) (string, error) {
	s.Helper()
	node, err := local.Node(pod.Spec.NodeName)
	if err != nil {
		s.Fatal(err)
	}
	var out strings.Builder
	err = node.Exec(s.Context(), cluster.ExecOptions{Stdout: &out, Stderr: &out},
		append([]string{"nsenter", "-t", strconv.Itoa(pid), "-n", filepath.Join(bin, "echo")}, args...)...)
	return out.String(), err
}

func TestUpAfterEverythingDied(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	nodes, err := local.Nodes()
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		if err := node.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := local.KillControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	programs, err := cluster.BinariesIn(bin)
	if err != nil {
		t.Fatal(err)
	}
	options := cluster.Options{Name: local.Name, Dir: local.Dir, Bin: programs, Progress: t.Output()}
	if _, err := cluster.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	s.Await("all pods to be back", clustertest.AllReady(4))
	s.untilAsked(3)
	// And once more on a cluster that runs: nothing is started again.
	pids := map[string]int{}
	for _, node := range nodes {
		power, err := node.Power()
		if err != nil {
			t.Fatal(err)
		}
		pids[node.Name] = power.PID
	}
	skepd := local.SkepdPID()
	if _, err := cluster.Up(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes {
		if power, err := node.Power(); err != nil || power.PID != pids[node.Name] {
			t.Errorf("%s: first process %d, before %d, %v", node.Name, power.PID, pids[node.Name], err)
		}
	}
	if local.SkepdPID() != skepd {
		t.Errorf("skepd is process %d, before %d", local.SkepdPID(), skepd)
	}
}
