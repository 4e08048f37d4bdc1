package v1

import (
	"log/slog"
	"net/netip"
	"slices"
)

// Network is the configuration that all hosts of a cluster share. The control plane is started with it, and hosts fetch it.
type Network struct {
	// ServiceCIDRs and PodCIDRs are the ranges of service and of pod addresses, of each family at most one, the primary first.
	ServiceCIDRs []netip.Prefix `json:"serviceCIDRs"`
	PodCIDRs     []netip.Prefix `json:"podCIDRs"`
	// AddedPodCIDRs are further ranges of pod addresses, of the same families, added since the cluster's start; agents that are older do not
	// read them, and reach no pods there.
	AddedPodCIDRs []netip.Prefix `json:"addedPodCIDRs,omitempty"`
	// DNS is where cluster DNS usually has its service: the tenth address of the primary range.
	DNS []netip.Addr `json:"dns"`
	// Domain is the suffix of service names.
	Domain string `json:"domain"`
	// Servers are the URLs of the API at each server of the cluster, whether or not it answers at the moment.
	Servers []string `json:"servers,omitempty"`
	// ProbeKey authenticates the probes by which nodes see whether they reach each other. Only nodes get it; a skepd that is older has
	// none.
	ProbeKey Secret `json:"probeKey,omitempty"`
}

// Pods are all ranges of pod addresses, with those of PodCIDRs first.
func (n Network) Pods() []netip.Prefix { return slices.Concat(n.PodCIDRs, n.AddedPodCIDRs) }

// Secret is bytes that are sent and stored, but not printed.
type Secret []byte

func (Secret) String() string       { return "(secret)" }
func (Secret) GoString() string     { return "(secret)" }
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }
