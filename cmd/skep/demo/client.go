package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
)

// exec runs a command in the client pod, as `skep exec` does.
func (d *demo) exec(ctx context.Context, stdin io.Reader, stdout io.Writer, command ...string) error {
	url := d.client.CoreV1().RESTClient().Post().
		Resource("pods").Namespace(namespace).Name("client").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	websocket, err := remotecommand.NewWebSocketExecutor(d.config, http.MethodGet, url.String())
	if err != nil {
		return err
	}
	spdy, err := remotecommand.NewSPDYExecutor(d.config, http.MethodPost, url)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewFallbackExecutor(websocket, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return err
	}
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: stdout, Stderr: stdout})
	if err != nil {
		return fmt.Errorf("exec %s: %w", strings.Join(command, " "), err)
	}
	return nil
}

// traffic is a client in a pod that connects to the service all the time.
type traffic struct {
	stdin *io.PipeWriter
	ended chan error

	mu       sync.Mutex
	rest     string
	answered chan struct{} // closed at the first answer
	failures []time.Time   // when the connections that failed were begun
	lines    []string
	last     string
}

// startTraffic returns when the first connection has been answered.
func (d *demo) startTraffic(ctx context.Context) (*traffic, error) {
	stdin, hold := io.Pipe()
	t := &traffic{stdin: hold, ended: make(chan error, 1), answered: make(chan struct{})}
	go func() {
		t.ended <- d.exec(ctx, stdin, t, "/echo", "client", "--continuous", "--until-stdin-ends", "--interval", "2ms", "--timeout", "500ms", "echo")
	}()
	select {
	case <-t.answered:
		return t, nil
	case err := <-t.ended:
		return nil, fmt.Errorf("the client ended: %v\n%s", err, strings.Join(t.lines, "\n"))
	case <-time.After(patience):
		hold.Close()
		return nil, fmt.Errorf("the client got no answer within %s", patience)
	}
}

// Write parses the client's output, line by line.
func (t *traffic) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rest += string(p)
	for {
		line, rest, ok := strings.Cut(t.rest, "\n")
		if !ok {
			return len(p), nil
		}
		t.rest = rest
		t.read(line)
	}
}

// read parses a line of the client: a time, a word for its kind, and the rest.
func (t *traffic) read(line string) {
	t.lines = append(t.lines, line)
	_, event, _ := strings.Cut(line, " ")
	kind, rest, _ := strings.Cut(event, ": ")
	switch kind {
	case "answer":
		select {
		case <-t.answered:
		default:
			close(t.answered)
		}
	case "failed":
		_, after, _ := strings.Cut(rest, "begun ")
		stamp, _, _ := strings.Cut(after, ": ")
		if begun, err := time.Parse("15:04:05.000000", stamp); err == nil {
			t.failures = append(t.failures, onDayOf(begun, time.Now().UTC()))
		}
	case "done":
		t.last = rest
	}
}

// onDayOf moves a time of day next to now: they are at most hours apart.
func onDayOf(clock, now time.Time) time.Time {
	t := time.Date(now.Year(), now.Month(), now.Day(), clock.Hour(), clock.Minute(), clock.Second(), clock.Nanosecond(), time.UTC)
	if t.Sub(now) > 12*time.Hour {
		return t.AddDate(0, 0, -1)
	}
	return t
}

// stop ends the client and returns its count and the failures that were begun
// before and after the given time.
func (t *traffic) stop(after time.Time) (total string, early, late []time.Time, err error) {
	t.stdin.Close()
	select {
	case err = <-t.ended:
	case <-time.After(patience):
		return "", nil, nil, fmt.Errorf("the client does not end")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, begun := range t.failures {
		if begun.After(after) {
			late = append(late, begun)
		} else {
			early = append(early, begun)
		}
	}
	if want := fmt.Sprintf(", %d failed", len(t.failures)); err == nil && !strings.HasSuffix(t.last, want) {
		err = fmt.Errorf("the client ended with %q, but the lines before it have%s:\n%s", t.last, want[1:], strings.Join(t.lines, "\n"))
	}
	return t.last, early, late, err
}
