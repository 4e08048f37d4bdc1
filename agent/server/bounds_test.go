package server

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// What is open on a node is bounded: one session more gets 429 in a Status, which clients of streams look for.
func TestSessionsAreBounded(t *testing.T) {
	s := &Server{sessions: make(chan struct{}, 2)}
	entered, leave := make(chan struct{}), make(chan struct{})
	handler := s.session(func(http.ResponseWriter, *http.Request) { entered <- struct{}{}; <-leave })
	for range 2 {
		go handler(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		<-entered
	}
	recorder := httptest.NewRecorder()
	handler(recorder, httptest.NewRequest("GET", "/", nil))
	if recorder.Code != http.StatusTooManyRequests || recorder.Header().Get("Retry-After") != "1" || !strings.Contains(recorder.Body.String(), `"reason":"TooManyRequests"`) {
		t.Errorf("%d %v %s", recorder.Code, recorder.Header(), recorder.Body)
	}
	close(leave)
	for range cap(s.sessions) {
		s.sessions <- struct{}{} // once those before have left
	}
	for range cap(s.sessions) {
		<-s.sessions
	}
	go handler(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	<-entered
}

// closer is a stream of which it is known whether it was closed.
type closer struct {
	io.ReadWriter
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

// A client may ask for any number of streams over one connection: those above the bound end before they cost a thread and a
// connection to the pod.
func TestForwardsAreBounded(t *testing.T) {
	f := &forwarder{netns: "/gone", open: make(chan struct{}, 1)}
	f.open <- struct{}{}
	stream := &closer{}
	if err := f.PortForward(t.Context(), "p", "", 80, stream); err == nil || !strings.Contains(err.Error(), "open already") || !stream.closed {
		t.Errorf("one more than the bound: %v, closed: %t", err, stream.closed)
	}
	<-f.open
	if err := f.PortForward(t.Context(), "p", "", 80, &closer{}); err == nil || strings.Contains(err.Error(), "open already") {
		t.Errorf("a place that is free: %v", err)
	}
	if len(f.open) != 0 {
		t.Error("a connection that failed holds its place")
	}
}

// An archive that stops coming is given up.
func TestArchiveThatStops(t *testing.T) {
	body, write := net.Pipe()
	defer write.Close()
	r := &patientReader{body, http.NewResponseController(deadlines{httptest.NewRecorder(), body}), time.Minute}
	go func() { _, _ = write.Write([]byte("a")) }()
	buf := make([]byte, 1)
	if _, err := r.Read(buf); err != nil {
		t.Fatal(err)
	}
	r.wait = 1
	if _, err := r.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing comes: %v", err)
	}
}

// deadlines is a writer whose connection has them.
type deadlines struct {
	http.ResponseWriter
	net.Conn
}

func (d deadlines) Write(p []byte) (int, error) { return d.ResponseWriter.Write(p) }
