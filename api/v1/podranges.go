package v1

import "net/netip"

// PodRangeList has the ranges that nodes' parts come from, in the order in which they are used.
type PodRangeList struct {
	Ranges []PodRange `json:"ranges"`
}

// PodRange is a range of pods' addresses.
type PodRange struct {
	CIDR netip.Prefix `json:"cidr"`
	// NodeMask is the prefix length of a node's part, of which there are Parts, Used of them by nodes.
	NodeMask int    `json:"nodeMask,omitempty"`
	Parts    uint64 `json:"parts,omitempty"`
	Used     uint64 `json:"used,omitempty"`
	// Added says that it was added after the cluster's start.
	Added bool `json:"added,omitempty"`
}
