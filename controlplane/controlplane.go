// Package controlplane puts the parts of skepd together: etcd or a connection to
// it, the registry, certificates, the API server, and at the leader the scheduler and the
// controllers. It owns the order in which they start and stop and the objects that every
// cluster has from the start. It leaves all other decisions to the parts.
package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/runtime/schema"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/apiserver"
	"github.com/skep-io/skep/controlplane/encryption"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/leader"
	"github.com/skep-io/skep/controlplane/membership"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/podranges"
	"github.com/skep-io/skep/controlplane/rebalance/plan"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servers"
	"github.com/skep-io/skep/controlplane/storage"
)

// Run runs a control plane until ctx ends. It returns nil then, and an error if
// it could not start or a part of it failed.
func Run(ctx context.Context, options Options) error {
	s, cluster, lock, err := options.settle(ctx)
	if err != nil {
		return err
	}
	authority, err := pki.Open(s.DataDir, pki.Options{
		Server: s.url(), SANs: s.names(), ServiceIPs: s.firstServiceIPs(), ClusterDomain: s.ClusterDomain, Reserved: s.reserved,
		Peers: []netip.Addr{s.advertise}, Servers: func() []netip.Addr { return s.others() },
	})
	if err != nil {
		return err
	}
	store, err := openStore(ctx, s, authority, cluster, lock)
	if err = s.joined(cluster, err); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	defer store.close()
	api, err := listen("--listen", s.Listen)
	if err != nil {
		return err
	}
	defer api.Close()
	dns, err := listen("--dns-etcd-listen", s.DNSEtcdListen)
	if err != nil {
		return err
	}
	defer dns.Close()
	identity, err := leader.Identity(s.DataDir)
	if err != nil {
		return err
	}
	err = serve(ctx, s, store, authority, identity, cluster, api, dns)
	if ctx.Err() != nil {
		return nil
	}
	return s.joined(cluster, err)
}

// settle completes the options: for a server that is one of several, or joins, with what it knows or learns from the others. It returns
// the lock on the data of skepd's own etcd, if it has one.
func (o Options) settle(ctx context.Context) (s *settings, cluster *serverFile, lock *etcd.Lock, err error) {
	o.DataDir = cmp.Or(o.DataDir, DefaultDataDir)
	f, err := readServerFile(o.DataDir)
	if err != nil {
		return nil, nil, nil, err
	}
	if f == nil && o.Join == "" {
		// Errors of flags come before anything is made.
		if s, err = o.complete(); err != nil {
			return nil, nil, nil, err
		}
	}
	if err := checkDataDir(o.DataDir); err != nil {
		return nil, nil, nil, err
	}
	if len(o.Etcd.Endpoints) > 0 {
		if o.Join != "" {
			return nil, nil, nil, fmt.Errorf("--join %s: servers that use --etcd-servers do not join: copy the folder pki of another server's data folder and start this one with the same flags", o.Join)
		}
		s, err = o.complete()
		return s, nil, nil, err
	}
	if lock, err = etcd.TakeLock(o.DataDir); err != nil {
		return nil, nil, nil, err
	}
	if cluster, err = o.enrol(ctx, lock); err == nil {
		if o, err = o.with(cluster); err == nil {
			s, err = o.complete()
		}
	}
	if err != nil {
		lock.Release()
	}
	return s, cluster, lock, err
}

