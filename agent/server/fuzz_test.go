package server

import (
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/connections"
	"github.com/skep-io/skep/connections/streamtest"
)

// echo is a runtime without containers: commands answer what they are sent.
type echo struct{}

func (echo) Containers() []runtime.Container {
	return []runtime.Container{{ID: "id", PodUID: "uid", State: runtime.Running}}
}
func (echo) OpenStdin(string) (*os.File, error)                  { return nil, errors.New("no input") }
func (echo) CloseStdin(context.Context, string) error            { return nil }
func (echo) Resize(context.Context, string, runtime.Size) error  { return nil }
func (echo) NetNamespace(string) string                          { return "/nowhere" }
func (echo) Import(context.Context, io.Reader) ([]string, error) { return nil, errors.New("no images") }
func (echo) Find(_, _, _ string) (runtime.Container, *corev1.Pod, error) {
	return runtime.Container{ID: "id", Name: "main", PodName: "pod", PodUID: "uid", State: runtime.Running},
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", UID: "uid"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}, nil
}
func (echo) List() []pod.PodState { return nil }
func (echo) Exec(ctx context.Context, _ string, _ []string, o runtime.ExecOptions) (int, error) {
	if o.Stdin == nil || o.Stdout == nil {
		return 0, nil
	}
	go func() { // as runc does: the command's end does not wait for its input
		_, _ = io.Copy(o.Stdout, o.Stdin)
	}()
	<-ctx.Done()
	return 0, ctx.Err()
}

// upgrades are the ways in which clients send frames.
var upgrades = []streamtest.Upgrade{
	streamtest.SPDY("/exec/default/pod/main?command=x&input=1&output=1&error=1", "v4.channel.k8s.io"),
	streamtest.WebSocket("/exec/default/pod/main?command=x&input=1&output=1&tty=1", "v4.channel.k8s.io"),
	streamtest.WebSocket("/exec/default/pod/main?command=x&input=1&output=1", "base64.channel.k8s.io"),
	streamtest.SPDY("/portForward/default/pod?port=80", "portforward.k8s.io"),
	streamtest.WebSocket("/portForward/default/pod?port=80", "v4.channel.k8s.io"),
}

// echoServer serves a pod whose commands answer what they are sent, and misses clients soon.
func echoServer(t testing.TB, pods interface {
	Pods
	Runtime
}, creationTimeout time.Duration) (*Server, string) {
	s := &Server{cfg: Config{Pods: pods, Runtime: pods}, sessions: make(chan struct{}, maxSessions), forwards: make(chan struct{}, maxForwards),
		creationTimeout: creationTimeout, streams: connections.Streams{LookEvery: 20 * time.Millisecond, Linger: 50 * time.Millisecond}}
	server := httptest.NewServer(s.routes())
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return s, server.Listener.Addr().String()
}

// FuzzStreamFrames sends frames of SPDY and WebSocket to the server: it reads them without a panic, and a client that has left leaves
// nothing open.
func FuzzStreamFrames(f *testing.F) {
	_, address := echoServer(f, echo{}, 50*time.Millisecond)
	_, patient := echoServer(f, echo{}, time.Minute)
	frame := func(opcode, channel byte, payload string) []byte {
		return streamtest.Frame(opcode, string(channel)+payload)
	}
	recorded := streamtest.Record(f, patient, upgrades[0].Path)
	streamtest.Fuzz(f, address, upgrades, [][]byte{
		recorded, recorded[:len(recorded)/2], slices.Concat(recorded, streamtest.BadSPDY),
		frame(2, 0, "input"), frame(2, 4, `{"Width":80,"Height":24}`), frame(2, 4, `{"Width":-1`), frame(1, '0', "aW5wdXQ="),
		frame(2, 9, "no such channel"), frame(8, 3, "\xe8bye"), frame(9, 0, "ping"), {0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		{0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff}, {0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}, {0, 0, 0, 1, 1, 0xff, 0xff, 0xff}, {},
	})
}
