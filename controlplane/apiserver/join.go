package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/membership"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

func (s *Server) join(w http.ResponseWriter, c *call) error {
	if c.Method != http.MethodPost {
		return statusError(http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	token, err := s.joinToken(c)
	if err != nil {
		return err
	}
	if token == nil && identity.Node(c.user) == "" {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	leave, err := s.admit(c)
	if err != nil {
		return err
	}
	defer leave()
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	var request skepv1.JoinRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return apierrors.NewBadRequest("join: " + err.Error())
	}
	if token == nil && identity.Node(c.user) != request.NodeName {
		return forbidden(authorizer.AttributesRecord{User: c.user, Verb: "join", Path: skepv1.PathJoin}, "a node may renew its own certificate only")
	}
	certificate, err := s.pki.SignNode(pki.NodeRequest{
		Name: request.NodeName, CSR: []byte(request.CSR), From: s.addressFor(request.NodeName, c.RemoteAddr),
		Number: func() (string, error) { return s.memberNumber(c, request.NodeName, token) },
	})
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		return err
	}
	if err != nil {
		return apierrors.NewBadRequest("join: " + err.Error())
	}
	slog.Info("Node certificate issued", "node", request.NodeName, "client", c.RemoteAddr)
	return answerJSON(w, c, skepv1.JoinResponse{Certificate: string(certificate), CA: string(s.pki.CA())})
}

// joinToken returns the token that a host sends, or nil if it sends none.
func (s *Server) joinToken(c *call) (*jointoken.Token, error) {
	if !strings.HasPrefix(c.Header.Get("Authorization"), bearerPrefix) {
		return nil, nil
	}
	refused := apierrors.NewUnauthorized("the join token is unknown: it was deleted, or has expired; `skep token create` makes another")
	return s.shownToken(c, refused, func(t jointoken.Token, shown jointoken.Text, _ *corev1.Secret) bool {
		return t.Matches(shown, time.Now())
	})
}

const bearerPrefix = "Bearer "

// shownToken is the token that a request shows. It is compared with what the store has now: a deleted token is refused.
func (s *Server) shownToken(c *call, refused error, matches func(t jointoken.Token, shown jointoken.Text, secret *corev1.Secret) bool) (*jointoken.Token, error) {
	shown, err := jointoken.Parse(strings.TrimPrefix(c.Header.Get("Authorization"), bearerPrefix))
	if err != nil {
		return nil, refused
	}
	secret, err := current[*corev1.Secret](c.Context(), s, kinds.Secrets, metav1.NamespaceSystem, jointoken.SecretPrefix+shown.ID)
	if apierrors.IsNotFound(err) {
		return nil, refused
	}
	if err != nil {
		return nil, err
	}
	token, err := jointoken.Of(secret)
	if err != nil || !matches(token, shown, secret) {
		return nil, refused
	}
	return &token, nil
}

// memberNumber decides who may get the certificate of a node: the node itself, by the certificate that it has; a host with a token, if
// there is no node of the name, or if the token is for that node.
func (s *Server) memberNumber(c *call, name string, token *jointoken.Token) (string, error) {
	ask := authorizer.AttributesRecord{User: c.user, Verb: "join", Path: skepv1.PathJoin}
	if token == nil {
		number, ok := s.members.Number(name)
		if !ok {
			return "", refusedNode(name, membership.Removed) // since it was let in
		}
		return number, nil
	}
	if token.Node != "" && token.Node != name {
		ask.User = &user.DefaultInfo{Name: "system:bootstrap:" + token.ID}
		return "", forbidden(ask, fmt.Sprintf("the token is for node %q only", token.Node))
	}
	number, err := s.members.Join(c.Context(), name, token.Node == name)
	if errors.Is(err, membership.ErrTaken) {
		return "", statusError(http.StatusConflict, metav1.StatusReasonAlreadyExists, fmt.Sprintf(
			"there is a node %q already, and only its own certificate lets a host take its place: give this host another name, delete the node (skep delete node %s), or make a token for it (skep token create --node %s)",
			name, name, name))
	}
	if err != nil {
		return "", apierrors.NewInternalError(err)
	}
	return number, nil
}

// addressFor is the address that a node connects from, unless another node claims it.
func (s *Server) addressFor(node, remote string) netip.Addr {
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	from := peer.Addr().Unmap()
	for _, other := range resource.ListAs[*corev1.Node](s.registry, kinds.Nodes, "", nil) {
		if other.Name == node {
			continue
		}
		for _, address := range other.Status.Addresses {
			if its, err := netip.ParseAddr(address.Address); err == nil && its.Unmap() == from {
				return netip.Addr{}
			}
		}
	}
	return from
}
