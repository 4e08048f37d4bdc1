package server

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/connections/streamtest"
)

// silentRuntime is one whose commands read nothing and end with their context, and whose pod is in the host's network.
type silentRuntime struct{ echo }

func (silentRuntime) Exec(ctx context.Context, _ string, _ []string, _ runtime.ExecOptions) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func (d silentRuntime) Find(namespace, name, container string) (runtime.Container, *corev1.Pod, error) {
	c, pod, err := d.echo.Find(namespace, name, container)
	pod.Spec.HostNetwork = true
	return c, pod, err
}

// CVE-2022-23471's kind: a client that has left holds neither a session nor a command nor a connection to a pod, also if its data
// is no longer read: because a frame could not be decoded, or the command or the pod reads nothing.
func TestClientsThatLeave(t *testing.T) {
	_, patient := echoServer(t, echo{}, time.Minute)
	recorded := streamtest.Record(t, patient, upgrades[0].Path)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	large := streamtest.Frame(2, "\x00"+strings.Repeat("x", 32<<10))
	forwards := streamtest.WebSocket(fmt.Sprintf("/portForward/default/pod?port=%d", silent.Addr().(*net.TCPAddr).Port), "v4.channel.k8s.io")
	for name, c := range map[string]struct {
		to     streamtest.Upgrade
		frames []byte
		fills  bool
	}{
		"a frame that cannot be decoded":       {upgrades[0], slices.Concat(recorded, streamtest.BadSPDY), false},
		"a command that reads nothing":         {upgrades[1], slices.Concat(large, large), false},
		"a command that reads nothing of much": {upgrades[1], large, true},
		"a pod that does not answer":           {forwards, streamtest.Frame(2, "\x00hello"), false},
		"a pod that reads and answers nothing": {forwards, large, true},
	} {
		t.Run(name, func(t *testing.T) {
			s, address := echoServer(t, silentRuntime{}, time.Second)
			conn, _ := streamtest.Open(t, address, c.to)
			wait(t, "the session begins", func() bool { return len(s.sessions) == 1 })
			_, err := conn.Write(c.frames)
			if err == nil && c.fills {
				err = streamtest.Fill(conn, c.frames)
			}
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
			wait(t, "the session ends", func() bool { return len(s.sessions)+len(s.forwards) == 0 })
		})
	}
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute until %s", what)
		}
	}
}
