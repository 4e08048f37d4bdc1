package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/membership"
)

// memberKey is the extra of a user that holds the number of the membership that a node's certificate was issued for.
const memberKey = "skep.io/membership"

// stranger is the user of a request without a certificate that counts.
var stranger user.Info = &user.DefaultInfo{}

// authenticators joins the client certificate with the other authenticators. The first that identifies the client decides.
func authenticators(others []authenticator.Request) authenticator.Request {
	return union.New(append([]authenticator.Request{authenticator.RequestFunc(byCertificate)}, others...)...)
}

// byCertificate identifies the client by its certificate. TLS has verified it against the authority already, once for each connection;
// upstream's x509 authenticator would do that again for each request.
func byCertificate(r *http.Request) (*authenticator.Response, bool, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return nil, false, nil
	}
	subject := r.TLS.VerifiedChains[0][0].Subject
	if subject.CommonName == "" {
		return nil, false, nil
	}
	u := &user.DefaultInfo{Name: subject.CommonName, Groups: subject.Organization}
	if subject.SerialNumber != "" {
		u.Extra = map[string][]string{memberKey: {subject.SerialNumber}}
	}
	return &authenticator.Response{User: u}, true, nil
}

// authenticate returns the user that a request comes from.
func (s *Server) authenticate(r *http.Request) (user.Info, error) {
	response, ok, err := s.authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		return stranger, apierrors.NewUnauthorized("Unauthorized")
	}
	return response.User, nil
}

// memberOf is the number of the membership that a node's certificate was issued for.
func memberOf(u user.Info) string {
	if number := u.GetExtra()[memberKey]; len(number) > 0 {
		return number[0]
	}
	return ""
}

// The causes in a Status that tell a node why its certificate is refused.
const (
	// NodeRemoved says that the node's membership was ended for good: its pods are to end.
	NodeRemoved metav1.CauseType = "NodeRemoved"
	// NodeUnknown says that there is no record of the certificate's membership: nobody has removed the node, and its pods are to keep running.
	NodeUnknown metav1.CauseType = "NodeUnknown"
)

// enter refuses a node whose certificate does not count, and cancels the node's request as soon as the certificate stops counting.
func (s *Server) enter(c *call) (leave func(), err error) {
	node := identity.Node(c.user)
	if node == "" {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancel(c.Context())
	if err := s.awaitMembers(ctx); err != nil {
		cancel()
		return nil, err
	}
	leaveMembers, standing := s.members.Enter(node, memberOf(c.user), cancel)
	if standing != membership.Counts {
		cancel()
		return nil, refusedNode(node, standing)
	}
	c.Request = c.WithContext(ctx)
	return func() {
		leaveMembers()
		cancel()
	}, nil
}

// ended replaces the error of a node's request that was cancelled because the node's certificate no longer counts, not by the client. It
// returns other errors as they are.
func (s *Server) ended(client context.Context, u user.Info, err error) error {
	if !errors.Is(err, context.Canceled) || client.Err() != nil || u == nil || identity.Node(u) == "" {
		return err
	}
	leave, standing := s.members.Enter(identity.Node(u), memberOf(u), func() {})
	if standing == membership.Counts {
		leave()
		return err
	}
	return refusedNode(identity.Node(u), standing)
}

// awaitMembers waits until the memberships have been read: a node that is refused too early would give up.
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

// refusedNode is the error for a node whose certificate does not count.
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

// impersonate returns the user that the request is to be treated as: the client itself, or the user that an administrator names in the
// headers that kubectl --as writes. Other clients may not impersonate. The headers are removed.
func impersonate(u user.Info, header http.Header) (user.Info, error) {
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
		return u, nil
	case name == "":
		return nil, apierrors.NewBadRequest("the request asks for a group, UID or extra to be impersonated without a user: name one with Impersonate-User (kubectl --as)")
	case !identity.Master(u):
		return nil, forbidden(authorizer.AttributesRecord{User: u, Verb: "impersonate", Resource: "users", Name: name, ResourceRequest: true}, "")
	}
	return &user.DefaultInfo{Name: name, Groups: groups}, nil
}

// impersonatePrefix is the prefix of the impersonation headers, as net/http writes it.
const impersonatePrefix = "Impersonate-"
