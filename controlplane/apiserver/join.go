package apiserver

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The paths by which a node becomes one of the cluster's: the authority's certificate, which everyone may read, and its
// own certificate, for which it shows the join token, or later the certificate that it has.
const (
	caPath   = "/skep/v1/ca"
	joinPath = "/skep/v1/join"
)

// JoinRequest is what a node sends.
type JoinRequest struct {
	NodeName string `json:"nodeName"`
	// CSR is a certificate request in PEM that names the node and its addresses.
	CSR string `json:"csr"`
}

// JoinResponse is what it gets: certificates in PEM.
type JoinResponse struct {
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
}

func (s *Server) join(w http.ResponseWriter, c *call) error {
	if c.Method != http.MethodPost {
		return statusError(http.StatusMethodNotAllowed, "MethodNotAllowed", "the server does not allow this method on the requested resource")
	}
	token, hasToken := strings.CutPrefix(c.Header.Get("Authorization"), "Bearer ")
	byToken := hasToken && s.pki.CheckToken(token)
	if !byToken && c.id.node() == "" {
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
	var request JoinRequest
	if err := json.Unmarshal(body, &request); err != nil {
		return apierrors.NewBadRequest("join: " + err.Error())
	}
	if !byToken && c.id.node() != request.NodeName {
		return forbidden(c.id, attributes{verb: "join", path: joinPath}, "a node may renew its own certificate only")
	}
	certificate, err := s.pki.SignNode(request.NodeName, []byte(request.CSR))
	if err != nil {
		return apierrors.NewBadRequest("join: " + err.Error())
	}
	slog.Info("Node certificate issued", "node", request.NodeName, "client", c.RemoteAddr)
	data, err := json.Marshal(JoinResponse{Certificate: string(certificate), CA: string(s.pki.CA())})
	if err != nil {
		return err
	}
	writeBytes(w, c.Request, mediaJSON, http.StatusOK, data)
	return nil
}
