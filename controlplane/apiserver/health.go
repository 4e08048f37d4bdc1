package apiserver

import (
	"errors"
	"net/http"
	"strings"

	"k8s.io/apiserver/pkg/server/healthz"
)

// newHealth makes the handler of /healthz, /livez and /readyz with their checks by name, in kube-apiserver's form. The
// server is live as long as it and its store answer; it is ready once its caches hold what etcd held when it started, as long as etcd
// accepts writes, and until the server begins to shut down.
func (s *Server) newHealth(store, space func(*http.Request) error) *http.ServeMux {
	alive := []healthz.HealthChecker{healthz.PingHealthz}
	if store != nil {
		alive = append(alive, healthz.NamedCheck("etcd", store))
	}
	ready := alive[:len(alive):len(alive)]
	if space != nil {
		ready = append(ready, healthz.NamedCheck("etcd-space", space))
	}
	ready = append(ready,
		healthz.NamedCheck("caches", func(*http.Request) error {
			if !s.ready.Load() {
				return errors.New("the caches are not filled yet, or the server ends")
			}
			return nil
		}),
		healthz.NamedCheck("shutdown", func(*http.Request) error { return s.stopping.Err() }))
	mux := http.NewServeMux()
	healthz.InstallHandler(mux, alive...)
	healthz.InstallLivezHandler(mux, alive...)
	healthz.InstallReadyzHandler(mux, ready...)
	return mux
}

// serveHealth answers one of the three, or one check of them.
func (s *Server) serveHealth(w http.ResponseWriter, c *call) {
	if _, pattern := s.health.Handler(c.Request); pattern == "" {
		writeError(w, c.Request, notFound())
		return
	}
	s.health.ServeHTTP(w, c.Request)
}

// isHealthPath says whether a path is one that a load balancer asks, without a certificate.
func isHealthPath(path string) bool {
	endpoint, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return endpoint == "healthz" || endpoint == "livez" || endpoint == "readyz"
}
