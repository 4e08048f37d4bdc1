package apiserver

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/connections"
	"github.com/skep-io/skep/controlplane/membership"
	"github.com/skep-io/skep/controlplane/openapi"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// requestTimeout bounds every request that is not a watch or a stream.
	requestTimeout = 60 * time.Second
	// shutdownTimeout is how long running requests may take when the server ends. Watches and streams are ended at once.
	shutdownTimeout = 10 * time.Second
	// defaultBodyTimeout is how long a request may take to arrive.
	defaultBodyTimeout = 30 * time.Second
)

// Config is what a server is made of.
type Config struct {
	Registry *resource.Registry
	PKI      *pki.PKI
	// Version is Skep's own version, which /version shows after Kubernetes' version.
	Version string
	// Authenticators are those beside the client certificate, in the order in which they are asked: upstream's bearertoken.New around a token
	// authenticator, for example. Credentials that none of them accepts are refused.
	Authenticators []authenticator.Request
	// Seats bounds the requests worked on at once; 0 means the default of 600.
	Seats int
	// MaxConnections bounds the connections that are open; 0 means as many as the process's files allow, at most 10,000.
	MaxConnections int
	// BodyTimeout is how long a request may take to arrive, body and all; 0 means 30 seconds.
	BodyTimeout time.Duration
	// WriteTimeout is how long a watch waits for its client to read what was written; 0 means 30 seconds. Other answers have that long after
	// the request timeout.
	WriteTimeout time.Duration
	// StoreAlive and StoreTakesWrites are checks of /livez and /readyz, and of /readyz alone; nil: there is none.
	StoreAlive, StoreTakesWrites func(*http.Request) error
	// Network is what PathNetwork answers.
	Network skepv1.Network
	// Etcd maintains the store, for /skep/v1/etcd; it may be nil.
	Etcd EtcdMaintenance
	// Servers are those of the cluster, for /skep/v1/servers, and ServerURLs the URLs of their APIs; both may be nil.
	Servers    Servers
	ServerURLs func() []string
	// Rebalance plans which replicas should move, for /skep/v1/rebalance; it may be nil.
	Rebalance func(context.Context, skepv1.RebalanceQuery) (skepv1.RebalancePlan, error)
	// PodRanges are those of the cluster, for /skep/v1/network/podranges; nil: there are none but Network's.
	PodRanges PodRanges
}

// Server is the API server. It is an http.Handler, so that it can be put behind another listener.
type Server struct {
	registry *resource.Registry
	pki      *pki.PKI
	limits   *limits
	metrics  *serverMetrics
	version  []byte
	api      atomic.Pointer[api]
	agents   *agents
	members  *membership.Members
	stats    *statistics
	verdicts *verdicts
	applied  *appliedNodes
	health   *http.ServeMux
	// authenticator identifies the client; authorizer says whether it may do what it asks for.
	authenticator authenticator.Request
	authorizer    authorizer.Authorizer
	etcd          EtcdMaintenance
	network       skepv1.Network
	servers       Servers
	serverURLs    func() []string
	rebalance     func(context.Context, skepv1.RebalanceQuery) (skepv1.RebalancePlan, error)
	podRanges     PodRanges
	ready         atomic.Bool

	bodyTimeout, writeTimeout time.Duration
	maxConnections            int
	streams                   connections.Streams

	// stopping ends when the server does; watches and streams end with it.
	stopping context.Context
	stop     context.CancelFunc
}

// api describes what is served, for clients.
type api struct {
	catalog   *catalog
	documents *openapi.Documents
}

