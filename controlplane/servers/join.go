package servers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

// group is that of the servers in errors.
var group = schema.GroupResource{Resource: "servers"}

// Config is what Servers are made of.
type Config struct {
	Registry  *resource.Registry
	Directory *Directory
	PKI       *pki.PKI
	// Etcd is this server's own; nil: all use another.
	Etcd *etcd.Server
	// Settings and the file EncryptionConfig (empty: none) are what a server that joins gets.
	Settings         skepv1.ServerSettings
	EncryptionConfig string
}

// Servers admits and removes the servers of a cluster.
type Servers struct {
	Config
	mu    sync.Mutex // one change at a time
	peers *http.Client
	api   *http.Client
}

// New makes them.
func New(config Config) *Servers {
	client := func(t *http.Transport) *http.Client {
		t.DisableKeepAlives = true // certificates and servers change
		return &http.Client{Transport: t, Timeout: askTimeout}
	}
	return &Servers{
		Config: config,
		peers:  client(&http.Transport{TLSClientConfig: config.PKI.PeerClientTLS()}),
		api:    client(&http.Transport{TLSClientConfig: config.PKI.DialTLS()}),
	}
}

// askTimeout bounds a question to another server.
const askTimeout = 3 * time.Second

// Join admits a server: it makes it a member of etcd that has no vote yet, and returns what the server needs. Asked again by the same
// server, which may have been killed meanwhile, it returns the same.
func (s *Servers) Join(ctx context.Context, token *jointoken.Token, request skepv1.ServerJoinRequest, client string) (*skepv1.ServerJoinResponse, error) {
	if s.Etcd == nil {
		return nil, apierrors.NewBadRequest("the servers of this cluster use an etcd of their own choice (--etcd-servers): copy the folder pki of a server's data folder, and start the new server with the same flags instead of --join")
	}
	if err := checkRequest(request, s.Directory.self); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.bind(ctx, token, request.Name); err != nil {
		return nil, err
	}
	if err := s.Etcd.Fresh(ctx); err != nil {
		return nil, apierrors.NewServiceUnavailable("etcd has no leader at the moment: " + err.Error())
	}
	id, err := s.admitted(request)
	if err != nil {
		return nil, err
	}
	if id == "" {
		if err := s.Etcd.Welcome(ctx); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		for _, r := range s.Directory.Known() {
			if s.stale(r) {
				if err := s.Directory.forget(ctx, r); err != nil {
					return nil, apierrors.NewInternalError(err)
				}
			}
		}
		if id, err = s.Etcd.Add(ctx, request.PeerURL); err != nil {
			return nil, addError(request.Name, err)
		}
		slog.Info("Server admitted; it has no vote until it has caught up", "server", request.Name, "peer", request.PeerURL, "member", id, "client", client)
	}
	authorities := s.PKI.Authorities()
	response := &skepv1.ServerJoinResponse{
		MemberID: id, Members: map[string]string{}, Settings: s.Settings,
		CA: authorities.CA, CAKey: authorities.CAKey, PeerCA: authorities.PeerCA, PeerCAKey: authorities.PeerCAKey,
	}
	for _, m := range s.Etcd.Members() {
		if m.ID != id {
			response.Members[cmp.Or(m.Name, m.ID)] = m.URL
		}
	}
	if s.EncryptionConfig != "" {
		if response.Encryption, err = os.ReadFile(s.EncryptionConfig); err != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("read the encryption configuration for the new server: %w", err))
		}
	}
	slog.Info("The keys of the cluster are handed to a server that joins", "server", request.Name, "client", client, "token", token.ID)
	return response, nil
}

// admitted is the ID of the member that an earlier request of the same server has made. A server that could be mistaken for another, or comes
// while another joins, is refused.
func (s *Servers) admitted(request skepv1.ServerJoinRequest) (id string, err error) {
	for _, m := range s.Etcd.Members() {
		switch {
		case m.URL == request.PeerURL && m.Learner && (m.Name == "" || m.Name == request.Name):
			id = m.ID
		case m.URL == request.PeerURL:
			return "", conflict(request.Name, "the address %s is that of server %q already: give this one another --advertise-address, or remove that one first (skep server remove %s)", request.PeerURL, cmp.Or(m.Name, m.ID), cmp.Or(m.Name, m.ID))
		case m.Name == request.Name:
			return "", conflict(request.Name, "there is a server of that name: give this one another --name, or remove that one first (skep server remove %s)", request.Name)
		}
	}
	if id != "" {
		return id, nil
	}
	for _, r := range s.Directory.Known() {
		if (r.Name == request.Name || r.URL == request.URL) && !s.stale(r) {
			return "", conflict(request.Name, "server %q at %s has that name or address: give this one another --name or --advertise-address, or remove that one first (skep server remove %s)", r.Name, r.URL, r.Name)
		}
	}
	for _, m := range s.Etcd.Members() {
		if m.Learner {
			name := cmp.Or(m.Name, m.ID)
			return "", conflict(request.Name, "server %q at %s is joining, and servers join one at a time: wait until `skep server list` shows it as follower, or withdraw it with `skep server remove %s`", name, m.URL, name)
		}
	}
	return "", nil
}

