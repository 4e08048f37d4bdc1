package e2e

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// Every verb that the README names, as a user types it.
func TestVerbs(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()

	s.WantIn(s.Skep("get", "rc,svc"), "replicationcontroller/echo", "service/echo")
	wide := s.Skep("get", "pods", "-o", "wide", "-l", "app=echo")
	if rows := strings.Count(wide, "1/1"); rows != 3 || !strings.Contains(wide, "NODE") {
		t.Errorf("get -o wide -l shows %d ready pods, want 3:\n%s", rows, wide)
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(s.Skep("get", "pods", "-o", "json", "--field-selector", "metadata.name=client")), &list); err != nil || len(list.Items) != 1 {
		t.Errorf("get -o json --field-selector: %d pods, %v", len(list.Items), err)
	}
	s.WantIn(s.Skep("get", "svc", "echo", "-o", "yaml"), "clusterIP: 10.96.", "kind: Service")
	s.WantIn(s.Skep("get", "nodes", "-o", "wide"), "node1", "node2", "node3", "Ready", "containerd://")
	s.WantIn(s.Skep("describe", "pod", "client"), "Image:", "skep/echo:dev", "Events:", "Scheduled", "Started")
	s.WantIn(s.Skep("describe", "svc", "echo"), "Endpoints:", ":8080")
	s.WantIn(s.Skep("describe", "rc", "echo"), "3 current / 3 desired", "SuccessfulCreate")
	s.WantIn(s.Skep("describe", "node", "node1"), "Capacity:", "Allocated resources:")

	s.WantIn(s.Skep("label", "pod", "client", "color=red"), "labeled")
	s.WantIn(s.Skep("get", "pods", "-l", "color=red", "-o", "name"), "pod/client")
	s.WantIn(s.Skep("annotate", "pod", "client", "note=hello"), "annotated")
	s.WantIn(s.Skep("get", "pod", "client", "-o", "jsonpath={.metadata.annotations.note}"), "hello")

	s.WantIn(s.Skep("expose", "rc", "echo", "--name", "other", "--port", "90", "--target-port", "8080"), "exposed")
	s.WantIn(s.Skep("get", "svc", "other"), "90/TCP")
	s.WantIn(s.Skep("scale", "rc", "echo", "--replicas", "2"), "scaled")
	s.Skep("wait", "rc/echo", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=60s")

	name := strings.TrimSpace(s.Skep("get", "pods", "-l", "app=echo", "-o", "jsonpath={.items[0].metadata.name}"))
	s.WantIn(s.Skep("logs", name), "HTTP on ")
	s.WantIn(s.SkepIn("typed in\n", "exec", "-i", "client", "--", "/echo", "cat", "/dev/stdin"), "typed in")
	s.WantIn(s.Refused("", "exec", "client", "--", "/echo", "cat", "/nowhere"), "/nowhere", "exit code 1")

	s.WantIn(s.Skep("apply", "-f", "../../docs/examples/echo.yaml"), "replicationcontroller/echo configured")
	s.Skep("wait", "rc/echo", "--for=jsonpath={.status.readyReplicas}=3", "--timeout=60s")
	s.WantIn(s.Skep("create", "configmap", "settings", "--from-literal=a=b"), "created")
	s.WantIn(s.Skep("patch", "configmap", "settings", "-p", `{"data":{"c":"d"}}`), "patched")
	s.WantIn(s.Skep("get", "configmap", "settings", "-o", "jsonpath={.data}"), `"a":"b"`, `"c":"d"`)
	s.WantIn(s.Skep("delete", "svc", "other"), "deleted")
	s.WantIn(s.Refused("", "get", "svc", "other"), `services "other" not found`)

	s.WantIn(s.Skep("version"), "Client: skep", "Server: v1.")
	s.WantIn(s.Skep("api-resources"), "replicationcontrollers", "endpointslices", "leases")
	s.WantIn(s.Skep("cluster-info"), "is running at")
	s.WantIn(s.Refused("", "get", "widgets"), "the server doesn't have a resource type")
}

// Errors are reported where Kubernetes reports them, with its messages.
func TestBadInput(t *testing.T) {
	s := newSpace(t)
	s.WantIn(s.Refused(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"Bad_Name"},"spec":{"containers":[{"name":"c","image":"x"}]}}`, "create", "-f", "-"),
		`Pod "Bad_Name" is invalid`, "metadata.name")
	s.WantIn(s.Refused(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"ports":[{"port":0}]}}`, "create", "-f", "-"),
		`Service "x" is invalid`, "spec.ports[0].port")

	pod := func(name, image, command, extra string) {
		t.Helper()
		s.SkepIn(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"`+name+`"},"spec":{`+extra+`"containers":[{"name":"c","image":"`+image+`","imagePullPolicy":"IfNotPresent","command":["`+command+`"]}]}}`, "create", "-f", "-")
	}
	pod("noimage", "127.0.0.1:9/none:v1", "/x", "")
	pod("nocommand", "skep/echo:dev", "/nowhere", "")
	pod("nofit", "skep/echo:dev", "/echo", `"nodeSelector":{"disk":"gold"},`)
	s.Await("what is wrong to show", func(pods []corev1.Pod) bool {
		shown := 0
		for _, pod := range pods {
			reason := ""
			if len(pod.Status.ContainerStatuses) > 0 && pod.Status.ContainerStatuses[0].State.Waiting != nil {
				reason = pod.Status.ContainerStatuses[0].State.Waiting.Reason
			}
			switch pod.Name {
			case "noimage":
				if reason == "ImagePullBackOff" {
					shown++
				}
			case "nocommand":
				if reason == "CrashLoopBackOff" {
					shown++
				}
			case "nofit":
				for _, condition := range pod.Status.Conditions {
					if condition.Type == corev1.PodScheduled && condition.Reason == corev1.PodReasonUnschedulable {
						shown++
					}
				}
			}
		}
		return shown == 3
	})
	s.WantIn(s.Skep("describe", "pod", "noimage"), "Failed to pull image", "ErrImagePull")
	s.WantIn(s.Skep("describe", "pod", "nocommand"), "/nowhere", "BackOff")
	s.WantIn(s.Skep("describe", "pod", "nofit"), "FailedScheduling", "0/3 nodes are available")
}

var usage = regexp.MustCompile(`(?m)^(client)\s+(\S+\s+)?(\d+)m\s+(\d+)Mi`)

func TestStatistics(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	if out := s.Skep("top", "pods"); !usage.MatchString(out) {
		t.Errorf("top pods shows no use of the client:\n%s", out)
	}
	s.WantIn(s.Skep("top", "pods", "--containers"), "echo", "client")
	nodes := s.Skep("top", "nodes")
	s.WantIn(nodes, "node1", "node2", "node3", "Mi")
	name := strings.TrimSpace(s.Skep("get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"))
	var summary struct {
		Pods []struct {
			PodRef  struct{ Name, Namespace string } `json:"podRef"`
			Network struct {
				RxBytes uint64 `json:"rxBytes"`
			} `json:"network"`
			Memory struct {
				WorkingSetBytes uint64 `json:"workingSetBytes"`
			} `json:"memory"`
		} `json:"pods"`
	}
	s.ask("--count", "3", "echo")
	out := s.Skep("get", "--raw", "/api/v1/nodes/"+name+"/proxy/stats/summary")
	if err := json.Unmarshal([]byte(out), &summary); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, pod := range summary.Pods {
		if pod.PodRef.Name == "client" && pod.PodRef.Namespace == s.Name {
			if pod.Network.RxBytes == 0 || pod.Memory.WorkingSetBytes == 0 {
				t.Errorf("the client received %d bytes and uses %d: want both above 0", pod.Network.RxBytes, pod.Memory.WorkingSetBytes)
			}
			return
		}
	}
	t.Errorf("the summary of %s lacks the client:\n%s", name, out)
}
