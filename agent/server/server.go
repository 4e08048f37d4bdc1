// Package server is the agent's HTTPS server, with kubelet's paths: the API server's requests to a node on behalf of users.
//
// It owns its listener and connections. It decides nothing about pods: it finds a container, and serves its logs, commands in it
// and connections to it. Only the API server has access.
package server

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/traffic"
	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/connections"
)

// The only client: see pki of the control plane.
const (
	clientName  = "skep:apiserver"
	clientGroup = "system:masters"
)

// Pods finds pods and containers of this node.
type Pods interface {
	Find(namespace, name, container string) (runtime.Container, *corev1.Pod, error)
	List() []pod.PodState
}

// Runtime runs commands, connects to containers' input, and loads images.
type Runtime interface {
	Containers() []runtime.Container
	OpenStdin(id string) (*os.File, error)
	CloseStdin(ctx context.Context, id string) error
	Resize(ctx context.Context, id string, size runtime.Size) error
	Exec(ctx context.Context, id string, command []string, o runtime.ExecOptions) (int, error)
	NetNamespace(podUID string) string
	Import(ctx context.Context, archive io.Reader) ([]string, error)
}

// Stats has the measurements of pods and the node.
type Stats interface {
	Summary(ctx context.Context) (*statsapi.Summary, error)
}

// Traffic reads the data plane's counters and tables.
type Traffic interface {
	Read() (*skepv1.Report, error)
	Dump() (*traffic.Tables, error)
	Events(ctx context.Context, follow bool, each func(skepv1.Event) error) error
}

// Config configures a server.
type Config struct {
	Listen  string // ADDR:PORT
	TLS     *tls.Config
	Pods    Pods
	Runtime Runtime
	Stats   Stats
	Traffic Traffic
	// Verify compares the data plane's tables with the API server's objects.
	Verify     func(context.Context) (*skepv1.Verification, error)
	Metrics    *prometheus.Registry // of the agent's process
	Containers *prometheus.Registry // of containers, as cAdvisor
	Resources  *prometheus.Registry // of CPU and memory, for metrics-server
	Probes     *prometheus.Registry // of containers' probes
	Health     func() error
}

// Server serves one node.
type Server struct {
	cfg      Config
	listener net.Listener
	http     *http.Server
	// sessions and forwards hold a value for each open session or forwarded connection.
	sessions, forwards chan struct{}
	// creationTimeout is how long a client has to open all streams.
	creationTimeout time.Duration
	streams         connections.Streams
}

const (
	// maxConnections is the limit of open connections. Beyond it, unauthenticated clients displace each other.
	maxConnections = 2000
	// maxSessions is how many logs, commands and forwarded ports may be open at once, and maxForwards how many connections to
	// pods' ports through them: a client may ask for any number over one connection.
	maxSessions = 1000
	maxForwards = 500
)

// headersWithin bounds slow clients; bodies and streams may take long.
const headersWithin = 10 * time.Second

// New listens; requests are served by Run.
func New(cfg Config) (*Server, error) {
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for the API server: %w", err)
	}
	s := &Server{cfg: cfg, listener: listener, sessions: make(chan struct{}, maxSessions), forwards: make(chan struct{}, maxForwards),
		creationTimeout: creationTimeout, streams: connections.Streams{LookEvery: lookEvery, Idle: idleTimeout, Linger: creationTimeout}}
	s.http = &http.Server{
		Handler:           s.authorize(s.routes()),
		ReadHeaderTimeout: headersWithin,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    256 << 10,                  // as the API server: a command may be long
		ErrorLog:          log.New(io.Discard, "", 0), // failed handshakes of unauthenticated clients
	}
	connections.Bound(s.http, maxConnections)
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// Run serves until ctx ends, and then closes open streams.
func (s *Server) Run(ctx context.Context) error {
	s.http.BaseContext = func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	// SPDY takes over connections, which HTTP/2 cannot do.
	config := s.cfg.TLS.Clone()
	config.NextProtos = []string{"http/1.1"}
	err := s.http.Serve(tls.NewListener(s.listener, config))
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve the API server: %w", err)
}

