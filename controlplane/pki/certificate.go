package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// servingName is the subject of the API servers' serving certificates.
const servingName = "kube-apiserver"

// pair is a certificate with its key, parsed and in PEM.
type pair struct {
	leaf            *x509.Certificate
	key             crypto.Signer
	certPEM, keyPEM []byte
	tls             tls.Certificate
}

func parsePair(certPEM, keyPEM []byte) (*pair, error) {
	certificate, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	key, ok := certificate.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key of %q cannot sign", certificate.Leaf.Subject.CommonName)
	}
	return &pair{leaf: certificate.Leaf, key: key, certPEM: certPEM, keyPEM: keyPEM, tls: certificate}, nil
}

// openCA reads the authority NAME.crt and NAME.key, or makes it. A lost certificate is signed again with the stored key, against which every
// issued certificate still verifies; a lost key cannot be replaced.
func (p *PKI) openCA(name, subject string) (*pair, error) {
	certPath, keyPath := p.path(name+".crt"), p.path(name+".key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	if err := unreadable(certErr, keyErr); err != nil {
		return nil, err
	}
	if keyErr != nil && certErr == nil {
		return nil, fmt.Errorf("%s is missing, but %s is there: put the key back from a copy, or remove %s, %s and %s to begin with a new authority (every node must then join again)",
			keyPath, certPath, p.path(""), p.KubeconfigPath(), p.TokenPath())
	}
	if keyErr == nil && certErr == nil {
		ca, err := parsePair(certPEM, keyPEM)
		if err != nil {
			return nil, fmt.Errorf("%s and %s do not make an authority: %w", certPath, keyPath, err)
		}
		if !ca.leaf.IsCA {
			return nil, fmt.Errorf("%s is not a certificate authority", certPath)
		}
		if p.fresh(ca.leaf) {
			return ca, nil
		}
	}
	if keyErr != nil {
		var err error
		if keyPEM, err = newKey(); err != nil {
			return nil, err
		}
		if err := writeFile(keyPath, keyPEM, 0o600); err != nil {
			return nil, err
		}
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPath, err)
	}
	now := p.now()
	template := &x509.Certificate{
		Subject:   pkix.Name{CommonName: subject},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(caLifetime),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true,
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make the certificate authority: %w", err)
	}
	certPEM = encodePEM("CERTIFICATE", der)
	if err := writeFile(certPath, certPEM, 0o644); err != nil {
		return nil, err
	}
	slog.Info("Certificate authority written", "path", certPath, "until", template.NotAfter.UTC())
	return parsePair(certPEM, keyPEM)
}

// openLeaf reads NAME.crt and NAME.key, or has ca issue them again when they are not what template asks for.
func (p *PKI) openLeaf(ca *pair, name string, template *x509.Certificate) (*pair, error) {
	certPath, keyPath := p.path(name+".crt"), p.path(name+".key")
	certPEM, certErr := os.ReadFile(certPath)
	keyPEM, keyErr := os.ReadFile(keyPath)
	if err := unreadable(certErr, keyErr); err != nil {
		return nil, err
	}
	if certErr == nil && keyErr == nil {
		if leaf, err := parsePair(certPEM, keyPEM); err == nil && p.serves(ca, leaf.leaf, template) {
			return leaf, nil
		}
	}
	keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	certPEM, err = p.sign(ca, template, key.Public())
	if err != nil {
		return nil, fmt.Errorf("issue the certificate %s: %w", name, err)
	}
	if err := writeFile(keyPath, keyPEM, 0o600); err != nil {
		return nil, err
	}
	if err := writeFile(certPath, certPEM, 0o644); err != nil {
		return nil, err
	}
	return parsePair(certPEM, keyPEM)
}

// sign issues template for a public key and returns the certificate in PEM. It sets serial number and lifetime.
func (p *PKI) sign(ca *pair, template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	now := p.now()
	var err error
	if template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(leafLifetime)
	if template.NotAfter.After(ca.leaf.NotAfter) {
		template.NotAfter = ca.leaf.NotAfter
	}
	template.KeyUsage, template.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, template, ca.leaf, public, ca.key)
	if err != nil {
		return nil, err
	}
	return encodePEM("CERTIFICATE", der), nil
}

// serves says whether an existing certificate is signed by the authority, does not expire soon and has the wanted names.
func (p *PKI) serves(ca *pair, have, want *x509.Certificate) bool {
	if !p.fresh(have) || have.CheckSignatureFrom(ca.leaf) != nil {
		return false
	}
	addresses := func(ips []net.IP) []string {
		var out []string
		for _, ip := range ips {
			out = append(out, ip.String())
		}
		slices.Sort(out)
		return out
	}
	return have.Subject.CommonName == want.Subject.CommonName &&
		slices.Equal(have.Subject.Organization, want.Subject.Organization) &&
		slices.Equal(slices.Sorted(slices.Values(have.DNSNames)), slices.Sorted(slices.Values(want.DNSNames))) &&
		slices.Equal(addresses(have.IPAddresses), addresses(want.IPAddresses))
}

// fresh says whether more than a third of a certificate's lifetime remains.
func (p *PKI) fresh(c *x509.Certificate) bool {
	return p.now().Before(renewal(c)) && !p.now().Before(c.NotBefore)
}

func (p *PKI) servingTemplate() *x509.Certificate {
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: servingName},
		DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + p.options.ClusterDomain},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	names := slices.Clone(p.options.SANs)
	for _, ip := range p.options.ServiceIPs {
		names = append(names, ip.String())
	}
	for _, name := range names {
		if ip, err := netip.ParseAddr(name); err == nil {
			if address := net.IP(ip.Unmap().AsSlice()); !ip.IsUnspecified() && !slices.ContainsFunc(template.IPAddresses, address.Equal) {
				template.IPAddresses = append(template.IPAddresses, address)
			}
		} else if name != "" && !slices.Contains(template.DNSNames, name) {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	return template
}

func clientTemplate(name, group string) *x509.Certificate {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if group != "" {
		template.Subject.Organization = []string{group}
	}
	return template
}

func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return encodePEM("EC PRIVATE KEY", der), nil
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return serial, nil
}

// unreadable returns the errors of reading files, except that a file does not exist.
func unreadable(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
