package connections

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// serve runs a server that keeps limit connections, and marks those with a request of the path /known as authenticated. It returns a
// function that opens one.
func serve(t *testing.T, limit int) func() net.Conn {
	t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/known" {
			MarkKnown(r.Context())
		}
		_, _ = io.WriteString(w, "ok")
	})}
	Bound(server, limit)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func ask(conn net.Conn, path string) error {
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// closed waits until the server has closed a connection.
func closed(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err != io.EOF {
		t.Errorf("read %d bytes, %v, want the end", n, err)
	}
}

func TestStrangersGoFirst(t *testing.T) {
	dial := serve(t, 3)
	known := dial()
	if err := ask(known, "/known"); err != nil {
		t.Fatal(err)
	}
	var strangers []net.Conn
	for range 5 {
		conn := dial()
		if err := ask(conn, "/"); err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, conn)
	}
	for _, conn := range strangers[:3] {
		closed(t, conn)
	}
	for _, conn := range append(strangers[3:], known) {
		if err := ask(conn, "/known"); err != nil {
			t.Errorf("one of the three that fit: %v", err)
		}
	}
	// Now all are authenticated: the one that has been idle for longest is closed.
	if err := ask(dial(), "/"); err != nil {
		t.Fatal(err)
	}
	closed(t, strangers[3])
}

// Half a request does not protect a stranger.
func TestHalfRequests(t *testing.T) {
	dial := serve(t, 50)
	for range 500 {
		if _, err := io.WriteString(dial(), "GET / HT"); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		if err := ask(dial(), "/known"); err != nil {
			t.Error(err)
		}
	}
}
