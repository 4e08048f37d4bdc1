package apiserver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	streamingforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	streaming "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"
)

// echoExecutor answers exec with the command, then with what it is sent.
type echoExecutor struct{}

func (echoExecutor) ExecInContainer(_ context.Context, name, _, container string, cmd []string, in io.Reader, out, errOut io.WriteCloser,
	_ bool, _ <-chan streaming.TerminalSize, _ time.Duration) error {
	fmt.Fprintf(out, "%s/%s %s\n", name, container, strings.Join(cmd, " "))
	if in != nil {
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
	if cmd[0] == "fail" {
		return utilexec.CodeExitError{Code: 7, Err: errors.New("command terminated with exit code 7")}
	}
	_, err := errOut.Write([]byte("done"))
	return err
}

func TestExec(t *testing.T) {
	ns := namespace(t)
	serveAgent(t, "exec-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/") // /exec/NS/POD/CONTAINER
		if protocol := r.Header.Get("Upgrade"); protocol != "SPDY/3.1" {
			t.Errorf("the agent is asked to speak %q", protocol)
		}
		options, err := streaming.NewOptions(r)
		if err != nil || len(parts) != 5 || parts[1] != "exec" {
			http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
			return
		}
		streaming.ServeExec(w, r, echoExecutor{}, parts[3], "", parts[4], r.URL.Query()["command"], options,
			time.Minute, time.Minute, streaming.SupportedStreamingProtocols)
	}))
	makePod(t, ns, "p", "exec-1")
	request := shared.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("exec").
		Param("command", "echo").Param("command", "a b").Param("stdin", "true").Param("stdout", "true").Param("stderr", "true")
	executor, err := remotecommand.NewSPDYExecutor(shared.config, "POST", request.URL())
	if err != nil {
		t.Fatal(err)
	}
	var out, errOut bytes.Buffer
	stream := func(e remotecommand.Executor) error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		out.Reset()
		errOut.Reset()
		return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("input"), Stdout: &out, Stderr: &errOut})
	}
	if err := stream(executor); err != nil || out.String() != "p/c echo a b\ninput" || errOut.String() != "done" {
		t.Errorf("exec: %q %q %v", out.String(), errOut.String(), err)
	}
	// Stock kubectl uses a protocol over WebSocket that can end the input. Its two outputs arrive mixed, in any order.
	got, err := kubectl(t, "more", "-n", ns, "exec", "-i", "p", "--", "cat")
	if err != nil || strings.Replace(got, "done", "", 1) != "p/c cat\nmore" {
		t.Errorf("kubectl exec: %q, %v", got, err)
	}
	if got, err := kubectl(t, "", "-n", ns, "exec", "p", "--", "fail"); err == nil || !strings.Contains(got, "command terminated with exit code 7") {
		t.Errorf("kubectl exec of what fails: %q, %v", got, err)
	}
	websocket, err := remotecommand.NewWebSocketExecutor(shared.config, "GET", request.URL().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream(websocket); err != nil || out.String() != "p/c echo a b\ninput" || errOut.String() != "done" {
		t.Errorf("exec over WebSocket: %q %q %v", out.String(), errOut.String(), err)
	}
}

// upcase answers each line in capitals.
type upcase struct{}

func (upcase) PortForward(_ context.Context, name, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	line, err := bufio.NewReader(stream).ReadString('\n')
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stream, "%s:%d %s", name, port, strings.ToUpper(line))
	return err
}

func TestPortForward(t *testing.T) {
	ns := namespace(t)
	serveAgent(t, "forward-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		options, err := streamingforward.NewV4Options(r)
		if err != nil || r.URL.Path != "/portForward/"+ns+"/p" {
			http.Error(w, fmt.Sprint(r.URL, err), http.StatusBadRequest)
			return
		}
		streamingforward.ServePortForward(w, r, upcase{}, "p", "", options, time.Minute, time.Minute, streamingforward.SupportedProtocols)
	}))
	makePod(t, ns, "p", "forward-1")
	location := shared.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(ns).Name("p").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(shared.config)
	if err != nil {
		t.Fatal(err)
	}
	tunnel, err := portforward.NewSPDYOverWebsocketDialer(location, shared.config)
	if err != nil {
		t.Fatal(err)
	}
	for name, dialer := range map[string]httpstream.Dialer{"SPDY": spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", location), "WebSocket": tunnel} {
		stop, ready := make(chan struct{}), make(chan struct{})
		forward, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{"0:80"}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- forward.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatalf("%s: %v", name, err)
		}
		ports, err := forward.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.WriteString(conn, "hello\n")
		answer, readErr := io.ReadAll(conn)
		conn.Close()
		if err = errors.Join(err, readErr); err != nil || string(answer) != "p:80 HELLO\n" {
			t.Errorf("%s: %q, %v", name, answer, err)
		}
		close(stop)
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
