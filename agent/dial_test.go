package agent

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// nameServer answers every question for an address with 127.0.0.1, while it answers.
type nameServer struct {
	net.PacketConn
	answers atomic.Bool
}

func newNameServer(t *testing.T) *nameServer {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s := &nameServer{PacketConn: conn}
	go func() {
		for packet := make([]byte, 1500); ; {
			n, from, err := conn.ReadFrom(packet)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if !s.answers.Load() || m.Unpack(packet[:n]) != nil {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	return s
}

func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", s.LocalAddr().String())
	}}
}

// A request to an API server whose name DNS does not resolve fails with that error in bounded time. When DNS answers, even if
// slower than a connection's timeout, the server is reached; and with the last resolved addresses it is reached while DNS does
// not answer again.
func TestDNSThatNeverAnswers(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	defer api.Close()
	_, port, _ := net.SplitHostPort(api.Listener.Addr().String())
	names := newNameServer(t)
	d := newDialer(nil)
	d.resolver = names.resolver()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api.skep.test:" + port, Dial: d.dial, WrapTransport: func(rt http.RoundTripper) http.RoundTripper {
		return &boundedTransport{RoundTripper: rt, bound: 12 * time.Second, reason: d.reason}
	}})
	if err != nil {
		t.Fatal(err)
	}
	// Before the resolver's first answer is due: one attempt has failed when the request is given up.
	within, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := d.dial(within, "tcp", "api.skep.test:"+port); err == nil || !strings.Contains(err.Error(), "resolve api.skep.test") {
		t.Errorf("dial: %v", err)
	}
	if reason := d.reason(); !strings.Contains(reason, "not connected: resolve api.skep.test: lookup api.skep.test") {
		t.Errorf("the reason is %q", reason)
	}
	get := func() error {
		_, err := client.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
		return err
	}
	time.AfterFunc(2*time.Second, func() { names.answers.Store(true) }) // after the first question, before the resolver's second
	if err := get(); err == nil || !strings.Contains(err.Error(), "unknown (get nodes n)") && !strings.Contains(err.Error(), "the server") {
		t.Errorf("once DNS answers: %v", err)
	}
	names.answers.Store(false)
	api.CloseClientConnections()
	conn, err := d.dial(t.Context(), "tcp", "api.skep.test:"+port)
	if err != nil {
		t.Fatalf("with the address from before: %v", err)
	}
	conn.Close()
	if reason := d.reason(); reason != "" {
		t.Errorf("connected, and the reason is %q", reason)
	}
}
