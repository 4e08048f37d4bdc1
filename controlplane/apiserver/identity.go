package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/membership"
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

// The causes in a Status by which a node hears why its certificate is refused.
const (
	// NodeRemoved says that its membership was ended, for good: its pods are to end.
	NodeRemoved metav1.CauseType = "NodeRemoved"
	// NodeUnknown says that nothing is known of the certificate: nobody has removed the node, and its pods are to run on.
	NodeUnknown metav1.CauseType = "NodeUnknown"
)

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
	left, standing := s.members.Enter(node, c.id.member, cancel)
	if standing != membership.Counts {
		cancel()
		return nil, refusedNode(node, standing)
	}
	c.Request = c.WithContext(ctx)
	return func() {
		left()
		cancel()
	}, nil
}

// ended says why a request of a node ended that its client did not give up: the node's certificate no longer counts. Other errors
// stay as they are.
func (s *Server) ended(client context.Context, id identity, err error) error {
	if !errors.Is(err, context.Canceled) || client.Err() != nil || id.node() == "" {
		return err
	}
	left, standing := s.members.Enter(id.node(), id.member, func() {})
	if standing == membership.Counts {
		left()
		return err
	}
	return refusedNode(id.node(), standing)
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

// refusedNode says why the certificate of a node does not count.
func refusedNode(node string, standing membership.Standing) error {
	message, cause := fmt.Sprintf("node %q was removed from the cluster, or another host has joined in its place: its certificate is refused", node),
		metav1.StatusCause{Type: NodeRemoved, Message: "the node was deleted"}
	if standing == membership.Unknown {
		message = fmt.Sprintf("the certificate of node %q is unknown to the cluster, whose state may be restored from before the node joined: the node has to join again, with a token of `skep token create --node %s`", node, node)
		cause = metav1.StatusCause{Type: NodeUnknown, Message: "no record of this membership"}
	}
	err := apierrors.NewUnauthorized(message)
	err.ErrStatus.Details = &metav1.StatusDetails{Name: node, Kind: "nodes", Causes: []metav1.StatusCause{cause}}
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
