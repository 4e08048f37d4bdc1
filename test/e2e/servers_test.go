package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// at is a client of one of the site's servers.
func (s *site) at(server string) kubernetes.Interface {
	s.Helper()
	config, err := s.RESTConfig()
	if err != nil {
		s.Fatal(err)
	}
	config.Host, config.Timeout = server, 15*time.Second
	api, err := kubernetes.NewForConfig(config)
	if err != nil {
		s.Fatal(err)
	}
	return api
}

// until tries again until it succeeds.
func (s *site) until(what string, try func() error) {
	s.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	s.Fatalf("%s: %v", what, err)
}

func (s *site) ready(api kubernetes.Interface) error {
	return api.Discovery().RESTClient().Get().AbsPath("/readyz").Do(s.Context()).Error()
}

// One of three servers is killed, and is back by itself; then it stays down, and the cluster goes on with the others.
func TestServers(t *testing.T) {
	s := newSite(t, "sv", cluster.Options{Nodes: 1, Servers: 3})
	servers, err := s.Servers()
	if err != nil {
		t.Fatal(err)
	}
	if list := s.Skep("server", "list"); len(servers) != 3 || strings.Count(list, " true ") != 3 {
		t.Fatalf("servers %v:\n%s", servers, list)
	}
	s.until("the service kubernetes to list all servers", func() error {
		endpoints, err := s.api.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=kubernetes"})
		if err == nil && (len(endpoints.Items) != 1 || len(endpoints.Items[0].Endpoints) != 3) {
			err = fmt.Errorf("%d slices: %v", len(endpoints.Items), endpoints.Items)
		}
		return err
	})

	first := s.SkepdPID()
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.until("the killed server to be back", func() error {
		if pid := s.SkepdPID(); pid == 0 || pid == first {
			return unix.ESRCH
		}
		return s.ready(s.api)
	})

	if err := s.KillControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := s.at(servers[1])
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "late"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "skep/echo:dev"}}}}
	s.until("a write at another server", func() error {
		_, err := second.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
		return err
	})
	s.until("the pod to be scheduled and run, and its status to be written", func() error {
		p, err := second.CoreV1().Pods("default").Get(t.Context(), "late", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodRunning {
			err = unix.EAGAIN
		}
		return err
	})
	if err := s.StartControlPlane(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.Skep("get", "pod", "late")
}
