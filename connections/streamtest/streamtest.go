// Package streamtest sends servers valid and invalid frames of SPDY and WebSocket, and checks that a client that has left leaves
// nothing open.
package streamtest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
)

// Upgrade is a request after which clients send frames: a path with its query, and the headers that ask for a protocol.
type Upgrade struct{ Path, Header string }

// SPDY asks for SPDY, and in it for one of Kubernetes' protocols.
func SPDY(path, protocol string) Upgrade {
	return Upgrade{path, "Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: " + protocol}
}

// WebSocket asks for WebSocket, and in it for one of Kubernetes' protocols.
func WebSocket(path, protocol string) Upgrade {
	return Upgrade{path, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: " + protocol}
}

// Frame is a frame of a WebSocket client.
func Frame(opcode byte, payload string) []byte {
	frame := []byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}
	if len(payload) > 125 {
		frame = []byte{0x80 | opcode, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 0, 0, 0, 0}
	}
	return append(frame, payload...)
}

// BadSPDY is a SPDY frame that cannot be decoded, and after which the library's reader stops without closing the connection.
var BadSPDY = []byte("\x80\x03\x00\x01\x00\x00\x00\x10\x00\x00\x7f\x01\x00\x00\x00\x00\x00\x00no zlib")

// Open requests an upgrade, which must be accepted, and returns the connection.
func Open(t testing.TB, address string, to Upgrade) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n%s\r\n\r\n", to.Path, to.Header); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %+v (%v)", to.Path, response, err)
	}
	return conn.(*net.TCPConn), in
}

// Fill writes a frame again and again, until the other side has read nothing for a second. A connection that is then closed ends by
// a reset: an ordinary end would be queued behind unread data, until the client's kernel gives up minutes later.
func Fill(conn *net.TCPConn, frame []byte) error {
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err := conn.Write(frame); errors.Is(err, os.ErrDeadlineExceeded) {
			return conn.SetLinger(0)
		} else if err != nil {
			return err
		}
	}
}

// Fuzz sends frames to a server after each of the upgrades, and then ends: the server must read them without a panic, and close the
// connection.
func Fuzz(f *testing.F, address string, upgrades []Upgrade, seeds [][]byte) {
	for i := range upgrades {
		for _, seed := range seeds {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, which int, frames []byte) {
		to := upgrades[uint(which)%uint(len(upgrades))]
		conn, in := Open(t, address, to)
		go func() { // the server may end it before all is sent
			_, _ = conn.Write(frames)
			_ = conn.CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, in); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the client has gone, and the server goes on")
		}
		conn.Close()
	})
}

// Record returns the frames that client-go sends over SPDY for a command at a path of a server that echoes: these open all streams
// of the command, and do not end them.
func Record(t testing.TB, server, path string) []byte {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	recording := &recorder{}
	go recording.relay(listener, server)
	config := &rest.Config{Host: "http://" + listener.Addr().String()}
	request, err := http.NewRequest(http.MethodPost, config.Host+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, request.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answered := &firstWrite{then: func() { recording.stop(); cancel() }}
	stdin, write := io.Pipe()
	defer write.Close()
	go func() { _, _ = io.Copy(write, strings.NewReader("input")) }()
	_ = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: answered, Stderr: io.Discard})
	recording.mu.Lock()
	defer recording.mu.Unlock()
	_, frames, found := bytes.Cut(recording.sent.Bytes(), []byte("\r\n\r\n"))
	if !found || len(frames) < 20 || answered.text != "input" {
		t.Fatalf("recorded %d bytes, answered %q", recording.sent.Len(), answered.text)
	}
	return bytes.Clone(frames)
}

// recorder records what a client sends to a server, until it is stopped.
type recorder struct {
	mu      sync.Mutex
	sent    bytes.Buffer
	stopped bool
}

func (r *recorder) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
}

func (r *recorder) relay(listener net.Listener, to string) {
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
		r.mu.Lock()
		if !r.stopped {
			r.sent.Write(packet[:n])
		}
		r.mu.Unlock()
		if _, werr := server.Write(packet[:n]); err != nil || werr != nil {
			return
		}
	}
}

// firstWrite stores the first text that is written.
type firstWrite struct {
	then func()
	text string
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.text == "" {
		w.text = string(p)
		w.then()
	}
	return len(p), nil
}
