package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
	"github.com/skep-io/skep/test/clustertest"
)

// site is a cluster of one test's own, for options that the shared one does not have.
type site struct {
	*testing.T
	*cluster.Cluster
	api kubernetes.Interface
}

// newSite starts a cluster with the echo image, which is removed with the test.
func newSite(t *testing.T, prefix string, o cluster.Options) *site {
	t.Helper()
	o.Name = fmt.Sprintf("%s%d", prefix, os.Getpid())
	o.Dir, o.Progress = filepath.Join(t.TempDir(), o.Name), t.Output()
	if o.Bin.Agent == "" {
		programs, err := cluster.BinariesIn(bin)
		if err != nil {
			t.Fatal(err)
		}
		o.Bin = programs
	}
	t.Cleanup(func() {
		if t.Failed() {
			clustertest.KeepLogs("e2e", o.Dir)
		}
		if err := cluster.Down(context.Background(), o.Name, o.Dir, t.Output()); err != nil {
			t.Error(err)
		}
	})
	c, err := cluster.Up(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{T: t, Cluster: c}
	if s.api, err = c.Client(); err != nil {
		t.Fatal(err)
	}
	s.Skep("image", "load", filepath.Join(bin, "images", "echo.tar"))
	return s
}

// run runs the command line against the site.
func (s *site) run(args ...string) (string, error) { return s.runIn("", args...) }

func (s *site) runIn(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(bin, "skep"), args...)
	command.Stdin = strings.NewReader(stdin)
	command.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig())
	out, err := command.CombinedOutput()
	return string(out), err
}

// Skep does so and fails the test if it fails.
func (s *site) Skep(args ...string) string {
	s.Helper()
	return s.SkepIn("", args...)
}

func (s *site) SkepIn(stdin string, args ...string) string {
	s.Helper()
	out, err := s.runIn(stdin, args...)
	if err != nil {
		s.Fatalf("skep %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// node is one of the site's.
func (s *site) node(name string) *cluster.Node {
	s.Helper()
	n, err := s.Node(name)
	if err != nil {
		s.Fatal(err)
	}
	return n
}

// within does something on a host's network until it works: the maps may be a moment behind.
func (s *site) within(what string, try func() error) {
	s.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if err = try(); err == nil {
			return
		}
	}
	s.Errorf("%s: %v", what, err)
}

func (s *site) WantIn(text string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			s.Errorf("lacks %q:\n%s", part, text)
		}
	}
}

// ask asks an echo pod at the address for its name.
func ask(network, addr string) (string, error) {
	conn, err := net.DialTimeout(network, addr, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintln(conn, "?"); err != nil {
		return "", err
	}
	buf := make([]byte, 256)
	n, err := conn.Read(buf)
	return strings.TrimSpace(string(buf[:n])), err
}

// awaitCondition returns what a node says once the condition has the status.
func (s *site) awaitCondition(node string, kind corev1.NodeConditionType, status corev1.ConditionStatus) corev1.NodeCondition {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	events, err := s.api.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + node})
	if err != nil {
		s.Fatal(err)
	}
	defer events.Stop()
	var last corev1.NodeCondition
	for event := range events.ResultChan() {
		n, ok := event.Object.(*corev1.Node)
		if !ok {
			continue
		}
		for _, c := range n.Status.Conditions {
			if c.Type != kind {
				continue
			}
			if last = c; c.Status == status {
				return c
			}
		}
	}
	s.Fatalf("%s does not say %s=%s within %s, but %+v", node, kind, status, patience, last)
	return last
}
