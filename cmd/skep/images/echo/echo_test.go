package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestClientCountsWhoAnswers(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	s := &server{id: identity{Pod: "echo-1", Node: "node1", IP: "10.244.1.2"}}
	go func() { _ = s.serveTCP(listener) }()
	host, port, _ := net.SplitHostPort(listener.Addr().String())

	var out strings.Builder
	if err := runClient(t.Context(), []string{"--count", "3", "--port", port, host}, &out); err != nil {
		t.Fatalf("%v: %s", err, out.String())
	}
	want := "  1  echo-1 node1 10.244.1.2\n  2  echo-1 node1 10.244.1.2\n  3  echo-1 node1 10.244.1.2\n    3  echo-1 node1 10.244.1.2\ntally 3, 0 failed\n"
	if out.String() != want {
		t.Errorf("client said\n%s, want\n%s", out.String(), want)
	}

	listener.Close()
	out.Reset()
	if err := runClient(t.Context(), []string{"--count", "2", "--port", port, host}, &out); err == nil || !strings.Contains(out.String(), "tally , 2 failed") {
		t.Errorf("with nobody there: %v, %q", err, out.String())
	}
}

func TestContinuousClientEndsWithItsInput(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{id: identity{Pod: "echo-1", Node: "node1", IP: "10.244.1.2"}}
	go func() { _ = s.serveUDP(conn) }()
	in, hold := io.Pipe()
	lines := make(chan string)
	c := &client{protocol: "udp", address: conn.LocalAddr().String(), timeout: 200 * time.Millisecond, out: lineWriter(lines), tally: map[string]int{}}
	go func() {
		c.watch(untilEnd(context.Background(), in), time.Millisecond)
		close(lines)
	}()
	if line := <-lines; !strings.HasSuffix(line, " answer: echo-1 node1 10.244.1.2\n") {
		t.Errorf("first line %q", line)
	}
	conn.Close()
	if line := <-lines; !strings.Contains(line, " failed: connection ") {
		t.Errorf("after the server's end: %q", line)
	}
	hold.Close()
	last := ""
	for line := range lines {
		last = line
	}
	if !strings.Contains(last, " done: ") {
		t.Errorf("last line %q", last)
	}
}

type lineWriter chan<- string

func (w lineWriter) Write(p []byte) (int, error) { w <- string(p); return len(p), nil }

func TestReadinessSwitches(t *testing.T) {
	s := &server{}
	s.ready.Store(true)
	web := httptest.NewServer(s.handler())
	defer web.Close()
	status := func() int {
		response, err := http.Get(web.URL + "/ready")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, step := range []struct {
		body string
		want int
	}{{"off", 503}, {"on", 200}} {
		response, err := http.Post(web.URL+"/ready", "text/plain", strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if got := status(); got != step.want {
			t.Errorf("after %s: /ready answers %d, want %d", step.body, got, step.want)
		}
	}
	if got := fmt.Sprint(self().Pod != ""); got != "true" {
		t.Error("a server without POD_NAME has no name")
	}
}
