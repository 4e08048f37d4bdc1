package reach

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/backoff"
	"github.com/skep-io/skep/dataplane/flow"
	"github.com/skep-io/skep/witness"
)

// Config configures a Reach.
type Config struct {
	Node     string // this one
	Addrs    []netip.Addr
	Key      flow.ProbeKey
	StateDir string
	Factory  informers.SharedInformerFactory
	Client   kubernetes.Interface
	// Eject takes a node's backends out of this node's service maps, or puts them back, as far as reachability goes.
	Eject func(node string, out bool)
}

// Reach probes other nodes and follows the verdicts about them.
type Reach struct {
	cfg    Config
	author *author
	nodes  cache.SharedIndexInformer
	lister corelisters.NodeLister
	wake   chan struct{}

	mu      sync.Mutex
	council *council
	prober  *prober
}

// New reads or makes this node's key; nothing is sent before Run.
func New(cfg Config) (*Reach, error) {
	author, err := openAuthor(cfg.Node, cfg.StateDir, time.Now())
	if err != nil {
		return nil, err
	}
	nodes := cfg.Factory.Core().V1().Nodes()
	return &Reach{cfg: cfg, author: author, nodes: nodes.Informer(), lister: nodes.Lister(), wake: make(chan struct{}, 1)}, nil
}

// Run works until ctx ends; the factory's informers must be running.
func (r *Reach) Run(ctx context.Context) error {
	conns, err := r.open(ctx)
	if err != nil {
		return nil // ctx has ended
	}
	defer conns.close()
	handler, err := r.nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { r.nodesChanged() }, UpdateFunc: r.nodeUpdated, DeleteFunc: func(any) { r.nodesChanged() },
	})
	if err != nil && ctx.Err() != nil {
		return nil // the informers have ended first
	}
	if err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), handler.HasSynced) {
		return nil
	}
	outbox := newOutbox(r.cfg.Key, r.cfg.Node, conns.write)
	reporter := newReporter(r.cfg.Client, r.cfg.Node)
	council := newCouncil(r.author, time.Now, outlets{tell: outbox.tell, everyone: outbox.everyone, report: reporter.report, eject: r.cfg.Eject})
	prober, err := newProber(r.cfg.Addrs, r.cfg.Key, council.found)
	if err != nil {
		return err
	}
	defer prober.close()
	r.mu.Lock()
	r.council, r.prober = council, prober
	r.mu.Unlock()
	group, ctx := errgroup.WithContext(ctx)
	for _, conn := range conns {
		group.Go(func() error {
			read(conn, r.cfg.Key, council.heard, council.refused)
			return nil
		})
	}
	context.AfterFunc(ctx, conns.close)
	group.Go(func() error { return outbox.run(ctx) })
	group.Go(func() error { return reporter.run(ctx) })
	group.Go(func() error { return prober.run(ctx) })
	group.Go(func() error { return r.follow(ctx, outbox) })
	group.Go(func() error { return publish(ctx, r.cfg.Client, r.lister, r.cfg.Node, r.author.public()) })
	return group.Wait()
}

// open opens the port for statements, however long another program has it.
func (r *Reach) open(ctx context.Context) (conns sockets, err error) {
	retry := backoff.Retry{
		First: time.Second, Last: 30 * time.Second, Attrs: []any{"port", flow.ProbePort},
		Failing: "the port of probes and statements (UDP) cannot be opened: this node watches no others and is not watched; trying again", Working: "the port of probes and statements is open",
	}
	err = retry.Do(ctx, func(context.Context) (err error) {
		conns, err = listen(r.cfg.Addrs)
		return err
	})
	return conns, err
}

func isClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

// nodeUpdated ignores heartbeats, of which a large cluster has many.
func (r *Reach) nodeUpdated(old, obj any) {
	before, ok := old.(*corev1.Node)
	now, okNow := obj.(*corev1.Node)
	if !ok || !okNow || !r.member(before).equal(r.member(now)) {
		r.nodesChanged()
	}
}

func (r *Reach) nodesChanged() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

const (
	// gather is for how long changes of Node objects are collected.
	gather = 50 * time.Millisecond
	tick   = time.Second
)