// serve runs the parts. The caches and the store end after the parts that read and write through them.
func serve(ctx context.Context, s *settings, store *store, authority *pki.PKI, identity string, cluster *serverFile, api, dns net.Listener) error {
	stored, provider, err := store.encrypted(ctx, s, identity)
	if err != nil {
		return err
	}
	directory := servers.NewDirectory(stored, s.record(store.server != nil))
	s.others = func() []netip.Addr { return others(directory) }
	ranges := podranges.New(stored)
	s.added = ranges.Added
	registry := kinds.NewRegistry(stored, kinds.Options{Cluster: s.cluster(), Encrypted: s.EncryptionConfig != ""})
	maintainer := store.maintainer()
	server, err := apiserver.New(apiserver.Config{
		Registry: registry, PKI: authority, Version: s.Version, Etcd: maintainer, Network: s.network(),
		Servers: servers.New(servers.Config{
			Registry: registry, Directory: directory, PKI: authority, Etcd: store.server, Settings: s.shared(), EncryptionConfig: s.EncryptionConfig,
		}),
		ServerURLs: func() []string { return urls(directory) },
		Rebalance: func(ctx context.Context, q skepv1.RebalanceQuery) (skepv1.RebalancePlan, error) {
			state, err := plan.Gather(ctx, registry)
			if err != nil {
				return skepv1.RebalancePlan{}, err
			}
			return plan.Make(s.scheduling, state, plan.Options{RebalanceQuery: q}), nil
		},
		PodRanges:        &podNetwork{settings: s, registry: registry, ranges: ranges},
		StoreAlive:       func(r *http.Request) error { return maintainer.Alive(r.Context()) },
		StoreTakesWrites: func(*http.Request) error { return maintainer.Problem() },
	})
	if err != nil {
		return err
	}
	base, stopBase := context.WithCancel(context.WithoutCancel(ctx))
	caches := make(chan error, 1)
	cachesEnded := make(chan struct{})
	go func() {
		defer close(cachesEnded)
		caches <- registry.Run(base)
	}()
	defer func() {
		stopBase()
		<-cachesEnded
	}()
	p := newParts(ctx)
	ctx = p.ctx
	p.run("caches", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-caches:
			return err
		}
	})
	p.run("etcd", store.watch)
	p.run("certificates", authority.Run)
	p.run("maintenance of etcd", maintainer.Run)
	p.run("directory of servers", directory.Run)
	p.run("added pod ranges", ranges.Run)
	if provider != nil {
		p.run("encryption", func(ctx context.Context) error { return provider.Run(ctx, registry.Reread) })
	}
	p.group.Go(func() error {
		if err := ensureObjects(ctx, s, registry, authority); err != nil {
			return err
		}
		if err := ranges.WaitForSync(ctx); err != nil {
			return err
		}
		if err := endToken(ctx, registry, cluster); err != nil {
			slog.Warn("The token that this server joined with is not deleted; it expires", "token", cluster.Token, "err", err)
		}
		p.run("API server", func(ctx context.Context) error { return server.Run(ctx, api) })
		p.run("etcd for cluster DNS", func(ctx context.Context) error {
			return etcd.ServeReadOnly(ctx, dns, store.reader, etcd.ReadOnlyConfig{
				TLS: authority.ServerTLS(), ClientName: pki.DNSName, Prefixes: dnsViews,
			})
		})
		p.run("system objects", newSystem(registry, s, authority, directory).Run)
		p.run("leader election", func(ctx context.Context) error {
			return leader.RunAmong(ctx, registry, identity, directory.Several, func(ctx context.Context) error { return lead(ctx, s, registry, authority) })
		})
		if s.Serving != nil {
			s.Serving(Serving{URL: s.url(), Kubeconfig: authority.KubeconfigPath(), JoinToken: authority.TokenPath()})
		}
		return nil
	})
	return p.group.Wait()
}

// ensureObjects creates what every cluster has, before the API is served.
func ensureObjects(ctx context.Context, s *settings, registry *resource.Registry, authority *pki.PKI) error {
	if err := registry.WaitForSync(ctx); err != nil {
		return err
	}
	if err := kinds.EnsureNamespaces(ctx, registry); err != nil {
		return err
	}
	if err := kinds.EnsurePriorityClasses(ctx, registry); err != nil {
		return err
	}
	if err := kinds.EnsureServiceCIDR(ctx, registry, s.services); err != nil {
		return err
	}
	if err := membership.Record(ctx, registry.Store()); err != nil {
		return fmt.Errorf("record the nodes of an earlier version: %w", err)
	}
	if err := ensureFirstToken(ctx, registry, authority); err != nil {
		return fmt.Errorf("make the first join token: %w", err)
	}
	keepFirstToken(authority)
	return nil
}

// store is the etcd that a control plane works on.
type store struct {
	client *clientv3.Client
	reader etcd.Reader
	server *etcd.Server // nil: not ours
}

func openStore(ctx context.Context, s *settings, authority *pki.PKI, cluster *serverFile, lock *etcd.Lock) (*store, error) {
	if len(s.Etcd.Endpoints) > 0 {
		client, err := storage.Dial(ctx, s.Etcd)
		if err != nil {
			return nil, err
		}
		return &store{client: client, reader: etcd.ReaderOf(client)}, nil
	}
	peer := &etcd.Peer{URL: s.peerURL(), Listen: s.PeerListen, TLS: authority.PeerTLS()}
	peer.CertFile, peer.KeyFile, peer.CAFile = authority.PeerFiles()
	if cluster != nil {
		peer.Members = cluster.Members
	}
	server, err := etcd.Start(ctx, etcd.Config{DataDir: s.DataDir, Name: s.Name, Peer: peer, Lock: lock})
	if err != nil {
		return nil, err
	}
	return &store{client: server.Client, reader: server.Reader(), server: server}, nil
}

