package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

func TestOnlyTheAPIServerMayAsk(t *testing.T) {
	f := newFixture(t)
	for _, c := range []struct {
		config *rest.Config
		want   int
	}{
		{f.apiserver(), 200}, {f.config("system:node:other", "system:nodes"), 403}, {f.config("skep:apiserver"), 403},
		{f.config("kubernetes-admin", "system:masters"), 403},
	} {
		if code, text := f.do(c.config, "GET", "/healthz", nil); code != c.want {
			t.Errorf("%d %s, want %d", code, text, c.want)
		}
	}
	stranger := newAuthority(t)
	certPEM, keyPEM := stranger.pair("skep:apiserver", "system:masters")
	for name, config := range map[string]*rest.Config{
		"another cluster's": {Host: f.url, TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem(), CertData: certPEM, KeyData: keyPEM}},
		"no certificate":    {Host: f.url, TLSClientConfig: rest.TLSClientConfig{CAData: f.ca.pem()}},
	} {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		if resp, err := client.Get(f.url + "/healthz"); err == nil {
			resp.Body.Close()
			t.Errorf("%s: answered %s", name, resp.Status)
		}
	}
}

func TestPlainAnswers(t *testing.T) {
	f := newFixture(t)
	for path, want := range map[string]string{"/healthz": "ok", "/stats/summary": `"nodeName":"n"`, "/metrics": "go_goroutines", "/pods": `"phase":"Running"`} {
		if code, text := f.do(f.apiserver(), "GET", path, nil); code != 200 || !strings.Contains(text, want) {
			t.Errorf("%s: %d %.200s", path, code, text)
		}
	}
	for path, want := range map[string]string{
		"/containerLogs/default/none/main":            "404",
		"/containerLogs/default/pod/late":             `400 container "late" in pod "pod" is waiting to start: ContainerCreating`,
		"/containerLogs/default/pod/late?tailLines=x": `400 tailLines: "x" is not a number of at least 0`,
		"/nothing": "404",
	} {
		if code, text := f.do(f.apiserver(), "GET", path, nil); !strings.HasPrefix(fmt.Sprint(code, " ", text), want) {
			t.Errorf("%s: %d %s, want %s", path, code, text, want)
		}
	}
	if code, text := f.do(f.apiserver(), "POST", "/images/load", strings.NewReader("this is no tar")); code != 400 || !strings.Contains(text, "load images") {
		t.Errorf("load of what is no image: %d %s", code, text)
	}
}

// stream runs a command as kubectl does, over WebSocket or SPDY.
func (f *fixture) stream(kind, path string, query url.Values, o remotecommand.StreamOptions) error {
	f.t.Helper()
	u, err := url.Parse(f.url + path)
	if err != nil {
		f.t.Fatal(err)
	}
	u.RawQuery = query.Encode()
	var executor remotecommand.Executor
	if kind == "websocket" {
		executor, err = remotecommand.NewWebSocketExecutorForProtocols(f.apiserver(), "GET", u.String(), "v4.channel.k8s.io")
	} else {
		executor, err = remotecommand.NewSPDYExecutor(f.apiserver(), "POST", u)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return executor.StreamWithContext(ctx, o)
}

type windowSizes chan *remotecommand.TerminalSize

func (s windowSizes) Next() *remotecommand.TerminalSize { return <-s }

func TestExecOverBothProtocols(t *testing.T) {
	f := newFixture(t)
	f.load()
	c := f.run(0, false, "sleep 1000")
	for _, kind := range []string{"spdy", "websocket"} {
		t.Run(kind, func(t *testing.T) {
			f := *f
			f.t = t
			var out, errOut bytes.Buffer
			err := f.stream(kind, "/exec/default/pod/main", url.Values{"command": {"sh", "-c", "head -c 5; echo trouble >&2; exit 7"}, "input": {"1"}, "output": {"1"}, "error": {"1"}},
				remotecommand.StreamOptions{Stdin: strings.NewReader("typed"), Stdout: &out, Stderr: &errOut})
			var code utilexec.CodeExitError
			if !errors.As(err, &code) || code.Code != 7 || out.String() != "typed" || errOut.String() != "trouble\n" {
				t.Errorf("exec: %v, stdout %q, stderr %q", err, out.String(), errOut.String())
			}
			if err := f.stream(kind, "/exec/default/pod/main", url.Values{"command": {"true"}, "output": {"1"}}, remotecommand.StreamOptions{Stdout: io.Discard}); err != nil {
				t.Errorf("exec of true: %v", err)
			}

			in, typed := io.Pipe()
			window := make(windowSizes, 1)
			window <- &remotecommand.TerminalSize{Width: 101, Height: 33}
			shown, show := io.Pipe()
			done := make(chan error, 1)
			go func() {
				err := f.stream(kind, "/exec/default/pod/main", url.Values{"command": {"sh", "-c", "while read x; do stty size; [ $x = q ] && exit; done"}, "input": {"1"}, "output": {"1"}, "tty": {"1"}},
					remotecommand.StreamOptions{Stdin: in, Stdout: show, Tty: true, TerminalSizeQueue: window})
				show.CloseWithError(io.EOF)
				in.CloseWithError(io.EOF)
				done <- err
			}()
			// Sizes travel beside the input: what is asked again and again will see them.
			var screen strings.Builder
			buf := make([]byte, 1024)
			for err := error(nil); err == nil && !strings.Contains(screen.String(), "33 101"); {
				if _, err = io.WriteString(typed, "again\n"); err == nil {
					var n int
					n, err = shown.Read(buf)
					screen.Write(buf[:n])
				}
			}
			go func() { _, _ = io.WriteString(typed, "q\n") }()
			go func() { _, _ = io.Copy(io.Discard, shown) }()
			if err := <-done; err != nil || !strings.Contains(screen.String(), "33 101") {
				t.Errorf("terminal: %v, screen %q", err, screen.String())
			}
			close(window)
		})
	}
	// Only SPDY can signal a command that its input has ended.
	var out bytes.Buffer
	err := f.stream("spdy", "/exec/default/pod/main", url.Values{"command": {"cat"}, "input": {"1"}, "output": {"1"}},
		remotecommand.StreamOptions{Stdin: strings.NewReader("all of it"), Stdout: &out})
	if err != nil || out.String() != "all of it" {
		t.Errorf("cat: %v, %q", err, out.String())
	}
	if err := f.node.Stop(context.Background(), c.ID, 0); err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"exec", "attach"} {
		err = f.stream("spdy", "/"+action+"/default/pod/main", url.Values{"command": {"true"}, "output": {"1"}}, remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), `container "main" in pod "pod" is not running: it ended with exit code 137 (Error)`) {
			t.Errorf("%s in a container that has ended: %v", action, err)
		}
	}
	err = f.stream("spdy", "/exec/default/pod/late", url.Values{"command": {"true"}, "output": {"1"}}, remotecommand.StreamOptions{Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), `container "late" in pod "pod" is waiting to start`) {
		t.Errorf("exec in a container that has not started: %v", err)
	}
}