// follow keeps council, prober and outbox up to date with the Node objects, and this node's key published.
func (r *Reach) follow(ctx context.Context, outbox *outbox) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	known := map[string]member{}
	first := true
	for {
		objects, err := r.lister.List(labels.Everything())
		if err != nil {
			return err
		}
		if now := r.members(objects); first || !same(known, now) {
			known, first = now, false
			r.adopt(known, outbox)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			r.council.tick()
		case <-r.wake:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(gather):
			}
		}
	}
}

// member is what matters of a Node object.
type member struct {
	witness.Node
	addr netip.Addr
}

func (m member) equal(o member) bool {
	return m.addr == o.addr && m.Zone == o.Zone && m.Alive == o.Alive && m.Down == o.Down && m.Key.Equal(o.Key)
}

// members reads the Node objects. One without an address of a family that this node has cannot be probed from here.
func (r *Reach) members(objects []*corev1.Node) map[string]member {
	members := make(map[string]member, len(objects))
	for _, obj := range objects {
		members[obj.Name] = r.member(obj)
	}
	return members
}

func (r *Reach) member(obj *corev1.Node) member {
	return member{witness.FromObject(obj), r.addressOf(obj)}
}

func (r *Reach) addressOf(obj *corev1.Node) netip.Addr {
	for _, a := range obj.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if a.Type != corev1.NodeInternalIP || err != nil {
			continue
		}
		for _, own := range r.cfg.Addrs {
			if own.Is4() == addr.Unmap().Is4() {
				return addr.Unmap()
			}
		}
	}
	return netip.Addr{}
}

func same(a, b map[string]member) bool {
	if len(a) != len(b) {
		return false
	}
	for name, m := range a {
		if other, ok := b[name]; !ok || !m.equal(other) {
			return false
		}
	}
	return true
}

func (r *Reach) adopt(members map[string]member, outbox *outbox) {
	nodes, addrs := make([]witness.Node, 0, len(members)), make(map[string]netip.Addr, len(members))
	for name, m := range members {
		nodes = append(nodes, m.Node)
		if m.addr.IsValid() && len(m.Key) > 0 { // agents without a key do not listen
			addrs[name] = m.addr
		}
	}
	outbox.setNodes(addrs)
	watched := map[string]netip.Addr{}
	for _, name := range r.council.setNodes(nodes) {
		if addr, ok := addrs[name]; ok {
			watched[name] = addr
		}
	}
	r.prober.watch(watched)
}

// publishCheck is how often this node looks whether its Node object has its key: another client may have removed it.
const publishCheck = 2 * time.Second

// publish keeps this node's public key at its Node object; with an empty one it keeps the annotation away.
func publish(ctx context.Context, client kubernetes.Interface, lister corelisters.NodeLister, node, key string) error {
	ticker := time.NewTicker(publishCheck)
	defer ticker.Stop()
	var value any
	if key != "" {
		value = key
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{witness.KeyAnnotation: value}}})
	if err != nil {
		return err
	}
	retry := backoff.Retry{
		First: 200 * time.Millisecond, Last: 10 * time.Second, Attrs: []any{"node", node},
		Failing: "the key of this node's statements at its Node object is not what it should be; trying again", Working: "the key of this node's statements is published",
	}
	for {
		if obj, err := lister.Get(node); err == nil && obj.Annotations[witness.KeyAnnotation] != key {
			err := retry.Do(ctx, func(ctx context.Context) error {
				limited, cancel := context.WithTimeout(ctx, reportLimit)
				defer cancel()
				_, err := client.CoreV1().Nodes().Patch(limited, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
				return err
			})
			if err != nil {
				return nil // ctx has ended
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// Withdraw keeps a node out of the ring until ctx ends: it watches no others and is not watched.
func Withdraw(ctx context.Context, factory informers.SharedInformerFactory, client kubernetes.Interface, node string) error {
	nodes := factory.Core().V1().Nodes()
	if !cache.WaitForCacheSync(ctx.Done(), nodes.Informer().HasSynced) {
		return nil
	}
	return publish(ctx, client, nodes.Lister(), node, "")
}
