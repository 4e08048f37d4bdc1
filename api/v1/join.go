package v1

import "time"

// JoinRequest is what a host sends to become a node.
type JoinRequest struct {
	NodeName string `json:"nodeName"`
	// CSR is a certificate request in PEM with the node's key.
	CSR string `json:"csr"`
}

// JoinResponse is what the host gets: certificates in PEM.
type JoinResponse struct {
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
}

// CertificateList has the cluster's certificates.
type CertificateList struct {
	Certificates []Certificate `json:"certificates"`
}

// Certificate is one of the cluster's.
type Certificate struct {
	Name    string `json:"name"`
	Subject string `json:"subject,omitempty"`
	// Path is the file on skepd's host.
	Path      string     `json:"path,omitempty"`
	NotBefore *time.Time `json:"notBefore,omitempty"`
	NotAfter  *time.Time `json:"notAfter,omitempty"`
	// Renewal is the time from which on it is renewed automatically.
	Renewal *time.Time `json:"renewal,omitempty"`
	// State is "valid", "renewal due", "expired" or "unknown", with Message.
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
}
