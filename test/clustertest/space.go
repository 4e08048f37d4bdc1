package clustertest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Space is a namespace of one test, removed with all in it at its end.
type Space struct {
	*testing.T
	Name    string
	Cluster *Cluster
}

// NewSpace makes the test's namespace.
func (c *Cluster) NewSpace(t *testing.T) *Space {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s := &Space{T: t, Name: name, Cluster: c}
	if _, err := c.API.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := c.Skep(context.Background(), "", "-n", name, "get", "pods,services,endpoints,events", "-o", "wide")
			t.Logf("at the end:\n%s", out)
		}
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := c.API.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
			return
		}
		if err := c.awaitGone(ctx, name); err != nil {
			t.Errorf("namespace %s: %v", name, err)
		}
	})
	return s
}

func (c *Cluster) awaitGone(ctx context.Context, namespace string) error {
	for {
		now, err := c.API.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		events, err := c.API.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{
			FieldSelector: "metadata.name=" + namespace, ResourceVersion: now.ResourceVersion,
		})
		if err != nil {
			return err
		}
		for event := range events.ResultChan() {
			if event.Type == "DELETED" {
				break
			}
		}
		events.Stop()
		if ctx.Err() != nil {
			return fmt.Errorf("is still %s after %s: %+v", now.Status.Phase, Patience, now.Status.Conditions)
		}
	}
}

// Skep runs the command line in the test's namespace and fails the test if it fails.
func (s *Space) Skep(args ...string) string {
	s.Helper()
	return s.SkepIn("", args...)
}

// SkepIn is Skep with an input.
func (s *Space) SkepIn(stdin string, args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*Patience)
	defer cancel()
	out, err := s.Cluster.Skep(ctx, stdin, append([]string{"-n", s.Name}, args...)...)
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return out
}

// Refused runs a command that must fail, and returns what it says.
func (s *Space) Refused(stdin string, args ...string) string {
	s.Helper()
	out, err := s.Cluster.Skep(s.Context(), stdin, append([]string{"-n", s.Name}, args...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		s.Fatalf("skep %s did not fail: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// WantIn checks that the text has all the parts.
func (s *Space) WantIn(text string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			s.Errorf("lacks %q:\n%s", part, text)
		}
	}
}

// Await watches the namespace's pods until the condition holds for all of them together.
func (s *Space) Await(what string, condition func(pods []corev1.Pod) bool) []corev1.Pod {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), Patience)
	defer cancel()
	pods := s.Cluster.API.CoreV1().Pods(s.Name)
	for {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			s.Fatalf("%s: %v", what, err)
		}
		if condition(list.Items) {
			return list.Items
		}
		// One event is enough to check again: the condition is about all pods.
		events, err := pods.Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			s.Fatalf("%s: %v", what, err)
		}
		select {
		case <-events.ResultChan():
		case <-ctx.Done():
		}
		events.Stop()
		if ctx.Err() != nil {
			s.Fatalf("waited %s for %s in vain", Patience, what)
		}
	}
}

// Ready reports whether a pod is ready and not terminating.
func Ready(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

// AllReady holds when there are so many pods, all ready.
func AllReady(count int) func([]corev1.Pod) bool {
	return func(pods []corev1.Pod) bool {
		n := 0
		for _, pod := range pods {
			if Ready(pod) {
				n++
			}
		}
		return n == count && len(pods) == count
	}
}
