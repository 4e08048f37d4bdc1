package e2e

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// connecting has the client pod make connections to the service until it is asked how many failed.
func (s *space) connecting() (ended func() string) {
	s.Helper()
	pod := s.podNamed("client")
	node, err := local.Node(pod.Spec.NodeName)
	if err != nil {
		s.Fatal(err)
	}
	command := []string{"nsenter", "-t", strconv.Itoa(s.processOf(pod)), "-n", filepath.Join(bin, "echo"),
		"client", "--continuous", "--until-stdin-ends", s.serviceIP("echo")}
	reader, writer := io.Pipe()
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() {
		done <- node.Exec(context.Background(), cluster.ExecOptions{Stdin: reader, Stdout: &out, Stderr: &out}, command...)
	}()
	s.Cleanup(func() { writer.Close() })
	return func() string {
		writer.Close()
		if err := <-done; err != nil {
			s.Errorf("client: %v", err)
		}
		return out.String()
	}
}

// A controller's pods are replaced while clients connect: an update that cannot work is undone, one that is interrupted goes on, and no
// connection fails.
func TestRollingUpdate(t *testing.T) {
	s := newSpace(t)
	s.echoAndClient()
	s.untilAsked(3)
	ended := s.connecting()

	s.WantIn(s.Refused("", "rolling-update", "echo", "echo-bad", "--image=skep/none:dev", "--timeout=10s"),
		"echo-bad: timed out after 10s: 0 of 1 pods are ready", "container echo: ", "with --rollback it goes back to echo")
	s.WantIn(s.Refused("", "rolling-update", "echo", "echo-v2", "--image=skep/echo:dev"), "a rolling update from echo to echo-bad is under way")
	s.WantIn(s.Skep("rolling-update", "echo", "echo-bad", "--rollback"), "echo has replaced echo-bad.")
	s.untilAsked(3)

	s.WantIn(s.Refused("", "rolling-update", "echo", "echo-v2", "--image=skep/echo:dev", "--timeout=1ms"), "The same command goes on from here")
	out := s.Skep("rolling-update", "echo", "echo-v2", "--image=skep/echo:dev")
	s.WantIn(out, "Going on with the update from echo", "echo-v2: 3 of 3 pods ready", "echo-v2 has replaced echo. Of the removed pods, 3 got the stop signal when no client was connected any more")
	if result := ended(); !strings.Contains(result, ", 0 failed") || strings.Contains(result, "done: 0 connections") {
		t.Errorf("connections from the client's pod:\n%s", result)
	}
	if _, err := client.CoreV1().ReplicationControllers(s.Name).Get(t.Context(), "echo", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the old controller: %v", err)
	}
	rc, err := client.CoreV1().ReplicationControllers(s.Name).Get(t.Context(), "echo-v2", metav1.GetOptions{})
	if err != nil || *rc.Spec.Replicas != 3 || len(rc.Annotations) != 0 {
		t.Errorf("the new controller has %v pods and annotations %v (%v)", rc.Spec.Replicas, rc.Annotations, err)
	}
	s.untilAsked(3)
}
