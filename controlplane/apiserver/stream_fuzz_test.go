package apiserver

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/proxy"
	streamingforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	streaming "k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/skep-io/skep/connections"
	"github.com/skep-io/skep/connections/streamtest"
)

// streamServer carries streams to an agent that runs commands by execute, and returns its address. Clients have as long as within to
// open their streams.
func streamServer(t testing.TB, execute streaming.Executor, within time.Duration) string {
	watched := connections.Streams{LookEvery: 20 * time.Millisecond}
	agent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		watched.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/portforward" {
				streamingforward.ServePortForward(w, r, upcase{}, "p", "", &streamingforward.V4Options{}, time.Minute, within, streamingforward.SupportedProtocols)
				return
			}
			options := &streaming.Options{Stdin: true, Stdout: true, Stderr: true}
			streaming.ServeExec(w, r, execute, "p", "", "c", []string{"x"}, options, time.Minute, within, streaming.SupportedStreamingProtocols)
		})
	}))
	t.Cleanup(func() { agent.CloseClientConnections(); agent.Close() })
	s := &Server{streams: watched}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		location, err := url.Parse(agent.URL + r.URL.Path + "?input=1&output=1&error=1")
		if err != nil {
			panic(err)
		}
		c := &call{Request: r}
		c.subresource = r.URL.Path[1:]
		s.carry(w, c, func(w http.ResponseWriter, c *call) {
			transport := &http.Transport{DialContext: endsWith(c.Context(), (&net.Dialer{}).DialContext), DisableKeepAlives: true}
			direct := proxy.NewUpgradeAwareHandler(location, transport, false, true, proxyErrors{location.Host})
			direct.UseLocationHost = true
			translated(direct, location, transport, c).ServeHTTP(w, c.Request)
		})
	}))
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	return server.Listener.Addr().String()
}

// FuzzStreamFrames sends random frames of kubectl's WebSocket protocols and of the agents' SPDY: nothing panics, and a client that has
// disconnected leaves nothing open, here and at the agent.
func FuzzStreamFrames(f *testing.F) {
	frame := streamtest.Frame
	streamtest.Fuzz(f, streamServer(f, echoExecutor{}, 50*time.Millisecond), []streamtest.Upgrade{
		streamtest.WebSocket("/exec", "v5.channel.k8s.io"), streamtest.WebSocket("/portforward", "SPDY/3.1+portforward.k8s.io"),
	}, [][]byte{
		frame(2, "\x00input"), append(frame(2, "\x00input"), frame(2, "\xff\x00")...), frame(2, "\x04{\"Width\":80,\"Height\":24}"), frame(2, "\x04{"), frame(2, "\x09x"), frame(1, "text"), frame(2, ""),
		frame(2, "\x80\x03\x00\x01\x00\xff\xff\xff"), frame(2, "\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x01"), frame(8, "\x03\xe8bye"), frame(9, "ping"),
		{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0}, {},
	})
}

// silentExecutor runs commands that read and write nothing until their context ends.
type silentExecutor struct{ begun, ended chan struct{} }

func (d silentExecutor) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, _ io.Reader, _, _ io.WriteCloser, _ bool, _ <-chan streaming.TerminalSize, _ time.Duration) error {
	d.begun <- struct{}{}
	<-ctx.Done()
	d.ended <- struct{}{}
	return ctx.Err()
}

// As in CVE-2022-23471: a command ends at the agent when its client has disconnected, also while it does not read what the client sent.
func TestClientsThatLeaveEndTheirCommands(t *testing.T) {
	large := streamtest.Frame(2, "\x00"+strings.Repeat("x", 32<<10))
	for name, c := range map[string]struct {
		protocol string
		frames   []byte
		fills    bool
	}{
		"translated": {"v5.channel.k8s.io", nil, false},
		"translated, to a command that reads nothing": {"v5.channel.k8s.io", large, true},
		"passed on": {"v4.channel.k8s.io", nil, false},
		"passed on, to a command that reads nothing":         {"v4.channel.k8s.io", slices.Concat(large, large), false},
		"passed on, to a command that reads nothing of much": {"v4.channel.k8s.io", large, true},
	} {
		t.Run(name, func(t *testing.T) {
			command := silentExecutor{make(chan struct{}, 1), make(chan struct{}, 1)}
			conn, _ := streamtest.Open(t, streamServer(t, command, time.Minute), streamtest.WebSocket("/exec", c.protocol))
			within(t, "the command begins", command.begun)
			_, err := conn.Write(c.frames)
			if err == nil && c.fills {
				err = streamtest.Fill(conn, c.frames)
			}
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			within(t, "the command ends", command.ended)
		})
	}
}

func within(t *testing.T, what string, happens <-chan struct{}) {
	t.Helper()
	select {
	case <-happens:
	case <-time.After(time.Minute):
		t.Fatalf("waited a minute until %s", what)
	}
}
