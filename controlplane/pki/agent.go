package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
)

// agentSuffix makes a host name from a node's name: some nodes have an address as their name, which TLS would look for among a
// certificate's addresses.
const agentSuffix = ".node"

// AgentHost is the host name by which the agent of a node is dialled with AgentTLS.
func AgentHost(node string) string { return node + agentSuffix }

// NodeOfAgent is the node whose AgentHost a name is.
func NodeOfAgent(host string) (node string, ok bool) { return strings.CutSuffix(host, agentSuffix) }

// AgentTLS returns the configuration with which the API server dials agents, by their AgentHost. Whatever address a node claims, the server
// that answers there has to hold the certificate of the intended node.
func (p *PKI) AgentTLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		InsecureSkipVerify: true, //nolint:gosec // the address is checked by nobody, the node by VerifyConnection
		VerifyConnection:   p.verifyAgent,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.client.Load().tls, nil
		},
	}
}

func (p *PKI) verifyAgent(cs tls.ConnectionState) error {
	node, ok := NodeOfAgent(cs.ServerName)
	if !ok || node == "" {
		return fmt.Errorf("%q is not the name of a node's agent", cs.ServerName)
	}
	if len(cs.PeerCertificates) == 0 {
		return errors.New("the agent has shown no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: p.Pool(), Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: p.now(),
	})
	if err != nil {
		return err
	}
	if leaf.Subject.CommonName != NodePrefix+node || len(leaf.Subject.Organization) != 1 || leaf.Subject.Organization[0] != NodesGroup {
		return fmt.Errorf("the certificate shown is that of %q, not of node %q", leaf.Subject.CommonName, node)
	}
	return nil
}
