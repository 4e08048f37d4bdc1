package apiserver

import (
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
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

// impersonate returns who the request says it is to be treated as: the client itself, or whoever the administrator names in
// the headers that kubectl --as writes. Nobody else may name anyone. The headers are used up.
func impersonate(id identity, header http.Header) (identity, error) {
	name, groups := header.Get(authenticationv1.ImpersonateUserHeader), header.Values(authenticationv1.ImpersonateGroupHeader)
	asked := false
	for key := range header {
		if strings.HasPrefix(key, impersonatePrefix) {
			asked = true
			header.Del(key)
		}
	}
	switch {
	case !asked:
		return id, nil
	case name == "":
		return identity{}, apierrors.NewBadRequest("the request asks for a group, UID or extra to be impersonated without a user: name one with Impersonate-User (kubectl --as)")
	case !id.master():
		return identity{}, forbidden(id, attributes{target: target{resource: "users", name: name}, verb: "impersonate"}, "")
	}
	return identity{name: name, groups: groups}, nil
}

// impersonatePrefix begins the headers that ask for a request to be treated as somebody else's, as net/http writes it.
const impersonatePrefix = "Impersonate-"

func (id identity) master() bool { return slices.Contains(id.groups, pki.MastersGroup) }

// node returns the name of the node that asks, or "" if it is not a node's agent.
func (id identity) node() string {
	name, ok := strings.CutPrefix(id.name, pki.NodePrefix)
	if !ok || !slices.Contains(id.groups, pki.NodesGroup) {
		return ""
	}
	return name
}
