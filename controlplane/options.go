package controlplane

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller/loadbalancer"
	"github.com/skep-io/skep/controlplane/controller/node"
	"github.com/skep-io/skep/controlplane/scheduler"
	"github.com/skep-io/skep/controlplane/storage"
)

// Options say how to run a control plane.
type Options struct {
	// DataDir holds everything that must outlive the process.
	DataDir string
	// Listen is the address and port of the API.
	Listen string
	// AdvertiseAddress is where others reach the API; empty: the address of Listen, or the host's if Listen has none.
	AdvertiseAddress string
	// Etcd is an etcd cluster to use; without endpoints an etcd of our own runs in the process.
	Etcd storage.DialConfig
	// ServiceCIDR and PodCIDR are the ranges of service and of pod addresses. Each
	// may be two, separated by a comma, one of each family; the first is of the
	// primary one.
	ServiceCIDR, PodCIDR string
	// NodeMask, NodeMask4 and NodeMask6 say how large a node's part of PodCIDR is;
	// 0: the default. The first is for a PodCIDR of one family.
	NodeMask, NodeMask4, NodeMask6 int
	// LoadBalancerCIDR are the addresses for services of type LoadBalancer: CIDRs
	// and ranges, separated by commas. Empty: none.
	LoadBalancerCIDR string
	ClusterDomain    string
	// DenyExternalIPs refuses services with external addresses.
	DenyExternalIPs bool
	// EncryptionConfig is the file that says how objects are encrypted in etcd; empty:
	// not at all. With EncryptionReload it is read again when it changes.
	EncryptionConfig string
	EncryptionReload bool
	// TLSSANs are further names and addresses that clients reach the API by.
	TLSSANs []string
	// DNSEtcdListen is where cluster DNS reads etcd; empty: port 2379 at the address of Listen.
	DNSEtcdListen string
	// NodeMonitorGrace is how long a node may be silent.
	NodeMonitorGrace time.Duration
	// TerminatedPodGCThreshold is how many terminated pods are kept; 0 or less: all.
	TerminatedPodGCThreshold int
	// SchedulerConfig is the file with the KubeSchedulerConfiguration; empty: Kubernetes' defaults.
	SchedulerConfig string
	// Name is this server's among several; empty: the host's.
	Name string
	// Join is the URL of a server of the cluster to join, with Token; only used until the server has joined.
	Join, Token string
	// PeerListen is where the etcd of other servers reaches this one's, from the moment on that there are any; empty: port 2380 at the address
	// of Listen.
	PeerListen string
	// Version is Skep's own.
	Version string
	// Serving is called once, when the API answers; it may be nil.
	Serving func(Serving)
}

// Serving says where a control plane serves.
type Serving struct {
	URL        string
	Kubeconfig string
	JoinToken  string // the file that it is in
}

// Defaults.
const (
	DefaultListen        = "0.0.0.0:6443"
	DefaultServiceCIDR   = "10.96.0.0/16"
	DefaultPodCIDR       = "10.244.0.0/16"
	DefaultClusterDomain = "cluster.local"
	DefaultDataDir       = "/var/lib/skepd"

	DefaultNodeMask4 = 24
	DefaultNodeMask6 = 64

	dnsEtcdPort  = "2379"
	peerEtcdPort = "2380"
)

// settings are options that have been checked and completed.
type settings struct {
	Options
	listenHost, listenPort string
	advertise              netip.Addr
	services               []netip.Prefix
	pods                   []allocator.PodRange
	pool                   loadbalancer.Pool
	scheduling             *scheduler.Configuration
	// others are the addresses of all servers at the moment.
	others func() []netip.Addr
	// added are the pod ranges that were added since the cluster's start.
	added func() []allocator.PodRange
}

