// Package stats reports, on request, what containers, pods and the node use: from cgroups (v1, v2, and hosts with both), from the
// pods' interfaces, and the disk use that agent/usage measured.
//
// It owns open files and the last samples, which rates need; it runs nothing in the background, and changes nothing.
package stats

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/skep-io/skep/agent/usage"
)

// Pod is a pod to be measured.
type Pod struct {
	Namespace, Name, UID string
	StartedAt            time.Time
	CgroupPath           string // of the whole pod; its containers' are below
	Containers           []Container
}

// Container is a running container. Its ID and image are as containerd has them.
type Container struct {
	Name, CgroupPath, ID, Image string
	StartedAt                   time.Time
}

// Network has the counters of an interface, from its owner's side.
type Network struct {
	Interface                               string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Source lists what is to be measured.
type Source interface {
	Pods() []Pod
	// PodNetwork has the counters of the pod's own interface; ok is false for a pod in the host's network.
	PodNetwork(uid string) (n Network, ok bool)
	// NodeNetwork has the interfaces of the node, the one with its address first.
	NodeNetwork() []Network
	// Disk is the pod's disk use as last measured.
	Disk(uid string) (usage.Pod, bool)
	Images(ctx context.Context) Images
}

// A rate is computed over 10 to 20 s if requests are frequent, over up to rateMax if less frequent, and, if the last request was
// longer ago, over rateMin, during which the request waits for a second sample.
const (
	rateMin  = 100 * time.Millisecond
	rateBase = 10 * time.Second
	rateMax  = 60 * time.Second
)

// Collector samples on demand. Its methods may be called concurrently; concurrent requests share one sample.
type Collector struct {
	node      string
	cgroup    string // of the node; "" if the node is the whole host
	dir       string // its file system counts as the node's
	hierarchy *Hierarchy
	source    Source
	startTime time.Time

	mu      sync.Mutex
	buf     []byte
	tracked map[string]*tracked // by cgroup path
}

// tracked is a cgroup whose files are open.
type tracked struct {
	files *Cgroup
	base  Usage // the earlier sample of rates
	next  Usage // becomes base when it is rateBase old
	now   Usage
	seen  bool
}

// Config names the node's parts.
type Config struct {
	NodeName   string
	NodeCgroup string // "" or "/": the whole host
	StateDir   string
	Root       string // of the cgroup mounts; /sys/fs/cgroup when empty
	StartTime  time.Time
	Source     Source
}

// New detects the cgroup hierarchies of this host.
func New(cfg Config) (*Collector, error) {
	if cfg.Root == "" {
		cfg.Root = "/sys/fs/cgroup"
	}
	h, err := DetectHierarchy(cfg.Root)
	if err != nil {
		return nil, err
	}
	if cfg.NodeCgroup == "" {
		cfg.NodeCgroup = "/"
	}
	return &Collector{
		node: cfg.NodeName, cgroup: cfg.NodeCgroup, dir: cfg.StateDir, hierarchy: h, source: cfg.Source, startTime: cfg.StartTime,
		buf: make([]byte, 16<<10), tracked: map[string]*tracked{},
	}, nil
}

// Close closes the files of all cgroups.
func (c *Collector) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for path, t := range c.tracked {
		t.files.Close()
		delete(c.tracked, path)
	}
}

// sample measures every cgroup of pods and the node, and drops those that were removed. c.mu is held.
//
// Most have a base from an earlier request or from their start; for the others it waits rateMin once, for a second sample.
func (c *Collector) sample(ctx context.Context, pods []Pod) error {
	for _, t := range c.tracked {
		t.seen = false
	}
	missing := c.measure(c.cgroup, time.Time{}, false)
	for _, p := range pods {
		missing = c.measure(p.CgroupPath, p.StartedAt, false) || missing
		for _, ctr := range p.Containers {
			missing = c.measure(ctr.CgroupPath, ctr.StartedAt, false) || missing
		}
	}
	for path, t := range c.tracked {
		if !t.seen {
			t.files.Close()
			delete(c.tracked, path)
		}
	}
	if !missing {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(rateMin):
	}
	for path, t := range c.tracked {
		if t.now.At.Sub(t.base.At) < rateMin {
			c.measure(path, time.Time{}, false)
		}
	}
	return nil
}

// measure reads a cgroup and says whether its rate needs a second sample.
func (c *Collector) measure(path string, started time.Time, withIO bool) (again bool) {
	t := c.tracked[path]
	if t == nil {
		files, err := c.hierarchy.Open(path)
		if err != nil {
			if !errors.Is(err, ErrGone) {
				slog.Warn("cgroup not measured", "err", err)
			}
			return false
		}
		t = &tracked{files: files}
		if !started.IsZero() && time.Since(started) < rateMax {
			t.base = Usage{At: started} // nothing used before it started
		}
		c.tracked[path] = t
	}
	u, err := t.files.Read(c.buf, withIO)
	if err != nil {
		t.files.Close()
		delete(c.tracked, path)
		return false
	}
	t.seen = true
	return t.advance(u)
}

// advance adds a sample and says whether no earlier one is old enough to compare with.
func (t *tracked) advance(u Usage) (again bool) {
	switch {
	case t.next.At.IsZero():
		t.next = u
	case u.At.Sub(t.next.At) >= rateBase:
		t.base, t.next = t.next, u
	}
	if u.At.Sub(t.base.At) > rateMax {
		t.base = u
	}
	t.now = u
	return u.At.Sub(t.base.At) < rateMin
}

// rate is the CPU use in nanoseconds per second between base and now; ok is false if there is no earlier sample.
func (t *tracked) rate() (nanoCores uint64, ok bool) {
	span := t.now.At.Sub(t.base.At)
	if span <= 0 || t.now.CPU < t.base.CPU {
		return 0, false
	}
	return uint64(float64(t.now.CPU-t.base.CPU) / span.Seconds()), true
}