// stale says whether a record is of a server that is no member of etcd: one that was there when the snapshot was taken which is restored.
func (s *Servers) stale(r Record) bool {
	return r.Name != s.Directory.self.Name && !slices.ContainsFunc(s.Etcd.Members(), func(m etcd.Member) bool { return m.URL == r.PeerURL || m.Name == r.Name })
}

func conflict(name, format string, args ...any) error {
	return apierrors.NewConflict(group, name, fmt.Errorf(format, args...))
}

// addError says why etcd takes no further member. What passes by itself is for the client to try again.
func addError(name string, err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrUnhealthy), errors.Is(err, rpctypes.ErrMemberNotEnoughStarted):
		return apierrors.NewServiceUnavailable("this server has not been connected to enough of the others for 5 s, and a further one could cost the quorum; see `skep server list`")
	case errors.Is(err, rpctypes.ErrTooManyLearners):
		return conflict(name, "another server is joining, and servers join one at a time: see `skep server list`")
	}
	return apierrors.NewServiceUnavailable(err.Error())
}

// bind makes the token one for this server only: nobody else can use it from now on.
func (s *Servers) bind(ctx context.Context, token *jointoken.Token, name string) error {
	if token.ServerName == name {
		return nil
	}
	if token.ServerName != "" {
		return apierrors.NewForbidden(group, name, fmt.Errorf("server %q has begun to join with this token, and it is for one server only: make another with `skep token create --server`", token.ServerName))
	}
	_, err := s.Registry.Modify(ctx, kinds.Secrets, "", metav1.NamespaceSystem, jointoken.SecretPrefix+token.ID, resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		now, err := jointoken.Of(current.(*corev1.Secret))
		if err != nil {
			return nil, err
		}
		if now.ServerName != "" && now.ServerName != name {
			return nil, apierrors.NewForbidden(group, name, fmt.Errorf("server %q has begun to join with this token, and it is for one server only", now.ServerName))
		}
		secret := current.DeepCopyObject().(*corev1.Secret)
		now.ServerName = name
		secret.Data = now.Object().Data
		return secret, nil
	})
	return err
}

// checkRequest refuses addresses that others could not use.
func checkRequest(r skepv1.ServerJoinRequest, self Record) error {
	if problems := validation.IsDNS1123Subdomain(r.Name); len(problems) > 0 {
		return fmt.Errorf("--name %q: %s", r.Name, problems[0])
	}
	api, err := endpoint(r.URL)
	if err != nil {
		return fmt.Errorf("the API's URL %q: %w", r.URL, err)
	}
	peer, err := endpoint(r.PeerURL)
	if err != nil {
		return fmt.Errorf("etcd's URL %q: %w", r.PeerURL, err)
	}
	own, err := endpoint(self.URL)
	if err != nil {
		return err
	}
	switch {
	case api.Addr() != peer.Addr():
		return fmt.Errorf("the API and etcd are at different addresses, %s and %s", r.URL, r.PeerURL)
	case api.Port() != own.Port():
		return fmt.Errorf("--listen has port %d, and the other servers' is %d: it must be the same at all, since the service default/kubernetes has only one", api.Port(), own.Port())
	case api.Addr() == own.Addr():
		return fmt.Errorf("the address %s is this server's, not the new one's: give --advertise-address", api.Addr())
	case api.Addr().IsLoopback() && !own.Addr().IsLoopback():
		return fmt.Errorf("the address %s is one that only its own host reaches: give --advertise-address", api.Addr())
	}
	return nil
}

// endpoint reads https://ADDR:PORT.
func endpoint(text string) (netip.AddrPort, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Path != "" {
		return netip.AddrPort{}, errors.New("it is not https://ADDR:PORT")
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(net.JoinHostPort(host, port))
}
