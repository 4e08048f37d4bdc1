package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"runtime/debug"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/identity"
)

// kubernetesVersion is the release whose API this server speaks; clients compare their own version with it.
const (
	kubernetesMajor   = "1"
	kubernetesMinor   = "37"
	kubernetesVersion = "v1.37.2"
)

// versionDocument is the answer of /version: Kubernetes' version, with Skep's as build metadata.
func versionDocument(skep string) ([]byte, error) {
	info := version.Info{
		Major: kubernetesMajor, Minor: kubernetesMinor, GitVersion: kubernetesVersion + "+skep",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
		GitTreeState: "clean",
	}
	if skep != "" {
		info.GitVersion += "-" + strings.Map(semverBuild, skep)
	}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range build.Settings {
			switch setting.Key {
			case "vcs.revision":
				info.GitCommit = setting.Value
			case "vcs.time":
				info.BuildDate = setting.Value
			case "vcs.modified":
				if setting.Value == "true" {
					info.GitTreeState = "dirty"
				}
			}
		}
	}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the version: %w", err)
	}
	return append(data, '\n'), nil
}

// semverBuild keeps what semantic versioning allows in build metadata.
func semverBuild(r rune) rune {
	switch {
	case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r == '-', r == '.':
		return r
	}
	return '-'
}

// serveDocument answers the paths that are not about a resource.
func (s *Server) serveDocument(w http.ResponseWriter, c *call) error {
	path := strings.TrimSuffix(c.URL.Path, "/")
	isDocument := path == "" || path == "/metrics" || strings.HasPrefix(path, "/api") || strings.HasPrefix(path, "/openapi/")
	if isDocument && c.Method != http.MethodGet && c.Method != http.MethodHead {
		return statusError(http.StatusMethodNotAllowed, metav1.StatusReasonMethodNotAllowed, "the server does not allow this method on the requested resource")
	}
	if _, ok := skepv1.NodeOfStatements(path); ok {
		return s.only(w, c, map[string]handler{http.MethodPost: s.acceptStatements})
	}
	switch {
	case path == "":
		s.answerDocument(w, c, metav1.RootPaths{Paths: s.api.Load().catalog.paths})
		return nil
	case path == "/metrics":
		s.metrics.handler.ServeHTTP(w, c.Request)
		return nil
	case strings.HasPrefix(path, skepv1.PathEtcd):
		return s.maintainEtcd(w, c, strings.TrimPrefix(path, skepv1.PathEtcd))
	case path == skepv1.PathServers || strings.HasPrefix(path, skepv1.PathServers+"/"):
		return s.serveServers(w, c, strings.TrimPrefix(strings.TrimPrefix(path, skepv1.PathServers), "/"))
	case path == skepv1.PathNetwork:
		return s.only(w, c, map[string]handler{http.MethodGet: s.describeNetwork})
	case path == skepv1.PathPodRanges:
		return s.servePodRanges(w, c)
	case path == skepv1.PathApplied:
		return s.only(w, c, map[string]handler{http.MethodGet: s.awaitApplied})
	case path == skepv1.PathRebalance && s.rebalance != nil:
		return s.only(w, c, map[string]handler{http.MethodGet: s.planRebalance})
	case path == skepv1.PathCertificates:
		return s.only(w, c, map[string]handler{http.MethodGet: s.certificates})
	case isProfilePath(c.URL.Path):
		return s.profile(w, c)
	case strings.HasPrefix(path, "/openapi/"):
		return s.openapi(w, c, path)
	case s.discovery(w, c):
		return nil
	}
	return notFound()
}

// planRebalance answers PathRebalance.
func (s *Server) planRebalance(w http.ResponseWriter, c *call) error {
	query, err := skepv1.RebalanceQueryOf(c.query)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	plan, err := s.rebalance(c.Context(), query)
	if err != nil {
		return err
	}
	return answerJSON(w, c, plan)
}

// describeNetwork returns the network settings that a host needs before it can join, to nodes with the key of probes.
func (s *Server) describeNetwork(w http.ResponseWriter, c *call) error {
	network := s.network
	if s.serverURLs != nil {
		network.Servers = s.serverURLs()
	}
	if s.podRanges != nil {
		network.AddedPodCIDRs = s.podRanges.Added()
	}
	if identity.Node(c.user) != "" {
		key, err := s.pki.ProbeKey()
		if err != nil {
			return err
		}
		network.ProbeKey = key
	}
	return answerJSON(w, c, network)
}
