package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
)

// Servers admits and removes the servers of the cluster.
type Servers interface {
	// Join admits the server that a token for servers was shown for.
	Join(ctx context.Context, token *jointoken.Token, request skepv1.ServerJoinRequest, client string) (*skepv1.ServerJoinResponse, error)
	List(ctx context.Context) *skepv1.ServerList
	Remove(ctx context.Context, name, client string) error
}

// joinServer hands the keys of the cluster to whoever has a token for servers, and to nobody else: no certificate counts here.
func (s *Server) joinServer(w http.ResponseWriter, c *call) error {
	if s.servers == nil {
		return notFound()
	}
	c.user = stranger
	token, err := s.serverToken(c)
	if err != nil {
		return err
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
	var request skepv1.ServerJoinRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return apierrors.NewBadRequest("join of a server: " + err.Error())
	}
	response, err := s.servers.Join(c.Context(), token, request, c.RemoteAddr)
	if err != nil {
		return err
	}
	return answerJSON(w, c, response)
}

// serverToken is the token for servers that a request shows.
func (s *Server) serverToken(c *call) (*jointoken.Token, error) {
	refused := apierrors.NewUnauthorized("the token is none for a server, is for another one, was deleted or has expired; `skep token create --server` makes another")
	return s.shownToken(c, refused, func(t jointoken.Token, shown jointoken.Text, secret *corev1.Secret) bool {
		return t.MatchesServer(shown, secret.CreationTimestamp.Time, time.Now())
	})
}

// serveServers answers the administrator; anyone else is refused before this.
func (s *Server) serveServers(w http.ResponseWriter, c *call, name string) error {
	if s.servers == nil {
		return notFound()
	}
	if name == "" {
		return s.only(w, c, map[string]handler{http.MethodGet: func(w http.ResponseWriter, c *call) error {
			return answerJSON(w, c, s.servers.List(c.Context()))
		}})
	}
	return s.only(w, c, map[string]handler{http.MethodDelete: func(w http.ResponseWriter, c *call) error {
		if err := s.servers.Remove(c.Context(), name, c.RemoteAddr); err != nil {
			return err
		}
		return answerJSON(w, c, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	}})
}

func answerJSON(w http.ResponseWriter, c *call, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	writeBytes(w, c.Request, mediaJSON, http.StatusOK, data)
	return nil
}
