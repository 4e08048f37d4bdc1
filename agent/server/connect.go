package server

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// connectTimeout bounds the dial to a pod.
const connectTimeout = 10 * time.Second

// connect turns the request's connection into one to ADDRESS, a pod of this node, so that the API server needs no route to
// pods: it answers 101 and then passes bytes both ways. Other addresses are refused: the tunnel must not give access to the
// node's networks.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	address, err := netip.ParseAddrPort(r.PathValue("address"))
	if err != nil {
		fail(w, r, &requestError{fmt.Sprintf("%q is not ADDRESS:PORT", r.PathValue("address"))})
		return
	}
	if !s.hasPodAt(address.Addr().Unmap()) {
		http.Error(w, fmt.Sprintf("no pod of this node has the address %s", address.Addr()), http.StatusNotFound)
		return
	}
	dialer := net.Dialer{Timeout: connectTimeout}
	pod, err := dialer.DialContext(r.Context(), "tcp", address.String())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer pod.Close()
	// When the client has sent everything, the tunnel stays open: the pod may still have to answer.
	tunnels := s.streams
	tunnels.HalfClosed, tunnels.Idle = true, 0
	tunnels.Serve(w, r, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "tcp")
		w.WriteHeader(http.StatusSwitchingProtocols)
		client, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return // the answer has begun, and the connection ends with this request
		}
		defer client.Close()
		defer context.AfterFunc(r.Context(), func() { client.Close(); pod.Close() })()
		splice(client, buffered, pod)
	})
}

// splice passes bytes both ways until both sides have sent everything, or one has failed. from reads what client sends.
func splice(client net.Conn, from io.Reader, pod net.Conn) {
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		if _, err := io.Copy(client, pod); err != nil {
			pod.Close()
		}
		closeWrite(client)
	}()
	if _, err := io.Copy(pod, from); err != nil {
		client.Close()
	}
	closeWrite(pod)
	<-answered
}

// closeWrite signals the end of data to the other side. An error means that the connection has ended already.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}

func (s *Server) hasPodAt(address netip.Addr) bool {
	for _, pod := range s.cfg.Pods.List() {
		for _, own := range pod.Status.PodIPs {
			if ip, err := netip.ParseAddr(own.IP); err == nil && ip.Unmap() == address {
				return true
			}
		}
	}
	return false
}
