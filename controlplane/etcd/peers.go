package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/etcdhttp"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// peers is the port for the other members, which is open from the moment on that there are any.
type peers struct {
	server *etcdserver.EtcdServer
	config *Peer // nil: no other member can ever reach this one

	mu      sync.Mutex
	running *http.Server
}

// open listens and serves; again, it does nothing.
func (p *peers) open() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return nil
	}
	if p.config == nil {
		return errors.New("this etcd was started to have no other members")
	}
	listener, err := net.Listen("tcp", p.config.Listen)
	if errors.Is(err, unix.EADDRINUSE) {
		_, port, _ := net.SplitHostPort(p.config.Listen)
		return fmt.Errorf("--etcd-peer-listen %s: the port is in use, see by which process with `ss -ltnp 'sport = :%s'`: stop it, or give another port", p.config.Listen, port)
	}
	if err != nil {
		return fmt.Errorf("--etcd-peer-listen %s: %w", p.config.Listen, err)
	}
	tls := p.config.TLS.Clone()
	tls.NextProtos = []string{"http/1.1"} // as etcd's own; its streams need no more
	p.running = &http.Server{
		Handler: etcdhttp.NewPeerHandler(zap.NewNop(), p.server), TLSConfig: tls,
		ReadHeaderTimeout: rafthttp.ConnReadTimeout,
		ErrorLog:          slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	go func() {
		if err := p.running.ServeTLS(timely{listener}, "", ""); !errors.Is(err, http.ErrServerClosed) {
			slog.Error("The port for other members of etcd is closed", "address", p.config.Listen, "err", err)
		}
	}()
	slog.Info("etcd listens for other servers", "address", p.config.Listen)
	return nil
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		_ = p.running.Close() // nothing is written any more
	}
}

// timely accepts connections on which every write ends within etcd's own limit: a member that is paused reads nothing.
type timely struct{ net.Listener }

func (l timely) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return timelyConn{conn}, nil
}

type timelyConn struct{ net.Conn }

func (c timelyConn) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(rafthttp.ConnWriteTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// connect opens the port for other members if there are others or were some: one that was removed meanwhile has to learn that.
func (s *Server) connect(context.Context) error {
	own := s.etcd.Server.Cluster().Member(s.etcd.Server.MemberID())
	if own == nil || slices.Contains(own.PeerURLs, lonePeerURL) {
		return nil
	}
	return s.peers.open()
}

// others are the names, or else the URLs, of the other members.
func (s *Server) others() []string {
	var names []string
	for _, m := range s.etcd.Server.Cluster().Members() {
		if m.ID == s.etcd.Server.MemberID() {
			continue
		}
		if m.Name != "" {
			names = append(names, m.Name)
		} else {
			names = append(names, strings.Join(m.PeerURLs, ","))
		}
	}
	slices.Sort(names)
	return names
}
