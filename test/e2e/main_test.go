// Package e2e tests what users are promised, on a local cluster of three hosts
// with the programs that `make build` leaves in bin/, through skep's command
// line and the API. Tests share the cluster and keep to namespaces of their own;
// those that disturb a host put it right again.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

const (
	nodes = 3
	// patience is for what a healthy cluster does in seconds, on a slow machine.
	patience = 60 * time.Second
)

var (
	local  *cluster.Cluster
	client kubernetes.Interface
	bin    string
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "skep-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	name := fmt.Sprintf("e2e-%d", os.Getpid())
	state := filepath.Join(dir, name)
	defer func() {
		if code != 0 {
			keepLogs(state)
		}
		if err := cluster.Down(context.Background(), name, state, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	if err := setUp(name, state); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func setUp(name, state string) (err error) {
	if bin, err = filepath.Abs("../../bin"); err != nil {
		return err
	}
	programs, err := cluster.BinariesIn(bin)
	if err != nil {
		return err
	}
	local, err = cluster.Up(context.Background(), cluster.Options{
		Name: name, Dir: state, Nodes: nodes, Zones: nodes, Bin: programs, Progress: os.Stderr,
	})
	if err != nil {
		return err
	}
	if client, err = local.Client(); err != nil {
		return err
	}
	for _, image := range []string{"echo", "shell"} {
		if out, err := skep(context.Background(), "", "image", "load", filepath.Join(bin, "images", image+".tar")); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// keepLogs saves the programs' logs of a failed run, whose cluster is removed.
func keepLogs(state string) {
	kept, err := os.MkdirTemp("", "skep-e2e-logs-")
	if err != nil {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(state, "*", "agent.log"))
	for _, path := range append(logs, filepath.Join(state, "skepd.log")) {
		data, err := os.ReadFile(path)
		if err == nil {
			_ = os.WriteFile(filepath.Join(kept, strings.ReplaceAll(strings.TrimPrefix(path, state+"/"), "/", "-")), data, 0o644)
		}
	}
	fmt.Fprintln(os.Stderr, "the programs' logs are in", kept)
}

// skep runs the command line against the cluster under test.
func skep(ctx context.Context, stdin string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, filepath.Join(bin, "skep"), args...)
	command.Env = append(os.Environ(), "KUBECONFIG="+local.Kubeconfig())
	command.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	if err != nil {
		err = fmt.Errorf("skep %s: %w", strings.Join(args, " "), err)
	}
	return out.String(), err
}

// space is a namespace of one test, removed with all in it at its end.
type space struct {
	*testing.T
	name string
}

func newSpace(t *testing.T) *space {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	s := &space{T: t, name: name}
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := skep(context.Background(), "", "-n", name, "get", "pods,services,endpoints,events", "-o", "wide")
			t.Logf("at the end:\n%s", out)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := client.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
			return
		}
		if err := awaitGone(ctx, name); err != nil {
			t.Errorf("namespace %s: %v", name, err)
		}
	})
	return s
}

func awaitGone(ctx context.Context, namespace string) error {
	for {
		now, err := client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		events, err := client.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{
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
			return fmt.Errorf("is still %s after %s: %+v", now.Status.Phase, patience, now.Status.Conditions)
		}
	}
}

// skep runs the command line in the test's namespace and fails the test if it fails.
func (s *space) skep(args ...string) string {
	s.Helper()
	return s.skepIn("", args...)
}

func (s *space) skepIn(stdin string, args ...string) string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 2*patience)
	defer cancel()
	out, err := skep(ctx, stdin, append([]string{"-n", s.name}, args...)...)
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
	return out
}

// refused runs a command that must fail, and returns what it says.
func (s *space) refused(stdin string, args ...string) string {
	s.Helper()
	out, err := skep(s.Context(), stdin, append([]string{"-n", s.name}, args...)...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		s.Fatalf("skep %s did not fail: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (s *space) wantIn(out string, parts ...string) {
	s.Helper()
	for _, part := range parts {
		if !strings.Contains(out, part) {
			s.Errorf("lacks %q:\n%s", part, out)
		}
	}
}

// await watches the namespace's pods until the condition holds for all of them together.
func (s *space) await(what string, condition func(pods []corev1.Pod) bool) []corev1.Pod {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	for {
		list, err := client.CoreV1().Pods(s.name).List(ctx, metav1.ListOptions{})
		if err != nil {
			s.Fatalf("%s: %v", what, err)
		}
		if condition(list.Items) {
			return list.Items
		}
		// One event is enough to look again: the condition is about all pods.
		events, err := client.CoreV1().Pods(s.name).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
		if err != nil {
			s.Fatalf("%s: %v", what, err)
		}
		select {
		case <-events.ResultChan():
		case <-ctx.Done():
		}
		events.Stop()
		if ctx.Err() != nil {
			s.Fatalf("waited %s for %s in vain", patience, what)
		}
	}
}

func ready(pod corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil
		}
	}
	return false
}

func allReady(count int) func([]corev1.Pod) bool {
	return func(pods []corev1.Pod) bool {
		n := 0
		for _, pod := range pods {
			if ready(pod) {
				n++
			}
		}
		return n == count && len(pods) == count
	}
}

// apply applies a file of docs/examples.
func (s *space) apply(file string) {
	s.Helper()
	s.skep("apply", "-f", filepath.Join("..", "..", "docs", "examples", file))
}
