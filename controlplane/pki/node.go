package pki

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// A join token is PREFIX.HASH.SECRET: the hash lets a node check the authority that an unverified server shows it, the
// secret lets the authority check the node.
const (
	tokenPrefix     = "skep1"
	tokenHashDigits = 32
	tokenSecretSize = 16
)

// SignNode issues the certificate of a node, valid as client and as server, for the key and the names in a PEM certificate
// request. The subject is made from name, whatever the request says; the request may name the node itself and its
// addresses, never an address or a name of the API server's service.
func (p *PKI) SignNode(name string, request []byte) ([]byte, error) {
	if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 {
		return nil, fmt.Errorf("node name %q: %s", name, strings.Join(problems, "; "))
	}
	block, _ := pem.Decode(request)
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
	for _, host := range csr.DNSNames {
		if host != name && host != "localhost" && !strings.HasPrefix(host, name+".") {
			return nil, fmt.Errorf("csr: the name %q is not the node's: only %q, %q and localhost may be asked for", host, name, name+".DOMAIN")
		}
		if slices.Contains(p.servingTemplate().DNSNames, host) && host != "localhost" {
			return nil, fmt.Errorf("csr: the name %q belongs to the API server", host)
		}
	}
	for _, ip := range csr.IPAddresses {
		for _, service := range p.options.ServiceIPs {
			if ip.Equal(service.AsSlice()) {
				return nil, fmt.Errorf("csr: the address %s belongs to the API server's service", ip)
			}
		}
		if ip.IsUnspecified() || ip.IsMulticast() {
			return nil, fmt.Errorf("csr: %s is not the address of a node", ip)
		}
	}
	return p.sign(&x509.Certificate{
		Subject:     pkix.Name{CommonName: NodePrefix + name, Organization: []string{NodesGroup}},
		DNSNames:    csr.DNSNames,
		IPAddresses: csr.IPAddresses,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, csr.PublicKey)
}

// JoinToken returns the token with which nodes join.
func (p *PKI) JoinToken() string {
	return fmt.Sprintf("%s.%s.%s", tokenPrefix, p.caHash(), p.secret)
}

// CheckToken says whether a node showed the join token. The time it takes does not depend on how much of it is right.
func (p *PKI) CheckToken(token string) bool {
	parts := strings.Split(token, ".")
	return len(parts) == 3 && parts[0] == tokenPrefix && subtle.ConstantTimeCompare([]byte(parts[2]), []byte(p.secret)) == 1
}

// caHash is the start of the SHA-256 sum of the authority's certificate, in hex.
func (p *PKI) caHash() string {
	sum := sha256.Sum256(p.ca.Load().leaf.Raw)
	return hex.EncodeToString(sum[:])[:tokenHashDigits]
}

// openToken reads the token's secret or makes one, and writes the token again if the authority's certificate has changed.
func (p *PKI) openToken() error {
	have, err := os.ReadFile(p.TokenPath())
	if err := unreadable(err); err != nil {
		return err
	}
	parts := strings.Split(strings.TrimSpace(string(have)), ".")
	if p.secret == "" && len(parts) == 3 && parts[0] == tokenPrefix && len(parts[2]) >= 2*tokenSecretSize {
		p.secret = parts[2]
	}
	if p.secret == "" {
		secret := make([]byte, tokenSecretSize)
		if _, err := rand.Read(secret); err != nil {
			return fmt.Errorf("make the join token: %w", err)
		}
		p.secret = hex.EncodeToString(secret)
	}
	if want := []byte(p.JoinToken() + "\n"); !bytes.Equal(have, want) {
		return writeFile(p.TokenPath(), want, 0o600)
	}
	return nil
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
