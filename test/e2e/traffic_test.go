package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/cmd/skep/cluster"
)

// traffic passes a node's programs until it is asked whether any was lost.
type traffic struct {
	s    *site
	stop func()
	done sync.WaitGroup

	mu      sync.Mutex
	begun   int
	lost    []error
	inside  bytes.Buffer // of the pod that makes connections
	holding bytes.Buffer // of the pod that keeps one
}

// passTraffic has the pod on a node make connections through the service and keep one, and this machine do the same through a
// node port.
func (s *site) passTraffic(node *cluster.Node) *traffic {
	s.Helper()
	pod, err := s.api.CoreV1().Pods("default").Get(s.Context(), node.Name, metav1.GetOptions{})
	if err != nil {
		s.Fatal(err)
	}
	inPod := []string{"nsenter", "-t", strconv.Itoa(firstProcess(s.T, node, *pod)), "-n", filepath.Join(bin, "echo")}
	service := strings.TrimSpace(s.Skep("get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"))
	outside := net.JoinHostPort(node.Addr.String(), s.port("tcp", true))
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	t := &traffic{s: s, stop: func() { writer.Close(); cancel() }}
	s.Cleanup(t.stop)
	t.done.Go(func() {
		t.note(node.Exec(context.Background(), cluster.ExecOptions{Stdin: reader, Stdout: &t.inside, Stderr: &t.inside},
			append(inPod, "client", "--continuous", "--until-stdin-ends", service)...))
	})
	t.done.Go(func() {
		err := node.Exec(ctx, cluster.ExecOptions{Stdout: &t.holding, Stderr: &t.holding}, append(inPod, "hold", service+":7000")...)
		if ctx.Err() == nil {
			t.note(err)
		}
	})
	t.done.Go(func() { t.note(t.keep(ctx, outside)) })
	t.done.Go(func() {
		for ctx.Err() == nil {
			_, err := ask("tcp", outside)
			t.note(err)
		}
	})
	return t
}

func (t *traffic) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.begun++
	if err != nil {
		t.lost = append(t.lost, err)
	}
}

// keep holds a connection for as long as ctx lasts.
func (t *traffic) keep(ctx context.Context, addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if _, err := lines.ReadString('\n'); err != nil {
		return err
	}
	for n := 0; ctx.Err() == nil; n++ {
		if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := fmt.Fprintln(conn, n); err != nil {
			return fmt.Errorf("kept connection, line %d: %w", n, err)
		}
		if _, err := lines.ReadString('\n'); err != nil {
			return fmt.Errorf("kept connection, line %d: %w", n, err)
		}
	}
	return nil
}

func (t *traffic) wantNothingLost() {
	t.s.Helper()
	t.stop()
	t.done.Wait()
	if len(t.lost) > 0 || t.begun < 100 {
		t.s.Errorf("from outside %d of %d were lost: %v", len(t.lost), t.begun, errors.Join(t.lost...))
	}
	inside := t.inside.String()
	if !strings.Contains(inside, ", 0 failed") || strings.Contains(inside, "done: 0 connections") {
		t.s.Errorf("from the pod:\n%s", inside)
	}
	if text := t.holding.String(); !strings.Contains(text, "line 100\n") || strings.Contains(text, "lost") || strings.Contains(text, "wrong") {
		t.s.Errorf("the pod's connection:\n%s", text)
	}
}
