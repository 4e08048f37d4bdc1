package apiserver

import (
	"net/http"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/pki"
)

// identity is who sends a request, as their client certificate names them.
type identity struct {
	name   string
	groups []string
}

// authenticate reads the client certificate. TLS has verified it against the authority already if there is one.
func authenticate(r *http.Request) (identity, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	subject := r.TLS.VerifiedChains[0][0].Subject
	if subject.CommonName == "" {
		return identity{}, apierrors.NewUnauthorized("Unauthorized")
	}
	return identity{name: subject.CommonName, groups: subject.Organization}, nil
}

func (id identity) master() bool { return slices.Contains(id.groups, pki.MastersGroup) }

// node returns the name of the node that asks, or "" if it is not a node's agent.
func (id identity) node() string {
	name, ok := strings.CutPrefix(id.name, pki.NodePrefix)
	if !ok || !slices.Contains(id.groups, pki.NodesGroup) {
		return ""
	}
	return name
}
