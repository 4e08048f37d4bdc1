package agent

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"github.com/skep-io/skep/agent/pod"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/stats"
	"github.com/skep-io/skep/agent/usage"
	"github.com/skep-io/skep/dataplane/podnet"
)

// statistics measure what pods and the node use.
type statistics struct {
	cfg        Config
	containers *containers
	membership *membership
	plane      *dataPlane
	pods       *pods

	collector *stats.Collector
}

func (s *statistics) start(context.Context, *errgroup.Group) (err error) {
	s.collector, err = stats.New(stats.Config{
		NodeName: s.cfg.NodeName, NodeCgroup: nodeCgroup(s.cfg), StateDir: s.cfg.StateDir, StartTime: time.Now(),
		Source: &measured{runtime: s.containers.runtime, network: s.plane.network, pods: s.pods.workers, nodeIP: s.membership.nodeIPs[0]},
	})
	return err
}

func (s *statistics) stop() {
	if s.collector != nil {
		s.collector.Close()
	}
}

// measured is the source of the statistics: pods, networks and images of this node.
type measured struct {
	runtime *runtime.Runtime
	network *podnet.Network
	pods    *pod.Pods
	nodeIP  netip.Addr

	mu     sync.Mutex
	images stats.Images
	asked  time.Time
}

// Pods lists the pods that have a running container.
func (m *measured) Pods() []stats.Pod {
	var list []stats.Pod
	for _, state := range m.pods.List() {
		p := stats.Pod{Namespace: state.Pod.Namespace, Name: state.Pod.Name, UID: string(state.Pod.UID)}
		if start := state.Status.StartTime; start != nil {
			p.StartedAt = start.Time
		}
		for _, c := range state.Containers {
			if c.State != runtime.Running {
				continue
			}
			p.CgroupPath = filepath.Dir(c.CgroupPath)
			p.Containers = append(p.Containers, stats.Container{Name: c.Name, CgroupPath: c.CgroupPath, ID: c.ID, Image: c.Image, StartedAt: c.StartedAt})
		}
		if len(p.Containers) > 0 {
			list = append(list, p)
		}
	}
	return list
}

// PodNetwork reads the pod's interface from the host's side.
func (m *measured) PodNetwork(uid string) (stats.Network, bool) {
	c, err := m.network.Counters(uid)
	if err != nil {
		return stats.Network{}, false // in the host's network, or just removed
	}
	return stats.Network{
		Interface: "eth0",
		RxBytes:   c.RxBytes, RxPackets: c.RxPackets, RxErrors: c.RxErrors, RxDropped: c.RxDropped,
		TxBytes: c.TxBytes, TxPackets: c.TxPackets, TxErrors: c.TxErrors, TxDropped: c.TxDropped,
	}, true
}

// NodeNetwork reads the host's interfaces that are up, without its loopback and those that the agent has made.
func (m *measured) NodeNetwork() (list []stats.Network) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil
	}
	primary := m.primaryLink()
	for _, link := range links {
		a := link.Attrs()
		if a.Statistics == nil || a.Flags&net.FlagUp == 0 || a.Flags&net.FlagLoopback != 0 || strings.HasPrefix(a.Name, podnet.OwnPrefix) {
			continue
		}
		n := stats.Network{
			Interface: a.Name,
			RxBytes:   a.Statistics.RxBytes, RxPackets: a.Statistics.RxPackets, RxErrors: a.Statistics.RxErrors, RxDropped: a.Statistics.RxDropped,
			TxBytes: a.Statistics.TxBytes, TxPackets: a.Statistics.TxPackets, TxErrors: a.Statistics.TxErrors, TxDropped: a.Statistics.TxDropped,
		}
		if a.Index == primary {
			list = slices.Insert(list, 0, n)
		} else {
			list = append(list, n)
		}
	}
	return list
}

// primaryLink is the index of the interface that has the node's address; 0: none.
func (m *measured) primaryLink() int {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return 0
	}
	for _, a := range addrs {
		if a.IP.Equal(m.nodeIP.AsSlice()) {
			return a.LinkIndex
		}
	}
	return 0
}

// Disk is a pod's disk use as measured last.
func (m *measured) Disk(uid string) (usage.Pod, bool) { return m.pods.Disk(uid) }

// containerd's answers about images are cached: they need one request per layer.
const (
	imagesFresh   = 30 * time.Second
	imagesTimeout = 5 * time.Second
)

// Images asks containerd where images are and how large. If it does not answer, the last answer is used.
func (m *measured) Images(ctx context.Context) stats.Images {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.asked) < imagesFresh {
		return m.images
	}
	ctx, cancel := context.WithTimeout(ctx, imagesTimeout)
	defer cancel()
	dir, err := m.runtime.ImageFolder(ctx)
	if err == nil {
		m.images.Dir = dir
		var used usage.Amount
		if used.Bytes, used.Inodes, err = m.runtime.ImageUsage(ctx); err == nil {
			m.images.Used = &used
		}
	}
	if err != nil {
		slog.Warn("disk use of images not measured", "err", err)
	}
	m.asked = time.Now()
	return m.images
}
