package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
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

// streams are the ways in which clients send frames, and how they begin.
var streams = []struct{ path, header string }{
	{"/exec/default/pod/main?command=x&input=1&output=1&error=1", "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io"},
	{"/exec/default/pod/main?command=x&input=1&output=1&tty=1", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io"},
	{"/exec/default/pod/main?command=x&input=1&output=1", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: base64.channel.k8s.io"},
	{"/portForward/default/pod?port=80", "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: portforward.k8s.io"},
	{"/portForward/default/pod?port=80", "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io"},
}

// FuzzStreamFrames sends frames of SPDY and WebSocket to the server: it reads them without a panic, and a client that has gone leaves
// nothing open.
func FuzzStreamFrames(f *testing.F) {
	s := &Server{cfg: Config{Pods: echo{}, Runtime: echo{}}, sessions: make(chan struct{}, maxSessions), forwards: make(chan struct{}, maxForwards), creationTimeout: 50 * time.Millisecond}
	server := httptest.NewServer(s.routes())
	f.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	frame := func(opcode, channel byte, payload string) []byte {
		return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)+1), 0, 0, 0, 0, channel}, payload...)
	}
	recorded := recordSPDY(f, server.Listener.Addr().String())
	for i := range streams {
		for _, seed := range [][]byte{
			recorded, recorded[:len(recorded)/2], frame(2, 0, "input"), frame(2, 4, `{"Width":80,"Height":24}`), frame(2, 4, `{"Width":-1`), frame(1, '0', "aW5wdXQ="),
			frame(2, 9, "no such channel"), frame(8, 3, "\xe8bye"), frame(9, 0, "ping"), {0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
			{0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff}, {0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1}, {0, 0, 0, 1, 1, 0xff, 0xff, 0xff}, {},
		} {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, which int, frames []byte) {
		stream := streams[uint(which)%uint(len(streams))]
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\n%s\r\n\r\n", stream.path, stream.header); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		response, err := http.ReadResponse(in, nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %+v (%v)", stream.path, response, err)
		}
		go func() { // the server may end it before all is sent
			_, _ = conn.Write(frames)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, in); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the client has gone, and the server goes on")
		}
	})
}

// recordSPDY returns the frames that client-go sends for a command.
func recordSPDY(f *testing.F, to string) []byte {
	f.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	defer listener.Close()
	var mu sync.Mutex
	var sent bytes.Buffer
	go func() {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		defer client.Close()
		server, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer server.Close()
		go func() { _, _ = io.Copy(client, server) }()
		for packet := make([]byte, 4096); ; {
			n, err := client.Read(packet)
			mu.Lock()
			sent.Write(packet[:n])
			mu.Unlock()
			if _, werr := server.Write(packet[:n]); err != nil || werr != nil {
				return
			}
		}
	}()
	config := &rest.Config{Host: "http://" + listener.Addr().String()}
	request, err := http.NewRequest(http.MethodPost, config.Host+streams[0].path, nil)
	if err != nil {
		f.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, request.URL)
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.Context(), 30*time.Second)
	defer cancel()
	answered := &firstWrite{stop: cancel}
	_ = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("input"), Stdout: answered, Stderr: io.Discard})
	mu.Lock()
	defer mu.Unlock()
	_, frames, found := bytes.Cut(sent.Bytes(), []byte("\r\n\r\n"))
	if !found || len(frames) < 20 || answered.text != "input" {
		f.Fatalf("recorded %d bytes, answered %q", sent.Len(), answered.text)
	}
	return bytes.Clone(frames)
}

// firstWrite keeps the first text that is written, and stops the writer.
type firstWrite struct {
	stop context.CancelFunc
	text string
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.text == "" {
		w.text = string(p)
	}
	w.stop()
	return len(p), nil
}