// New makes a server. Nothing runs yet.
func New(config Config) (*Server, error) {
	s := &Server{
		registry: config.Registry,
		pki:      config.PKI,
		limits:   newLimits(config.Seats),
	}
	s.metrics = newServerMetrics(s.limits, s.registry)
	s.bodyTimeout, s.writeTimeout = cmp.Or(config.BodyTimeout, defaultBodyTimeout), cmp.Or(config.WriteTimeout, defaultWriteTimeout)
	s.streams = connections.Streams{LookEvery: defaultLookEvery}
	s.maxConnections = cmp.Or(config.MaxConnections, connections.Default())
	s.stopping, s.stop = context.WithCancel(context.Background())
	unfollow := s.registry.Follow(func(kinds []*resource.Kind) {
		s.api.Store(&api{catalog: newCatalog(kinds), documents: openapi.New(kinds)})
	})
	context.AfterFunc(s.stopping, unfollow)
	s.members = membership.New(config.Registry.Store())
	s.authenticator = authenticators(config.Authenticators)
	s.authorizer = authorizer.AuthorizerFunc((&rules{registry: config.Registry}).authorize)
	s.agents = newAgents(config.Registry, config.PKI)
	s.stats = newStatistics(config.Registry, s.agents)
	s.verdicts, s.applied = newVerdicts(config.Registry), &appliedNodes{registry: config.Registry}
	s.health = s.newHealth(config.StoreAlive, config.StoreTakesWrites)
	s.etcd, s.network, s.servers, s.serverURLs, s.podRanges = config.Etcd, config.Network, config.Servers, config.ServerURLs, config.PodRanges
	s.rebalance = config.Rebalance
	var err error
	if s.version, err = versionDocument(config.Version); err != nil {
		return nil, err
	}
	return s, nil
}

// Run serves on listener until ctx ends, and closes it. It returns after the running requests have been answered and the
// watches and streams have been ended, or shutdownTimeout later.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	server := s.httpServer()
	following := make(chan struct{})
	defer func() { <-following }()
	go func() {
		defer close(following)
		_ = s.members.Run(s.stopping) // returns when the server ends, with that
	}()
	go func() {
		if err := cmp.Or(s.registry.WaitForSync(ctx), s.members.WaitForSync(ctx)); err == nil {
			s.ready.Store(true)
			slog.Info("API server is ready", "address", listener.Addr())
		}
	}()
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-failed:
		s.stop()
		return fmt.Errorf("serve the API on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	s.ready.Store(false)
	s.stop()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = server.Close()
	}
	<-failed
	s.agents.close()
	return err
}

// httpServer limits connections before a request is read from them.
func (s *Server) httpServer() *http.Server {
	server := &http.Server{
		Handler:           s,
		TLSConfig:         s.pki.ServerTLS(),
		ReadHeaderTimeout: min(30*time.Second, s.bodyTimeout),
		// Watches and streams lift these two for themselves.
		ReadTimeout:    s.bodyTimeout,
		WriteTimeout:   requestTimeout + s.writeTimeout,
		IdleTimeout:    120 * time.Second,
		MaxHeaderBytes: 256 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 250,
			MaxReadFrameSize:     64 << 10,
			// A connection whose client reads nothing for so long is closed, with all its watches.
			WriteByteTimeout: s.writeTimeout,
			// So is one that does not answer.
			SendPingTimeout: 60 * time.Second, PingTimeout: 15 * time.Second,
		},
		ErrorLog: log.New(quiet{}, "", 0),
	}
	connections.Bound(server, s.maxConnections)
	return server
}

// quiet logs net/http's messages at debug level: they are about single connections, such as scans and clients that do not trust us.
type quiet struct{}

func (quiet) Write(p []byte) (int, error) {
	slog.Debug("HTTP server", "message", string(p))
	return len(p), nil
}

// ServeHTTP answers one request. A panic in it ends only that request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	tracked := &trackedWriter{ResponseWriter: w}
	start := time.Now()
	call := &call{Request: r, started: start}
	defer func() {
		if v := recover(); v != nil && v != http.ErrAbortHandler {
			slog.Error("Request handler panicked", "method", r.Method, "path", r.URL.Path, "panic", v, "stack", string(debug.Stack()))
			if tracked.code == 0 {
				writeError(tracked, r, apierrors.NewInternalError(fmt.Errorf("the request failed in the server; its log has the details")))
			}
		}
		s.metrics.observe(call, tracked.code, time.Since(start))
	}()
	if err := s.serve(tracked, call); err != nil && tracked.code == 0 {
		writeError(tracked, r, s.ended(r.Context(), call.user, err))
	}
}

// trackedWriter keeps the status code, which shows whether an answer has begun.
type trackedWriter struct {
	http.ResponseWriter
	code int
}

func (w *trackedWriter) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *trackedWriter) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	return w.ResponseWriter.Write(p)
}

// Hijack hands over the connection of a stream that changes its protocol.
func (w *trackedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.code == 0 {
		w.code = http.StatusSwitchingProtocols
	}
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Flush and Unwrap serve net/http's response controller and the proxies.
func (w *trackedWriter) Flush()                      { _ = http.NewResponseController(w.ResponseWriter).Flush() }
func (w *trackedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
