package e2e

import (
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/test/clustertest"
)

// Annotations limit what a pod sends and what it receives, on the paths that pods' packets really take.
func TestBandwidthAnnotations(t *testing.T) {
	const size = 5 << 20
	const rate = 20_000_000
	s := newSpace(t)
	s.SkepIn(`{"apiVersion":"v1","kind":"List","items":[
		{"apiVersion":"v1","kind":"Pod","metadata":{"name":"free"},"spec":{"containers":[{"name":"c","image":"skep/echo:dev"}]}},
		{"apiVersion":"v1","kind":"Pod","metadata":{"name":"sends","annotations":{"kubernetes.io/egress-bandwidth":"20M"}},"spec":{"containers":[{"name":"c","image":"skep/echo:dev"}]}},
		{"apiVersion":"v1","kind":"Pod","metadata":{"name":"receives","annotations":{"kubernetes.io/ingress-bandwidth":"20M"}},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"skep/shell:dev","command":["sleep","100000"]}]}},
		{"apiVersion":"v1","kind":"Pod","metadata":{"name":"unlimited"},"spec":{"terminationGracePeriodSeconds":1,"containers":[{"name":"c","image":"skep/shell:dev","command":["sleep","100000"]}]}},
		{"apiVersion":"v1","kind":"Pod","metadata":{"name":"wrong","annotations":{"kubernetes.io/ingress-bandwidth":"fast"}},"spec":{"containers":[{"name":"c","image":"skep/echo:dev"}]}}]}`, "apply", "-f", "-")
	pods := map[string]corev1.Pod{}
	for _, pod := range s.Await("the pods", fourReady) {
		pods[pod.Name] = pod
	}
	took := func(to, from string) time.Duration {
		t.Helper()
		begin := time.Now()
		s.Skep("exec", to, "--", "wget", "-q", "-O", "/dev/null", "http://"+net.JoinHostPort(pods[from].Status.PodIP, "8080")+"/bytes?n=5242880")
		return time.Since(begin)
	}
	// As much as queues hold passes faster than the rate; a slow machine takes longer.
	least, most := time.Duration(0.7*size*8/rate*float64(time.Second)), time.Duration(5*size*8/rate*float64(time.Second))
	for _, pair := range [][2]string{{"unlimited", "sends"}, {"receives", "free"}} {
		if got := took(pair[0], pair[1]); got < least || got > most {
			t.Errorf("%d bytes from %s to %s took %v, want %v to %v", size, pair[1], pair[0], got, least, most)
		}
	}
	if got := took("unlimited", "free"); got > least {
		t.Errorf("%d bytes without a limit took %v, want less than %v: the machine is too slow for this test", size, got, least)
	}
	events, err := client.CoreV1().Events(s.Name).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=wrong,reason=FailedCreatePodSandBox"})
	if err != nil {
		t.Fatal(err)
	}
	if len(events.Items) == 0 || !strings.Contains(events.Items[0].Message, `kubernetes.io/ingress-bandwidth "fast" is not a quantity`) {
		t.Errorf("events about the annotation that makes no sense: %+v", events.Items)
	}
}

// fourReady is all but the pod that asks for something impossible.
func fourReady(pods []corev1.Pod) bool {
	n := 0
	for _, pod := range pods {
		if clustertest.Ready(pod) {
			n++
		}
	}
	return n == 4
}
