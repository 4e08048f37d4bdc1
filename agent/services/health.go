package services

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skep-io/skep/connections"
)

// healthServers answer load balancers that ask whether this node has endpoints of a service: one server per service, on its
// health-check node port, with the answer that kube-proxy gives.
type healthServers struct {
	report func(key string, problem error) // nil problem: it works again

	mu      sync.Mutex
	servers map[string]*healthServer // by service key
	done    sync.WaitGroup
	closed  bool
}

type healthServer struct {
	port  uint16
	local atomic.Int64
	stop  context.CancelFunc
}

func newHealthServers(report func(key string, problem error)) *healthServers {
	return &healthServers{report: report, servers: map[string]*healthServer{}}
}

// set starts, changes or, with nil, stops a service's server.
func (h *healthServers) set(key string, wanted *health) {
	h.mu.Lock()
	defer h.mu.Unlock()
	have := h.servers[key]
	if have != nil && (wanted == nil || have.port != wanted.port) {
		have.stop()
		delete(h.servers, key)
		have = nil
	}
	if wanted == nil || h.closed {
		return
	}
	if have == nil {
		ctx, cancel := context.WithCancel(context.Background())
		have = &healthServer{port: wanted.port, stop: cancel}
		h.servers[key] = have
		h.done.Go(func() { h.serve(ctx, key, have) })
	}
	have.local.Store(int64(wanted.local))
}

func (h *healthServers) close() {
	h.mu.Lock()
	h.closed = true
	for _, s := range h.servers {
		s.stop()
	}
	h.mu.Unlock()
	h.done.Wait()
}

// maxHealthConnections limits the connections that clients can open at a port: each uses one of the agent's file
// descriptors.
const maxHealthConnections = 200

// bindRetry is how long the server waits before it tries again to listen on a port that is in use.
const bindRetry = 10 * time.Second

func (h *healthServers) serve(ctx context.Context, key string, s *healthServer) {
	for {
		err := h.listen(ctx, key, s)
		if ctx.Err() != nil {
			return
		}
		h.report(key, fmt.Errorf("health checks of load balancers are not answered here: %w", err))
		select {
		case <-ctx.Done():
			return
		case <-time.After(bindRetry):
		}
	}
}

func (h *healthServers) listen(ctx context.Context, key string, s *healthServer) error {
	listener, err := net.Listen("tcp", ":"+strconv.Itoa(int(s.port)))
	if err != nil {
		return err
	}
	h.report(key, nil)
	server := &http.Server{
		Handler: s.handler(key), ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	connections.Bound(server, maxHealthConnections)
	stop := context.AfterFunc(ctx, func() {
		if err := server.Close(); err != nil {
			slog.Warn("health check server not closed", "service", key, "err", err)
		}
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// healthAnswer is the answer that load balancers' checks parse.
type healthAnswer struct {
	Service struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	} `json:"service"`
	LocalEndpoints      int64 `json:"localEndpoints"`
	ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
}

func (s *healthServer) handler(key string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		answer := healthAnswer{LocalEndpoints: s.local.Load(), ServiceProxyHealthy: true}
		answer.Service.Namespace, answer.Service.Name, _ = strings.Cut(key, "/")
		data, err := json.Marshal(answer)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(answer.LocalEndpoints, 10))
		if answer.LocalEndpoints == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write(data) // a client that has left needs no answer
	}
}
