package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/skep-io/skep/agent/node"
	skepv1 "github.com/skep-io/skep/api/v1"
)

// membership is this host's place in the cluster: its certificate, its Node and Lease, and the pod ranges that it was given.
type membership struct {
	cfg        Config
	containers *containers
	announcer  *announcer
	started    <-chan struct{} // closed when all components are up

	identity *node.Identity
	client   kubernetes.Interface
	servers  *servers
	network  skepv1.Network // but for AddedPodCIDRs as it was at the start
	ranges   clusterRanges
	nodeIPs  []netip.Addr // of this host, as other nodes reach it, the primary first
	size     size
	node     *node.Node
	podCIDRs []netip.Prefix
	events   record.EventBroadcaster
	recorder record.EventRecorder

	removed      chan struct{} // closed when the cluster has removed the node
	unknown      chan struct{} // receives when the API server begins to refuse the node as unknown
	tokenRefused atomic.Bool   // joining again with --token was refused
}

func newMembership(cfg Config, containers *containers, announcer *announcer, started <-chan struct{}) *membership {
	return &membership{
		cfg: cfg, containers: containers, announcer: announcer, started: started,
		removed: make(chan struct{}), unknown: make(chan struct{}, 1), ranges: clusterRanges{wanted: make(chan struct{}, 1)},
	}
}

// start makes the host a node. A host that was one before starts with the pod range that it had, and registers when the API server
// answers.
func (m *membership) start(ctx context.Context, group *errgroup.Group) (err error) {
	m.servers = newServers(m.cfg)
	m.identity, err = node.OpenIdentity(ctx, node.IdentityConfig{
		Server: m.cfg.Server, Token: m.cfg.Token, NodeName: m.cfg.NodeName, StateDir: m.cfg.StateDir, Servers: m.servers.known,
	})
	if err != nil {
		return err
	}
	group.Go(func() error { return m.identity.Run(ctx) })
	if m.client, err = newClient(m.cfg, m.identity, m.servers); err != nil {
		return err
	}
	if err := m.learnNetwork(ctx); err != nil {
		return err
	}
	group.Go(func() error { return m.keepServers(ctx) })
	if m.nodeIPs = m.cfg.NodeIPs; len(m.nodeIPs) == 0 {
		if m.nodeIPs, err = ownAddresses(m.cfg.Server, m.network.Pods()); err != nil {
			return err
		}
	}
	if m.size, err = measure(m.cfg, m.containers.runtime.Cgroups()); err != nil {
		return err
	}
	known, ok := readPodCIDRs(m.cfg)
	m.node, err = node.New(node.Config{
		Client: m.client, Name: m.cfg.NodeName, IPs: m.nodeIPs, Labels: m.cfg.Labels, StateDir: m.cfg.StateDir,
		Version: m.cfg.Version, RuntimeVersion: m.containers.version, Images: m.containers.images, Handlers: m.containers.handlers, Port: Port,
		Capacity: m.size.capacity, Allocatable: m.size.allocatable,
		Removed: func() { close(m.removed) }, Renewed: m.announcer.renewed,
		Unknown: func() {
			select {
			case m.unknown <- struct{}{}:
			default: // that is pending already
			}
		},
	})
	if err != nil {
		return err
	}
	if !ok {
		known, err = m.register(ctx)
		if err != nil {
			return err
		}
		if err := writePodCIDRs(m.cfg, known); err != nil {
			return err
		}
	}
	m.podCIDRs = known
	group.Go(func() error { return m.follow(ctx, ok) })
	if ok {
		if err := m.renewWhileStarting(ctx, group); err != nil {
			return err
		}
	}
	m.events = record.NewBroadcaster(record.WithContext(ctx))
	m.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: m.client.CoreV1().Events("")})
	m.recorder = m.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kubelet", Host: m.cfg.NodeName})
	return nil
}

func (m *membership) stop() {
	if m.events != nil {
		m.events.Shutdown()
	}
}

// event writes an event about the Node.
func (m *membership) event(kind, reason, message string) {
	m.recorder.Event(m.node.Reference(), kind, reason, message)
}

// unknownRetry is how often a node that the API server refuses as unknown tries to register again.
const unknownRetry = 30 * time.Second

// follow confirms the node's membership: first if now is set, since it was only read from the disk, and whenever the API server
// refuses the node as unknown.
func (m *membership) follow(ctx context.Context, now bool) error {
	for {
		if !now {
			select {
			case <-ctx.Done():
				return nil
			case <-m.unknown:
			}
		}
		now = false
		if err := m.confirm(ctx); err != nil {
			return err
		}
	}
}

// confirm registers a node that was one before. If it was removed meanwhile, and has no token to join with, the agent keeps running
// to end its pods in order; if the API server refuses it as unknown, the agent keeps running and leaves its pods as they are.
func (m *membership) confirm(ctx context.Context) error {
	for {
		now, err := m.register(ctx)
		var refused *node.RefusedError
		switch {
		case errors.As(err, &refused) && refused.Removed:
			return nil
		case errors.As(err, &refused) && refused.Unknown:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(unknownRetry):
				continue
			}
		case err != nil:
			return err
		}
		if err := m.keepRanges(now); err != nil {
			return err
		}
		return m.keepNetwork(ctx)
	}
}

// register registers the node. A host whose node was removed, or is unknown, joins again if it has a valid token.
func (m *membership) register(ctx context.Context) ([]netip.Prefix, error) {
	ranges, err := m.node.Register(ctx)
	var refused *node.RefusedError
	if !errors.As(err, &refused) || !refused.Removed && !refused.Unknown || m.cfg.Token == "" || m.tokenRefused.Load() {
		return ranges, err
	}
	if joinErr := m.identity.JoinAnew(ctx); joinErr != nil {
		if errors.As(joinErr, &refused) && !refused.Removed {
			m.tokenRefused.Store(true)
			slog.Error("the node cannot join again with the --token that it has", "node", m.cfg.NodeName, "err", joinErr)
			return nil, err
		}
		return nil, joinErr
	}
	return nil, fmt.Errorf("node %s has joined anew: starting again with its new certificate", m.cfg.NodeName)
}

// keepRanges compares the pod ranges that the node has now with those that the agent uses. If they differ (the node has joined
// again meanwhile), its pods' addresses are invalid: the agent restarts with the new ranges.
func (m *membership) keepRanges(now []netip.Prefix) error {
	if slices.Equal(now, m.podCIDRs) {
		return nil
	}
	if err := writePodCIDRs(m.cfg, now); err != nil {
		return err
	}
	return fmt.Errorf("this node's pod ranges are %s now, were %s: starting again", now, m.podCIDRs)
}

// report writes the Node's status and Lease once all components are up.
type report struct{ membership *membership }

func (r *report) start(ctx context.Context, group *errgroup.Group) error {
	group.Go(func() error { return r.membership.node.Run(ctx) })
	return nil
}

func (r *report) stop() {}
