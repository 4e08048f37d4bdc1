package pki

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
)

// The files of the authority of etcd's members and of this server's certificate towards them. The authority is one of its own: no certificate
// of a node, of an administrator or of the API server counts between members of etcd.
const (
	peerAuthority = "etcd-ca"
	peerFile      = "etcd-peer"
	peerTrust     = "etcd-peer-trust.crt"
	peerName      = "skep-etcd-member"
)

// Authorities are the keys and certificates of both authorities, in PEM: what makes a host a server of the cluster.
type Authorities struct{ CA, CAKey, PeerCA, PeerCAKey []byte }

// refreshPeer is the part of refresh for the members of etcd.
func (p *PKI) refreshPeer() error {
	ca, err := p.openCA(peerAuthority, "skep-etcd-ca")
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: peerName},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, addr := range p.options.Peers {
		template.IPAddresses = append(template.IPAddresses, net.IP(addr.Unmap().AsSlice()))
	}
	peer, err := p.openLeaf(ca, peerFile, template)
	if err != nil {
		return err
	}
	anchor, err := anchorCertificate(ca)
	if err != nil {
		return fmt.Errorf("make the anchor of trust for etcd's members: %w", err)
	}
	// etcd reads the file once, when it starts.
	if err := writeFile(p.path(peerTrust), encodePEM("CERTIFICATE", anchor.Raw), 0o644); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(anchor)
	p.peerCA.Store(ca)
	p.peer.Store(peer)
	p.peers.Store(pool)
	return nil
}

// PeerTLS is the configuration with which this server's etcd listens for the other members: they must show a certificate of the members'
// authority.
func (p *PKI) PeerTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       p.now,
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  p.peers.Load(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &p.peer.Load().tls, nil
		},
	}
}

// PeerClientTLS is the configuration with which this server connects to the etcd of another.
func (p *PKI) PeerClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		Time:       p.now,
		RootCAs:    p.peers.Load(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.peer.Load().tls, nil
		},
	}
}

// PeerFiles are the paths of the certificate, the key and the trusted authority for etcd's members.
func (p *PKI) PeerFiles() (certificate, key, trust string) {
	return p.path(peerFile + ".crt"), p.path(peerFile + ".key"), p.path(peerTrust)
}

// Authorities are those of the cluster, for a server that joins.
func (p *PKI) Authorities() Authorities {
	ca, peer := p.ca.Load(), p.peerCA.Load()
	return Authorities{CA: ca.certPEM, CAKey: ca.keyPEM, PeerCA: peer.certPEM, PeerCAKey: peer.keyPEM}
}

// WriteAuthorities writes the authorities of the cluster that the server with data folder dir joins. The keys come last: without them Open
// refuses to make others.
func WriteAuthorities(dir string, a Authorities) error {
	p := &PKI{dir: dir}
	for _, pair := range [][2][]byte{{a.CA, a.CAKey}, {a.PeerCA, a.PeerCAKey}} {
		ca, err := parsePair(pair[0], pair[1])
		if err != nil {
			return fmt.Errorf("the authority that the server sent: %w", err)
		}
		if !ca.leaf.IsCA {
			return fmt.Errorf("the authority that the server sent (%q) is none", ca.leaf.Subject.CommonName)
		}
	}
	if err := os.MkdirAll(p.path(""), 0o700); err != nil {
		return fmt.Errorf("make the certificate folder: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"ca.crt", a.CA, 0o644}, {peerAuthority + ".crt", a.PeerCA, 0o644},
		{"ca.key", a.CAKey, 0o600}, {peerAuthority + ".key", a.PeerCAKey, 0o600},
	} {
		if err := writeFile(p.path(f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// DialTLS is the configuration with which this server calls the API of another, as skepd.
func (p *PKI) DialTLS() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS12,
		Time:             p.now,
		RootCAs:          p.Pool(),
		VerifyConnection: func(cs tls.ConnectionState) error { return VerifyServer(cs) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &p.client.Load().tls, nil
		},
	}
}

// VerifyServer refuses a server that shows another certificate than an API server's: nodes have certificates of the same authority.
func VerifyServer(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 || cs.PeerCertificates[0].Subject.CommonName != servingName {
		return fmt.Errorf("%s is no API server: its certificate is of another kind", cs.ServerName)
	}
	return nil
}

// SameAuthority says whether two certificates, in PEM, are of the same authority: one may be the renewed other.
func SameAuthority(a, b []byte) bool {
	first, second := parseCertificate(a), parseCertificate(b)
	return first != nil && second != nil && second.CheckSignatureFrom(first) == nil
}

func parseCertificate(data []byte) *x509.Certificate {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return certificate
}

// ServesDNS says whether a DNS server's certificate and key, which another server may have made, can stay in use.
func (p *PKI) ServesDNS(certificate, key []byte) bool {
	pair, err := parsePair(certificate, key)
	return err == nil && p.serves(p.ca.Load(), pair.leaf, clientTemplate(DNSName, ""))
}

// Newer says whether a certificate, in PEM, of the same authority ends no earlier than this server's own: the servers renew theirs one by one.
func (p *PKI) Newer(ca []byte) bool {
	other := parseCertificate(ca)
	return other != nil && !other.NotAfter.Before(p.ca.Load().leaf.NotAfter)
}