func (o Options) complete() (*settings, error) {
	set := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	set(&o.DataDir, DefaultDataDir)
	set(&o.Listen, DefaultListen)
	set(&o.ServiceCIDR, DefaultServiceCIDR)
	set(&o.PodCIDR, DefaultPodCIDR)
	set(&o.ClusterDomain, DefaultClusterDomain)
	if o.NodeMonitorGrace == 0 {
		o.NodeMonitorGrace = node.DefaultGrace
	}
	if o.NodeMonitorGrace < 100*time.Millisecond {
		return nil, fmt.Errorf("--node-monitor-grace %s is too short for any node to renew its lease in: give at least 100ms", o.NodeMonitorGrace)
	}
	s := &settings{Options: o, others: func() []netip.Addr { return nil }, added: func() []allocator.PodRange { return nil }}
	var err error
	if s.listenHost, s.listenPort, err = net.SplitHostPort(o.Listen); err != nil {
		return nil, fmt.Errorf("--listen %q is not ADDR:PORT: %w", o.Listen, err)
	}
	if s.advertise, err = s.advertised(); err != nil {
		return nil, err
	}
	set(&s.DNSEtcdListen, net.JoinHostPort(s.listenHost, dnsEtcdPort))
	if _, _, err := net.SplitHostPort(s.DNSEtcdListen); err != nil {
		return nil, fmt.Errorf("--dns-etcd-listen %q is not ADDR:PORT: %w", s.DNSEtcdListen, err)
	}
	set(&s.PeerListen, net.JoinHostPort(s.listenHost, peerEtcdPort))
	if _, port, err := net.SplitHostPort(s.PeerListen); err != nil || port == "" {
		return nil, fmt.Errorf("--etcd-peer-listen %q is not ADDR:PORT", s.PeerListen)
	}
	if err := s.nameSelf(); err != nil {
		return nil, err
	}
	if s.services, err = parseRanges("--service-cidr", o.ServiceCIDR); err != nil {
		return nil, err
	}
	if s.pods, err = o.podRanges(); err != nil {
		return nil, err
	}
	if s.pool, err = loadbalancer.ParsePool(o.LoadBalancerCIDR); err != nil {
		return nil, fmt.Errorf("--lb-cidr %s: %w", o.LoadBalancerCIDR, err)
	}
	s.scheduling = scheduler.DefaultConfiguration()
	if o.SchedulerConfig != "" {
		if s.scheduling, err = scheduler.ReadConfiguration(o.SchedulerConfig); err != nil {
			return nil, fmt.Errorf("--scheduler-config: %w", err)
		}
	}
	return s, cmp.Or(s.checkServices(), s.checkPool(), s.apart())
}

// nameSelf sets the server's name, by default from the host's.
func (s *settings) nameSelf() error {
	if s.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("read this host's name: %w", err)
		}
		s.Name = strings.ToLower(host)
	}
	if problems := validation.IsDNS1123Subdomain(s.Name); len(problems) > 0 {
		return fmt.Errorf("the name of this server, %q: %s; give another with --name", s.Name, problems[0])
	}
	return nil
}

// advertised is the address at which others reach the API.
func (s *settings) advertised() (netip.Addr, error) {
	text := s.AdvertiseAddress
	if text == "" {
		text = s.listenHost
	}
	if text != "" {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return addr, fmt.Errorf("%q is not an IP address: --listen and --advertise-address accept no names", text)
		}
		if !addr.IsUnspecified() {
			return addr, nil
		}
		if s.AdvertiseAddress != "" {
			return addr, fmt.Errorf("--advertise-address %s is not an address that others can reach", text)
		}
	}
	return hostAddress()
}

// hostAddress is the first global address of the host.
func hostAddress() (netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list this host's addresses: %w", err)
	}
	var six netip.Addr
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok || !ipnet.IP.IsGlobalUnicast() {
			continue
		}
		addr, _ := netip.AddrFromSlice(ipnet.IP)
		if addr = addr.Unmap(); addr.Is4() {
			return addr, nil
		}
		if !six.IsValid() {
			six = addr
		}
	}
	if six.IsValid() {
		return six, nil
	}
	return netip.MustParseAddr("127.0.0.1"), nil
}

func (s *settings) url() string {
	return "https://" + net.JoinHostPort(s.advertise.String(), s.listenPort)
}

// cluster is the configuration of allocation.
func (s *settings) cluster() allocator.Cluster {
	cluster := allocator.Cluster{
		ServiceCIDRs: s.services, PodCIDRs: s.pods, AddedPodCIDRs: func() []allocator.PodRange { return s.added() }, APIServers: []netip.Addr{s.advertise}, OtherServers: s.others, DenyExternalIPs: s.DenyExternalIPs,
	}
	if s.LoadBalancerCIDR != "" {
		cluster.LoadBalancerPool = s.pool
	}
	return cluster
}

// network is the configuration that hosts fetch before they join.
func (s *settings) network() skepv1.Network {
	dns := s.services[0].Addr()
	for range 10 {
		dns = dns.Next()
	}
	n := skepv1.Network{ServiceCIDRs: s.services, Domain: s.ClusterDomain}
	for _, r := range s.pods {
		n.PodCIDRs = append(n.PodCIDRs, r.Prefix)
	}
	if s.services[0].Contains(dns) {
		n.DNS = []netip.Addr{dns}
	}
	return n
}

// firstServiceIPs are the addresses of the service default/kubernetes.
func (s *settings) firstServiceIPs() []netip.Addr {
	ips := make([]netip.Addr, len(s.services))
	for i, prefix := range s.services {
		ips[i] = prefix.Addr().Next()
	}
	return ips
}

// checkDataDir makes the data directory and proves that it can be written to.
func checkDataDir(dir string) error {
	advice := "run skepd as root, or name another --data-dir"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("data directory %s cannot be made: %w: %s", dir, bare(err), advice)
	}
	probe, err := os.CreateTemp(dir, ".probe.*")
	if err != nil {
		return fmt.Errorf("data directory %s cannot be written to: %w: %s", dir, bare(err), advice)
	}
	probe.Close()
	return os.Remove(filepath.Clean(probe.Name()))
}

// bare removes the path from an error of the file system, for messages that name it already.
func bare(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
