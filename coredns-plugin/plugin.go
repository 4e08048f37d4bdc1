// Package skep is a CoreDNS plugin that serves Kubernetes' DNS names (DNS-Based
// Service Discovery, specification 1.1) from memory, out of an index that an etcd
// watch keeps current. It reads the objects that a kube-apiserver or Skep wrote and needs
// neither of them to run; it never writes to etcd and sends it no request per query.
//
// Data flows etcd -> source -> index -> handler.
package skep

import (
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/fall"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/skep-io/skep/coredns-plugin/index"
	"github.com/skep-io/skep/coredns-plugin/source"
)

const (
	pluginName = "skep"
	// dnsVersion is the specification that the answers follow, as in the TXT
	// record dns-version.ZONE.
	dnsVersion = "1.1.0"
	defaultTTL = 5
)

// podMode says which a-b-c-d.NAMESPACE.pod.ZONE names exist.
type podMode int

const (
	podsDisabled podMode = iota // none
	podsInsecure                // every address, whether or not a pod has it
	podsVerified                // those that a pod of the namespace has
)

// Skep answers queries below Zones from Index.
type Skep struct {
	Next  plugin.Handler
	Zones []string
	Fall  fall.F
	Index *index.Index

	// upstream resolves the targets of ExternalName through this same server.
	upstream *upstream.Upstream

	ttl  uint32
	pods podMode

	endpoints []string
	// endpointsFile has the endpoints, and may change; empty: they are fixed.
	endpointsFile string
	prefix        string
	tls           []string // certificate, key, CA file
	client        *clientv3.Client
	source        *source.Source
	stop          func()
}

// Name implements plugin.Handler.
func (s *Skep) Name() string { return pluginName }
