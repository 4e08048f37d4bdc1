package v1

// ServerJoinRequest is what a skepd sends to become a server of the cluster.
type ServerJoinRequest struct {
	// Name is the server's among the servers.
	Name string `json:"name"`
	// URL is its API, https://ADDR:PORT, and PeerURL where its etcd is reached by the others'.
	URL     string `json:"url"`
	PeerURL string `json:"peerURL"`
}

// ServerJoinResponse is what makes the skepd a server. It holds the keys of the cluster's authorities.
type ServerJoinResponse struct {
	// MemberID is the new member's of etcd; Members are the others, by name, with the URLs of their etcd.
	MemberID string            `json:"memberID"`
	Members  map[string]string `json:"members"`
	// The authorities' certificates and keys, in PEM.
	CA        []byte `json:"ca"`
	CAKey     []byte `json:"caKey"`
	PeerCA    []byte `json:"peerCA"`
	PeerCAKey []byte `json:"peerCAKey"`
	// Encryption is the encryption configuration, as the file has it; empty: objects are not encrypted.
	Encryption []byte `json:"encryption,omitempty"`
	// Settings are those that all servers share.
	Settings ServerSettings `json:"settings"`
}

// ServerSettings are what every server of a cluster must be started with alike, in the form of skepd's flags.
type ServerSettings struct {
	ServiceCIDR      string `json:"serviceCIDR"`
	PodCIDR          string `json:"podCIDR"`
	NodeMask         int    `json:"nodeMask,omitempty"`
	NodeMask4        int    `json:"nodeMask4,omitempty"`
	NodeMask6        int    `json:"nodeMask6,omitempty"`
	ClusterDomain    string `json:"clusterDomain"`
	LoadBalancerCIDR string `json:"loadBalancerCIDR,omitempty"`
	DenyExternalIPs  bool   `json:"denyExternalIPs,omitempty"`
}

// ServerList has the cluster's servers.
type ServerList struct {
	Servers []Server `json:"servers"`
}

// Server is one skepd of the cluster.
type Server struct {
	Name string `json:"name"`
	// URL is its API; empty if it has not started yet.
	URL     string `json:"url,omitempty"`
	PeerURL string `json:"peerURL,omitempty"`
	// Role is "leader" or "follower" in etcd, "joining" before it has a vote, or "external" where etcd is not skepd's own.
	Role string `json:"role"`
	// Ready says that its API answered, and Message why it did not.
	Ready   bool   `json:"ready"`
	Message string `json:"message,omitempty"`
	// Self is the server that made the list.
	Self bool `json:"self,omitempty"`
}
