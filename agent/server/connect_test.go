package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/pod"
)

// addressed has a pod at each address.
type addressed struct {
	Pods
	addresses []string
}

func (a addressed) List() (list []pod.PodState) {
	for _, ip := range a.addresses {
		list = append(list, pod.PodState{Status: corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: ip}}}})
	}
	return list
}

// connectServer serves with pods at some of this machine's loopback addresses, and returns how the API server asks for one.
func connectServer(t *testing.T, addresses ...string) (ask func(address string) (*http.Response, *bufio.Reader, net.Conn)) {
	t.Helper()
	ca := newAuthority(t)
	certificate, key := ca.pair("system:node:n", "system:nodes")
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca.pem())
	s, err := New(Config{Listen: "127.0.0.1:0", Pods: addressed{addresses: addresses},
		TLS: &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	clientCertificate, clientKey := ca.pair(clientName, clientGroup)
	client, err := tls.X509KeyPair(clientCertificate, clientKey)
	if err != nil {
		t.Fatal(err)
	}
	return func(address string) (*http.Response, *bufio.Reader, net.Conn) {
		t.Helper()
		conn, err := tls.Dial("tcp", s.Addr().String(), &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{client}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /connect/%s HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n", address)
		reader := bufio.NewReader(conn)
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		return response, reader, conn
	}
}

// Each side can send everything before the other has finished.
func TestConnectCarriesBothWays(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		got, err := io.ReadAll(conn)
		fmt.Fprintf(conn, "got %d bytes, %v", len(got), err)
	}()
	response, reader, conn := connectServer(t, "127.0.0.1")(listener.Addr().String())
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status)
	}
	if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*tls.Conn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(reader); err != nil || string(answer) != "got 1048576 bytes, <nil>" {
		t.Errorf("the pod answers %q, %v", answer, err)
	}
}

// Only pods of the node can be reached.
func TestConnectRefuses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := listener.Addr().String()
	listener.Close()
	port := netip.MustParseAddrPort(closed).Port()
	ask := connectServer(t, "127.0.0.1", "::1")
	for address, want := range map[string]struct {
		code int
		text string
	}{
		fmt.Sprintf("127.0.0.2:%d", port): {http.StatusNotFound, "no pod of this node has the address 127.0.0.2"},
		closed:                            {http.StatusBadGateway, "connection refused"},
		fmt.Sprintf("[::1]:%d", port):     {http.StatusBadGateway, "connection refused"},
		"localhost:80":                    {http.StatusBadRequest, `"localhost:80" is not ADDRESS:PORT`},
	} {
		response, reader, _ := ask(address)
		text, err := io.ReadAll(io.LimitReader(reader, response.ContentLength))
		if err != nil || response.StatusCode != want.code || !strings.Contains(string(text), want.text) {
			t.Errorf("%s: %s %q, %v, want %d %q", address, response.Status, text, err, want.code, want.text)
		}
	}
}
