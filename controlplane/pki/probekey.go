package pki

import (
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
)

// probeKeySize is the size of a SipHash key.
const probeKeySize = 16

// ProbeKey is the key of the probes by which nodes see whether they reach each other. It is derived from the authority's key: every skepd
// of a cluster has the same, and it stays when the authority's certificate is renewed.
func (p *PKI) ProbeKey() ([]byte, error) {
	key, err := x509.MarshalPKCS8PrivateKey(p.ca.Load().key)
	if err == nil {
		key, err = hkdf.Key(sha256.New, key, nil, "skep probe key 1", probeKeySize)
	}
	if err != nil {
		return nil, fmt.Errorf("derive the key of probes: %w", err)
	}
	return key, nil
}
