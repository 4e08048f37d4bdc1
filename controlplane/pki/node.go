package pki

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// NodeRequest asks for the certificate of a node.
type NodeRequest struct {
	Name string
	// CSR is a certificate request in PEM. Only its key is used: it may ask for the node's own name and for From, which the certificate has
	// anyway, and for nothing else.
	CSR []byte
	// From is the address that the request came from; the certificate names it, unless it is one of the cluster's own. It may be
	// the zero Addr.
	From netip.Addr
	// Number returns the number of the node's membership, and is called after all other checks; the certificate carries it as its subject's
	// serialNumber. nil: it carries none.
	Number func() (string, error)
}

// SignNode issues the certificate of a node, valid as client and as server. Subject and names come from the node's name and the address
// that it connects from, not from the CSR.
func (p *PKI) SignNode(r NodeRequest) ([]byte, error) {
	csr, err := parseRequest(r.CSR)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: NodePrefix + r.Name, Organization: []string{NodesGroup}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	from := r.From.Unmap().WithZone("")
	if from.IsValid() && !p.reserved(from) {
		template.IPAddresses = []net.IP{from.AsSlice()}
	}
	if err := p.checkNodeName(r.Name, from); err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(r.Name); err != nil {
		template.DNSNames = []string{r.Name} // else it is named as an address
	}
	if len(csr.EmailAddresses)+len(csr.URIs) > 0 {
		return nil, errors.New("csr: a node's certificate has no mail addresses and no URIs")
	}
	for _, host := range csr.DNSNames {
		if host != r.Name {
			return nil, fmt.Errorf("csr: the name %q is not the node's: only %q may be asked for", host, r.Name)
		}
	}
	for _, ip := range csr.IPAddresses {
		if !slices.ContainsFunc(template.IPAddresses, ip.Equal) {
			return nil, fmt.Errorf("csr: the certificate of node %q cannot have the address %s: only that from which it connects (%s) can be had, and none of the control plane's or of a range of the cluster",
				r.Name, ip, from)
		}
	}
	if r.Number != nil {
		if template.Subject.SerialNumber, err = r.Number(); err != nil {
			return nil, err
		}
	}
	return p.sign(p.ca.Load(), template, csr.PublicKey)
}

func parseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("csr: not a PEM block of type CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("csr: %w", err)
	}
	return csr, nil
}

// checkNodeName refuses a name that clients reach the API server by, and an address that is not the node's own.
func (p *PKI) checkNodeName(name string, from netip.Addr) error {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return fmt.Errorf("node name %q: %s", name, strings.Join(problems, "; "))
	}
	if slices.ContainsFunc(p.servingTemplate().DNSNames, func(own string) bool { return strings.EqualFold(own, name) }) {
		return fmt.Errorf("node name %q: the API server is known by it; give the node another name", name)
	}
	if addr, err := netip.ParseAddr(name); err == nil && (addr != from || p.reserved(addr)) {
		return fmt.Errorf("node name %q is an address, and not that from which the node connects (%s); give the node another name", name, from)
	}
	return nil
}

// reserved says whether an address is one that clients reach the API server by, or is in a range of the cluster.
func (p *PKI) reserved(addr netip.Addr) bool {
	return addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() ||
		slices.ContainsFunc(p.servingTemplate().IPAddresses, func(ip net.IP) bool { return ip.Equal(addr.AsSlice()) }) ||
		p.options.Servers != nil && slices.Contains(p.options.Servers(), addr) ||
		p.options.Reserved != nil && slices.ContainsFunc(p.options.Reserved(), func(r netip.Prefix) bool { return r.Contains(addr) })
}

func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("not a PEM file")
	}
	if key, err := x509.ParseECPrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, errors.New("the key cannot sign")
	}
	return signer, nil
}