func (s *Server) routes() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /pods", s.pods)
	mux.HandleFunc("GET /stats/summary", s.summary)
	mux.HandleFunc("GET "+skepv1.PathServices, s.services)
	mux.HandleFunc("GET "+skepv1.PathDataplane, s.dataplane)
	mux.HandleFunc("GET "+skepv1.PathVerify, s.session(s.verify))
	mux.HandleFunc("GET "+skepv1.PathEvents, s.session(s.events))
	mux.Handle("GET /metrics", metricsHandler(s.cfg.Metrics))
	mux.Handle("GET /metrics/cadvisor", metricsHandler(s.cfg.Containers))
	mux.Handle("GET /metrics/resource", metricsHandler(s.cfg.Resources))
	mux.Handle("GET /metrics/probes", metricsHandler(s.cfg.Probes))
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", s.session(s.containerLogs))
	mux.HandleFunc("POST /images/load", s.session(s.loadImages))
	mux.HandleFunc("GET /connect/{address}", s.session(s.connect))
	for _, method := range []string{"GET", "POST"} {
		mux.HandleFunc(method+" /exec/{namespace}/{pod}/{container}", s.session(s.exec))
		mux.HandleFunc(method+" /attach/{namespace}/{pod}/{container}", s.session(s.attach))
		mux.HandleFunc(method+" /portForward/{namespace}/{pod}", s.session(s.portForward))
	}
	return mux
}

// session counts requests that last as long as their client wants, and refuses them if there are too many.
func (s *Server) session(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.sessions <- struct{}{}:
			defer func() { <-s.sessions }()
			next(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			failStream(w, r, errTooMany)
		}
	}
}

func metricsHandler(r *prometheus.Registry) http.Handler {
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// authorize lets only the API server in. TLS has already checked that the certificate is the cluster's; but so is every other
// node's.
func (s *Server) authorize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			http.Error(w, "a client certificate is required", http.StatusUnauthorized)
			return
		}
		subject := r.TLS.PeerCertificates[0].Subject
		if subject.CommonName != clientName || !slices.Contains(subject.Organization, clientGroup) {
			http.Error(w, fmt.Sprintf("%q may not ask a node directly: go through the API server", subject.CommonName), http.StatusForbidden)
			return
		}
		connections.MarkKnown(r.Context())
		next.ServeHTTP(w, r)
	})
}

func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Health(); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(w, "ok") // a client that has left needs no answer
}

// fail answers with an error as text, which the API server passes on.
func fail(w http.ResponseWriter, r *http.Request, err error) {
	http.Error(w, err.Error(), statusCode(r, err))
}

// failStream answers with an error before a connection is taken over: clients of streams expect a Status.
func failStream(w http.ResponseWriter, r *http.Request, err error) {
	code := statusCode(r, err)
	reason := map[int]metav1.StatusReason{
		http.StatusBadRequest: metav1.StatusReasonBadRequest, http.StatusNotFound: metav1.StatusReasonNotFound,
		http.StatusInternalServerError: metav1.StatusReasonInternalError, http.StatusTooManyRequests: metav1.StatusReasonTooManyRequests,
	}[code]
	status, encodeErr := json.Marshal(metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Message: err.Error(), Reason: reason, Code: int32(code),
	})
	if encodeErr != nil {
		fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(status) // a client that has left needs no answer
}

// statusCode is the answer to a request that failed. An error of this node is logged, without the query, which has commands and
// their arguments.
func statusCode(r *http.Request, err error) int {
	var bad *requestError
	switch {
	case errors.As(err, &bad), errors.Is(err, runtime.ErrNotRunning):
		return http.StatusBadRequest
	case errors.Is(err, pod.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, errTooMany):
		return http.StatusTooManyRequests
	}
	if r.Context().Err() == nil { // else the client has left, which may be the cause
		slog.Error("request to this node failed", "method", r.Method, "path", r.URL.Path, "client", r.RemoteAddr, "err", err)
	}
	return http.StatusInternalServerError
}

var errTooMany = errors.New("too many logs, commands and forwarded ports are open on this node, please try again later")

// requestError is an error of the client.
type requestError struct{ reason string }

func (e *requestError) Error() string { return e.reason }
