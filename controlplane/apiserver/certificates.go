package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	// nodeCertificateTimeout bounds asking one node for its certificate, nodeCertificateWorkers how many are asked at a time.
	nodeCertificateTimeout = 5 * time.Second
	nodeCertificateWorkers = 32
)

func (s *Server) certificates(w http.ResponseWriter, c *call) error {
	list := skepv1.CertificateList{}
	for _, held := range s.pki.Certificates() {
		list.Certificates = append(list.Certificates, row(held, s.pki.Now()))
	}
	nodes := resource.ListAs[*corev1.Node](s.registry, kinds.Nodes, "", nil)
	rows := make([]skepv1.Certificate, len(nodes))
	var group errgroup.Group
	group.SetLimit(nodeCertificateWorkers)
	for i, node := range nodes {
		group.Go(func() error {
			rows[i] = s.nodeRow(c.Context(), node.Name)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	list.Certificates = append(list.Certificates, rows...)
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	writeBytes(w, c.Request, mediaJSON, http.StatusOK, data)
	return nil
}

func row(held pki.Certificate, now time.Time) skepv1.Certificate {
	r := skepv1.Certificate{
		Name: held.Name, Subject: held.Subject, Path: held.Path,
		NotBefore: &held.NotBefore, NotAfter: &held.NotAfter, Renewal: &held.Renewal, State: "valid",
	}
	switch {
	case now.After(held.NotAfter):
		r.State = "expired"
	case now.After(held.Renewal):
		r.State = "renewal due"
	}
	return r
}

// nodeRow asks a node's agent for the certificate that it serves with, which is also its client certificate.
func (s *Server) nodeRow(ctx context.Context, node string) skepv1.Certificate {
	name := "node " + node
	ctx, cancel := context.WithTimeout(ctx, nodeCertificateTimeout)
	defer cancel()
	certificate, err := s.nodeCertificate(ctx, node)
	if certificate == nil {
		return skepv1.Certificate{Name: name, State: "unknown", Message: err.Error()}
	}
	life := certificate.NotAfter.Sub(certificate.NotBefore)
	r := row(pki.Certificate{
		Name: name, Subject: certificate.Subject.CommonName, NotBefore: certificate.NotBefore, NotAfter: certificate.NotAfter,
		Renewal: certificate.NotAfter.Add(-life / 3),
	}, s.pki.Now())
	if err != nil {
		r.Message = err.Error()
	}
	return r
}

// nodeCertificate returns a certificate that does not count too, with the reason.
func (s *Server) nodeCertificate(ctx context.Context, node string) (*x509.Certificate, error) {
	location, err := s.agents.location(ctx, node, "/healthz", nil)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, location.String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := s.agents.of(ctx, node).RoundTrip(request)
	var refused *tls.CertificateVerificationError
	if errors.As(err, &refused) && len(refused.UnverifiedCertificates) > 0 {
		return refused.UnverifiedCertificates[0], err
	}
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) {
		return invalid.Cert, err
	}
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.TLS == nil || len(response.TLS.PeerCertificates) == 0 {
		return nil, errors.New("the agent showed no certificate")
	}
	return response.TLS.PeerCertificates[0], nil
}

// warnOfEnd warns a client that its certificate expires soon. Agents and skepd's own parts renew theirs; nothing can renew the copies that
// people made of the administrator's kubeconfig.
func (s *Server) warnOfEnd(w http.ResponseWriter, c *call) {
	if identity.Node(c.user) != "" || c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return
	}
	certificate := c.TLS.PeerCertificates[0]
	left, soon := s.pki.Ending(certificate)
	if !soon {
		return
	}
	warn(w, fmt.Sprintf("the client certificate %q of your kubeconfig expires in %d days, on %s: copy the renewed admin.kubeconfig from skepd's data folder",
		certificate.Subject.CommonName, int(left/(24*time.Hour)), certificate.NotAfter.UTC().Format(time.DateOnly)))
}
