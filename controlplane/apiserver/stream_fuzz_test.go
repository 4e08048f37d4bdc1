package apiserver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"
	streamingforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	streaming "k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// FuzzStreamFrames sends what kubectl's WebSocket protocols and the agents' SPDY are read from: nothing panics, and a client that has
// gone leaves nothing open, here and at the agent.
func FuzzStreamFrames(f *testing.F) {
	const within = 50 * time.Millisecond // for a client to open its streams
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/portforward" {
			streamingforward.ServePortForward(w, r, upcase{}, "p", "", &streamingforward.V4Options{}, time.Minute, within, streamingforward.SupportedProtocols)
			return
		}
		options := &streaming.Options{Stdin: true, Stdout: true, Stderr: true}
		streaming.ServeExec(w, r, echoExecutor{}, "p", "", "c", []string{"x"}, options, time.Minute, within, streaming.SupportedStreamingProtocols)
	}))
	f.Cleanup(func() { agent.CloseClientConnections(); agent.Close() })
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		location, err := url.Parse(agent.URL + r.URL.Path + "?input=1&output=1&error=1")
		if err != nil {
			panic(err)
		}
		c := &call{Request: r}
		c.subresource = r.URL.Path[1:]
		direct := proxy.NewUpgradeAwareHandler(location, http.DefaultTransport, false, true, proxyErrors{location.Host})
		direct.UseLocationHost = true
		translated(direct, location, http.DefaultTransport, c).ServeHTTP(&endedWriter{w, r.Context()}, r)
	}))
	f.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	paths := []struct{ path, protocol string }{
		{"/exec", "v5.channel.k8s.io"}, {"/portforward", "SPDY/3.1+portforward.k8s.io"},
	}
	frame := func(opcode byte, payload string) []byte {
		return append([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...)
	}
	for i := range paths {
		for _, seed := range [][]byte{
			frame(2, "\x00input"), append(frame(2, "\x00input"), frame(2, "\xff\x00")...), frame(2, "\x04{\"Width\":80,\"Height\":24}"), frame(2, "\x04{"), frame(2, "\x09x"), frame(1, "text"), frame(2, ""),
			frame(2, "\x80\x03\x00\x01\x00\xff\xff\xff"), frame(2, "\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"), frame(8, "\x03\xe8bye"), frame(9, "ping"),
			{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0}, {},
		} {
			f.Add(i, seed)
		}
	}
	f.Fuzz(func(t *testing.T, which int, frames []byte) {
		to := paths[uint(which)%uint(len(paths))]
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n\r\n", to.path, to.protocol); err != nil {
			t.Fatal(err)
		}
		in := bufio.NewReader(conn)
		response, err := http.ReadResponse(in, nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("%s: %+v (%v)", to.path, response, err)
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