// encrypted is the store as the control plane reads and writes it; without a
// configuration values are stored as they are, and there is no provider.
func (s *store) encrypted(ctx context.Context, settings *settings, identity string) (storage.Interface, *encryption.Provider, error) {
	plain := storage.NewEtcd(s.client)
	if settings.EncryptionConfig == "" {
		return plain, nil, nil
	}
	resources := map[string]schema.GroupResource{}
	for _, k := range kinds.All() {
		resources[k.Prefix()] = k.GroupResource()
	}
	provider, err := encryption.Open(context.WithoutCancel(ctx), settings.EncryptionConfig, settings.EncryptionReload, resources, identity)
	if err != nil {
		return nil, nil, err
	}
	s.reader = provider.Reader(s.reader)
	return encryption.NewStore(plain, provider), provider, nil
}

// watch returns when ctx ends, or with an error when our own etcd stops by itself.
func (s *store) watch(ctx context.Context) error {
	if s.server == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.server.Wait(ctx)
}

// record is this server's in the directory of servers.
func (s *settings) record(ownEtcd bool) servers.Record {
	r := servers.Record{Name: s.Name, URL: s.url(), Address: s.advertise, DNS: s.dnsURL()}
	if ownEtcd {
		r.PeerURL = s.peerURL()
	}
	return r
}

// others are the addresses of the other servers.
func others(directory *servers.Directory) []netip.Addr {
	var addresses []netip.Addr
	for _, r := range directory.Known() {
		addresses = append(addresses, r.Address)
	}
	return addresses
}

// urls are the APIs of all servers.
func urls(directory *servers.Directory) []string {
	var urls []string
	for _, r := range directory.Known() {
		urls = append(urls, r.URL)
	}
	return urls
}

// dnsURL is where cluster DNS reads etcd at this server.
func (s *settings) dnsURL() string {
	host, port, _ := net.SplitHostPort(s.DNSEtcdListen) // complete has checked it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = s.advertise.String()
	}
	return "https://" + net.JoinHostPort(host, port)
}

// maintainer keeps the database from filling up.
func (s *store) maintainer() *etcd.Maintainer {
	if s.server != nil {
		return s.server.Maintainer()
	}
	return etcd.NewMaintainer(s.client, false)
}

func (s *store) close() {
	if s.server != nil {
		s.server.Close()
		return
	}
	if err := s.client.Close(); err != nil {
		slog.Debug("Connection to etcd did not close cleanly", "err", err)
	}
}

// names are what the API's certificate is to be valid for, beside its fixed names.
func (s *settings) names() []string {
	names := append([]string{s.advertise.String()}, s.TLSSANs...)
	if ip := net.ParseIP(s.listenHost); ip != nil && !ip.IsUnspecified() {
		names = append(names, s.listenHost)
	}
	return names
}

// reserved are addresses that no node's certificate may name.
func (s *settings) reserved() []netip.Prefix {
	ranges := slices.Clone(s.services)
	for _, r := range slices.Concat(s.pods, s.added()) {
		ranges = append(ranges, r.Prefix)
	}
	for _, endpoint := range s.Etcd.Endpoints {
		if u, err := url.Parse(endpoint); err == nil {
			if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
				ranges = append(ranges, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
			}
		}
	}
	if host, _, err := net.SplitHostPort(s.DNSEtcdListen); err == nil {
		if addr, err := netip.ParseAddr(host); err == nil && !addr.IsUnspecified() {
			ranges = append(ranges, netip.PrefixFrom(addr.Unmap(), addr.Unmap().BitLen()))
		}
	}
	return ranges
}

func listen(flag, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, unix.EADDRINUSE):
		_, port, _ := net.SplitHostPort(address)
		return nil, fmt.Errorf("%s %s: the port is in use, see by which process with `ss -ltnp 'sport = :%s'`: stop it, or give another port", flag, address, port)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s %s: no interface of this host has that address", flag, address)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%s %s: only root may listen there", flag, address)
	}
	return nil, fmt.Errorf("%s %s: %w", flag, address, err)
}