func TestLogsOfNowBeforeAndToTheEnd(t *testing.T) {
	f := newFixture(t)
	f.load()
	first := f.run(0, false, "echo first; echo bad >&2; exit 1")
	if _, err := f.node.WaitExit(context.Background(), first.ID); err != nil {
		t.Fatal(err)
	}
	if code, text := f.do(f.apiserver(), "GET", "/containerLogs/default/pod/main?follow=true", nil); code != 200 || len(text) != len("first\nbad\n") {
		t.Errorf("log to its end: %d %q", code, text)
	}
	if code, text := f.do(f.apiserver(), "GET", "/containerLogs/default/pod/main?previous=true", nil); code != 400 || !strings.Contains(text, `previous terminated container "main" in pod "pod" not found`) {
		t.Errorf("previous of the first: %d %q", code, text)
	}
	second := f.run(1, false, "echo second; sleep 0.2; echo end")
	if code, text := f.do(f.apiserver(), "GET", "/containerLogs/default/pod/main?follow=true", nil); code != 200 || text != "second\nend\n" {
		t.Errorf("followed: %d %q", code, text)
	}
	if _, err := f.node.WaitExit(context.Background(), second.ID); err != nil {
		t.Fatal(err)
	}
	if code, text := f.do(f.apiserver(), "GET", "/containerLogs/default/pod/main?previous=true&stream=Stdout", nil); code != 200 || text != "first\n" {
		t.Errorf("previous: %d %q", code, text)
	}
}

func TestPortForwardReachesThePodsLoopback(t *testing.T) {
	f := newFixture(t)
	f.load()
	// The server listens when its first process ends; a client that comes before is refused, and gives up for good.
	f.run(0, false, "mkdir /www; echo inside >/www/index.html; httpd -p 127.0.0.1:8080 -h /www; echo up; sleep 1000")
	runtimetest.Eventually(t, "the pod listens", func() bool {
		_, text := f.do(f.apiserver(), "GET", "/containerLogs/default/pod/main", nil)
		return text == "up\n"
	})
	transport, upgrader, err := spdy.RoundTripperFor(f.apiserver())
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(f.url + "/portForward/default/pod")
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	forward, err := portforward.NewOnAddresses(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"127.0.0.1"}, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forward.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	ports, err := forward.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || string(answer) != "inside\n" {
		t.Errorf("the pod answered %q, %v", answer, err)
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestStatusOfAStreamThatCannotStart(t *testing.T) {
	f := newFixture(t)
	code, text := f.do(f.apiserver(), "POST", "/exec/default/none/main?command=true&output=1", nil)
	var status metav1.Status
	if err := json.Unmarshal([]byte(text), &status); err != nil || code != 404 || status.Reason != metav1.StatusReasonNotFound || status.Status != metav1.StatusFailure {
		t.Errorf("%d %s (%v)", code, text, err)
	}
}
