package e2e

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/cmd/skep/demo"
	"github.com/skep-io/skep/test/clustertest"
)

// What `make up` shows must work.
func TestDemo(t *testing.T) {
	err := demo.Run(t.Context(), demo.Options{Dir: local.Dir, Image: bin + "/images/echo.tar", Out: t.Output()})
	if err != nil {
		t.Error(err)
	}
	for _, file := range []string{"echo.yaml", "client.yaml"} {
		if out, err := local.Skep(t.Context(), "", "delete", "-f", "../../docs/examples/"+file); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
}

// echoAndClient starts the example's echo pods and its client.
func (s *space) echoAndClient() []corev1.Pod {
	s.Helper()
	s.apply("echo.yaml")
	s.apply("client.yaml")
	return s.Await("echo and client", clustertest.AllReady(4))
}

func (s *space) ask(args ...string) string {
	s.Helper()
	return s.Skep(append([]string{"exec", "client", "--", "/echo", "client"}, args...)...)
}

func TestServiceInTurn(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	for _, protocol := range []string{"tcp", "udp"} {
		// The maps may be a moment behind the pods' readiness: until all three answer.
		s.untilAsked(3, "--protocol", protocol)
		out := s.ask("--protocol", protocol, "--count", "30", "--quiet", "echo")
		s.WantIn(out, "tally 10/10/10, 0 failed")
	}
}

// untilAsked asks until so many different pods answer.
func (s *space) untilAsked(pods int, args ...string) {
	s.Helper()
	var out string
	for range 100 {
		out, _ = local.Skep(s.Context(), "", append([]string{"-n", s.Name, "exec", "client", "--", "/echo", "client", "--quiet", "--count", fmt.Sprint(2 * pods)}, append(args, "echo")...)...)
		if strings.Contains(out, "tally "+strings.TrimSuffix(strings.Repeat("2/", pods), "/")+", 0 failed") {
			return
		}
	}
	s.Fatalf("%d pods never answered in turn:\n%s", pods, out)
}

func TestNoBackendRefuses(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	s.Skep("scale", "rc", "echo", "--replicas=0")
	s.Await("the echo pods to go", func(pods []corev1.Pod) bool { return len(pods) == 1 })
	out := s.Refused("", "exec", "client", "--", "/echo", "client", "--count", "1", "echo")
	s.WantIn(out, "connection refused")
	s.Skep("scale", "rc", "echo", "--replicas=2")
	s.Await("two echo pods", clustertest.AllReady(3))
	s.untilAsked(2)
}

func TestReadinessDecides(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	pods := s.Await("echo", clustertest.AllReady(4))
	var victim corev1.Pod
	for _, pod := range pods {
		if pod.Labels["app"] == "echo" {
			victim = pod
		}
	}
	s.Skep("exec", "client", "--", "/echo", "post", "http://"+victim.Status.PodIP+":8080/ready", "off")
	s.Await(victim.Name+" to be unready", func(pods []corev1.Pod) bool {
		for _, pod := range pods {
			if pod.Name == victim.Name {
				return !clustertest.Ready(pod)
			}
		}
		return false
	})
	s.untilAsked(2)
	if out := s.ask("--count", "20", "echo"); strings.Contains(out, victim.Name) {
		s.Errorf("a pod that is not ready answered:\n%s", out)
	}
	s.Skep("exec", "client", "--", "/echo", "post", "http://"+victim.Status.PodIP+":8080/ready", "on")
	s.untilAsked(3)
}

func TestServiceEnvironment(t *testing.T) {
	s := newSpace(t)
	s.apply("echo.yaml")
	s.Await("echo", clustertest.AllReady(3))
	s.apply("client.yaml")
	pods := s.Await("client", clustertest.AllReady(4))
	ip := strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"))
	env := s.Skep("exec", "client", "--", "/echo", "env")
	s.WantIn(env, "ECHO_SERVICE_HOST="+ip+"\n", "ECHO_SERVICE_PORT=80\n", "ECHO_SERVICE_PORT_HTTP=80\n",
		"ECHO_PORT_7000_TCP=tcp://"+ip+":7000\n", "KUBERNETES_SERVICE_HOST=10.96.0.1\n", "KUBERNETES_SERVICE_PORT=443\n")
	for _, pod := range pods {
		if pod.Name == "client" {
			s.WantIn(env, "NODE_NAME="+pod.Spec.NodeName+"\n")
		}
	}
}

func TestDNS(t *testing.T) {
	s := newSpace(t)
	pods := s.echoAndClient()
	ip := strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"))
	for _, name := range []string{"echo", "echo." + s.Name, "echo." + s.Name + ".svc", "echo." + s.Name + ".svc.cluster.local"} {
		out := s.Skep("exec", "client", "--", "/echo", "lookup", name)
		s.WantIn(out, ip)
	}
	s.SkepIn(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"bare"},"spec":{"clusterIP":"None","selector":{"app":"echo"},"ports":[{"name":"tcp","port":7000}]}}`, "apply", "-f", "-")
	out := s.untilLooked("bare", 3)
	for _, pod := range pods {
		if pod.Labels["app"] == "echo" {
			s.WantIn(out, pod.Status.PodIP)
		}
	}
	s.WantIn(s.Skep("exec", "client", "--", "/echo", "lookup", "--srv", "_tcp._tcp.bare."+s.Name+".svc.cluster.local"), ":7000")
	s.WantIn(s.Skep("exec", "client", "--", "/echo", "lookup", "--ptr", ip), "echo."+s.Name+".svc.cluster.local.")
	s.WantIn(s.Refused("", "exec", "client", "--", "/echo", "lookup", "nothing."+s.Name+".svc.cluster.local"), "no such host")
	resolv := s.Skep("exec", "client", "--", "/echo", "cat", "/etc/resolv.conf")
	s.WantIn(resolv, "nameserver 10.96.0.10", "search "+s.Name+".svc.cluster.local svc.cluster.local cluster.local", "ndots:5")
}

// untilLooked looks a name up until it has so many addresses.
func (s *space) untilLooked(name string, addresses int) (out string) {
	s.Helper()
	for range 100 {
		out, _ = local.Skep(s.Context(), "", "-n", s.Name, "exec", "client", "--", "/echo", "lookup", name)
		if len(strings.Fields(out)) == addresses {
			return out
		}
	}
	s.Fatalf("%s never had %d addresses: %s", name, addresses, out)
	return ""
}
