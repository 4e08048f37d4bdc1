package v1

// EtcdReport is the state of each member of etcd.
type EtcdReport struct {
	Members []EtcdMember `json:"members"`
}

// EtcdMember is what one member reports of its database. Sizes are in bytes.
type EtcdMember struct {
	Member  string `json:"member"`
	Version string `json:"version"`
	Bytes   int64  `json:"bytes"`
	InUse   int64  `json:"inUse"`
	// Quota is the size from which on only deletions are accepted; 0: not known.
	Quota    int64    `json:"quota"`
	Revision int64    `json:"revision"`
	Leader   bool     `json:"leader"`
	Errors   []string `json:"errors,omitempty"`
}
