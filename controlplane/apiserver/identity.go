package apiserver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/pki"
)

// identity is who sends a request, as their client certificate names them.
type identity struct {
	name   string
	groups []string
	// member is the number of the membership that a node's certificate was issued for.
	member string
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
	return identity{name: subject.CommonName, groups: subject.Organization, member: subject.SerialNumber}, nil
}

// NodeRemoved is the cause in the Status by which a node hears that its certificate no longer counts.
const NodeRemoved metav1.CauseType = "NodeRemoved"

// enter refuses a node whose certificate no longer counts, and has the request of one end as soon as that is so.
func (s *Server) enter(c *call) (leave func(), err error) {
	node := c.id.node()
	if node == "" {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(c.Context())
	if err := s.awaitMembers(ctx); err != nil {
		cancel()
		return nil, err
	}
	left, ok := s.members.Enter(node, c.id.member, cancel)
	if !ok {
		cancel()
		return nil, removedNode(node)
	}
	c.Request = c.WithContext(ctx)
	return func() {
		left()
		cancel()
	}, nil
}

// awaitMembers waits until it is known which certificates count: a node that is refused too early would give up.
func (s *Server) awaitMembers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, membersTimeout)
	defer cancel()
	if err := s.members.WaitForSync(ctx); err != nil {
		return apierrors.NewServiceUnavailable("the memberships of nodes are not known yet; please try again")
	}
	return nil
}

// membersTimeout bounds how long the first requests after a start wait.
const membersTimeout = 10 * time.Second

func removedNode(node string) error {
	err := apierrors.NewUnauthorized(fmt.Sprintf("node %q was removed from the cluster, or another host has joined in its place: its certificate is refused", node))
	err.ErrStatus.Details = &metav1.StatusDetails{Name: node, Kind: "nodes", Causes: []metav1.StatusCause{{Type: NodeRemoved, Message: "the node was deleted"}}}
	return err
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
