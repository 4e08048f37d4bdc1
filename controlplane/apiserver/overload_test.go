package apiserver

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Requests whose bodies never arrive use no seats: others are served, of the same user too, and each gets a 408 in the end.
func TestBodiesThatNeverCome(t *testing.T) {
	p := attackedServer(t)
	transport := roundTripper(t, p.config)
	const requests = 400
	underAttack(t, p, 200<<20, func(ctx context.Context) {
		codes := make(chan int, requests)
		for i := range requests {
			body, write := io.Pipe()
			defer write.Close()
			request, err := http.NewRequestWithContext(ctx, "POST", p.url+"/api/v1/namespaces/default/configmaps", body)
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Content-Type", mediaJSON)
			if i%2 == 0 {
				request.ContentLength = maxBody // announced and not believed
			}
			go func() {
				response, err := transport.RoundTrip(request)
				if err != nil {
					codes <- 0
					return
				}
				response.Body.Close()
				codes <- response.StatusCode
			}()
		}
		for i := range 20 {
			if _, err := p.client.CoreV1().ConfigMaps("default").Create(ctx, configMap(fmt.Sprintf("beside-%d", i)), metav1.CreateOptions{}); err != nil {
				t.Errorf("write %d beside them: %v", i, err)
			}
		}
		for range requests {
			if code := <-codes; code != http.StatusRequestTimeout {
				t.Errorf("a body that did not come was answered %d, want 408", code)
			}
		}
	})
	for name, level := range p.server.limits.levels {
		waitFor(t, "level "+name+" to be empty", func() bool { s := level.Stats(); return s.Used == 0 && s.Held == 0 && s.Waiting == 0 })
	}
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// dial opens a connection of HTTP/1.1 or 2 with the administrator's certificate.
func (p *controlPlane) dial(t *testing.T, protocol string) *tls.Conn {
	t.Helper()
	config, err := rest.TLSConfigFor(p.config)
	if err != nil {
		t.Fatal(err)
	}
	config.NextProtos, config.ServerName = []string{protocol}, "127.0.0.1"
	raw, err := net.Dial("tcp", strings.TrimPrefix(p.url, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.(*net.TCPConn).SetReadBuffer(16 << 10)
	conn := tls.Client(raw, config)
	t.Cleanup(func() { conn.Close() })
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Clients that request large lists and watches and read nothing hold at most half of the seats of their user's level, and their connections
// are closed.
func TestClientsThatDoNotRead(t *testing.T) {
	p, err := start(t.TempDir(), Config{Seats: 150, WriteTimeout: attackTimeout})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	maps := p.client.CoreV1().ConfigMaps("default")
	for i := range 12 {
		cm := configMap(fmt.Sprintf("large-%d", i), "k", strings.Repeat("x", 1<<20))
		cm.Labels = map[string]string{"large": "yes"}
		if _, err := maps.Create(t.Context(), cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const each = 16 // both together more than the places of one user
	underAttack(t, p, 600<<20, func(ctx context.Context) {
		var conns []*tls.Conn
		for i := range 2 * each {
			conn := p.dial(t, "http/1.1")
			conns = append(conns, conn)
			query := "labelSelector=large"
			if i%2 == 0 {
				query += "&watch=1&resourceVersion=0"
			}
			if _, err := fmt.Fprintf(conn, "GET /api/v1/configmaps?%s HTTP/1.1\r\nHost: x\r\n\r\n", query); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, "the places of one user to be taken", func() bool {
			return p.server.limits.levels[levelExempt].Stats().Waiting > 0
		})
		began := time.Now()
		if _, err := p.as(t, "other").CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{Limit: 1}); err != nil {
			t.Errorf("another user of the same level: %v", err)
		}
		if took := time.Since(began); took > leaseAge {
			t.Errorf("another user of the same level waited %s", took)
		}
		waitFor(t, "the watches that nobody reads to end", func() bool { return p.server.sessions() == 0 })
		for _, conn := range conns {
			conn.Close()
		}
	})
}

// sessions counts the open watches and streams of all users.
func (s *Server) sessions() int {
	s.limits.mu.Lock()
	defer s.limits.mu.Unlock()
	n := 0
	for _, open := range s.limits.sessions {
		n += open
	}
	return n
}

// The number of open watches and streams of one user is limited, and those of others are not counted with them.
func TestSessionsAreBounded(t *testing.T) {
	p, err := start(t.TempDir(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.stop()
	p.server.limits.maxSessions = 3
	maps := p.client.CoreV1().ConfigMaps("default")
	for range 3 {
		w, err := maps.Watch(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
	}
	for path, upgrade := range map[string]string{
		"/api/v1/configmaps?watch=1":                                "",
		"/api/v1/namespaces/default/pods/p/exec?command=x&stdout=1": "websocket",
		"/api/v1/namespaces/default/pods/p/portforward?ports=80":    "SPDY/3.1",
		"/api/v1/namespaces/default/pods/p/attach?stdout=1":         "SPDY/3.1",
		"/api/v1/namespaces/default/pods/p/log?follow=true":         "",
		"/api/v1/namespaces/default/services/s/proxy/":              "",
	} {
		conn := p.dial(t, "http/1.1")
		if upgrade != "" {
			upgrade = "Connection: Upgrade\r\nUpgrade: " + upgrade + "\r\n"
		}
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, upgrade); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: %s, want 429 with Retry-After", path, response.Status)
		}
		conn.Close()
	}
	w, err := p.as(t, "other").CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatalf("another user: %v", err)
	}
	w.Stop()
}

// floodEnv makes this test binary a client that opens idle connections to the address in it, and holds them until its input ends.
const floodEnv = "SKEP_TEST_IDLE_CONNECTIONS"

func floodWithConnections(address string) error {
	var count int
	if _, err := fmt.Sscanf(os.Getenv(floodEnv), "%d", &count); err != nil {
		return err
	}
	var group sync.WaitGroup
	places := make(chan struct{}, 64)
	for i := range count {
		places <- struct{}{}
		group.Go(func() {
			defer func() { <-places }()
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return
			}
			switch i % 4 { // the others say nothing at all
			case 0:
				_ = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).Handshake() // may be evicted meanwhile
			case 1:
				_, _ = conn.Write([]byte("\x16\x03\x01\x02\x00\x01")) // half a greeting
			}
		})
	}
	group.Wait()
	fmt.Println("open")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// Ten thousand connections of strangers that send nothing, or half a handshake, are closed in favour of others.
func TestIdleConnections(t *testing.T) {
	p := attackedServer(t)
	underAttack(t, p, 400<<20, func(ctx context.Context) {
		flood := exec.CommandContext(ctx, os.Args[0], strings.TrimPrefix(p.url, "https://"))
		flood.Env = append(os.Environ(), floodEnv+"="+strconv.Itoa(10000))
		flood.Stderr = os.Stderr
		input, err := flood.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := flood.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := flood.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(output).ReadString('\n'); err != nil || line != "open\n" {
			t.Errorf("the flood says %q: %v", line, err)
		}
		for i := range 20 {
			if _, err := roundTrip(roundTripper(t, p.config), p.url+"/api/v1/namespaces/default"); err != nil {
				t.Errorf("new connection %d beside them: %v", i, err)
			}
		}
		input.Close()
		if err := flood.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func roundTrip(transport http.RoundTripper, url string) (int, error) {
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}
