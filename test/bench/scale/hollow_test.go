package scale

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/agent/node"
	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/test/bench/skepd"
	"github.com/skep-io/skep/witness"
)

// protobuf is what agents ask for.
const protobuf = "application/vnd.kubernetes.protobuf"

// watched are the objects of which every agent follows all.
const slicesPath = 1

var watched = []string{"/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices", "/api/v1/nodes"}

// hollow is a node without containers and data plane.
type hollow struct {
	name    string
	client  kubernetes.Interface
	node    *node.Node
	address netip.Addr // of the host
	podIPs  netip.Prefix
	fleet   *fleet

	key      ed25519.PrivateKey // of its statements
	stop     context.CancelFunc
	ended    sync.WaitGroup
	received atomic.Int64 // bytes of watches, as they are on the wire inside of TLS and HTTP
	events   atomic.Int64
	synced   sync.WaitGroup // the initial state of every watch
}

// fleet is all hollow nodes.
type fleet struct {
	nodes []*hollow
	ctx   context.Context // until which they run
	// marker is looked for in what nodes receive, and reported once a node; nil: none.
	marker atomic.Pointer[marker]
}

// marker notes when each node has received an event with certain bytes in it.
type marker struct {
	bytes []byte
	mu    sync.Mutex
	at    map[string]time.Time
	all   chan struct{}
	want  int
}

// expect begins to wait until all nodes have received something with a text in it.
func (f *fleet) expect(text string) *marker {
	m := &marker{bytes: []byte(text), at: map[string]time.Time{}, all: make(chan struct{}), want: len(f.nodes)}
	f.marker.Store(m)
	return m
}

func (m *marker) note(node string, frame []byte) {
	if m == nil || !bytes.Contains(frame, m.bytes) {
		return
	}
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, again := m.at[node]; again {
		return
	}
	if m.at[node] = now; len(m.at) == m.want {
		close(m.all)
	}
}

// lags are how long after a time the nodes received it.
func (m *marker) lags(b *testing.B, since time.Time) (lags []time.Duration) {
	b.Helper()
	select {
	case <-m.all:
	case <-time.After(5 * time.Minute):
		b.Fatalf("%d of %d nodes have received %s after 5 minutes", len(m.at), m.want, m.bytes)
	}
	for _, at := range m.at {
		lags = append(lags, at.Sub(since))
	}
	return lags
}

// grow adds nodes until there are n, and returns once all have their initial state.
func (f *fleet) grow(ctx context.Context, s *skepd.Process, dir string, n int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(64)
	added := make([]*hollow, n-len(f.nodes))
	for i := range added {
		group.Go(func() (err error) {
			added[i], err = f.join(ctx, s, dir, len(f.nodes)+i)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	f.nodes = append(f.nodes, added...)
	return nil
}

// join makes a node, and starts it.
func (f *fleet) join(ctx context.Context, s *skepd.Process, dir string, i int) (*hollow, error) {
	h := &hollow{name: fmt.Sprintf("hollow%05d", i), fleet: f, address: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}
	state := filepath.Join(dir, h.name)
	identity, err := node.OpenIdentity(ctx, node.IdentityConfig{Server: s.URL, Token: s.Token, NodeName: h.name, StateDir: state})
	if err != nil {
		return nil, err
	}
	h.client, err = kubernetes.NewForConfig(&rest.Config{
		Host:            s.URL,
		TLSClientConfig: rest.TLSClientConfig{CAFile: identity.CAFile(), CertFile: identity.CertFile(), KeyFile: identity.KeyFile()},
		ContentConfig:   rest.ContentConfig{AcceptContentTypes: protobuf + ",application/json", ContentType: protobuf},
		UserAgent:       "hollow-agent", QPS: -1,
	})
	if err != nil {
		return nil, err
	}
	size := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("128Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	h.node, err = node.New(node.Config{
		Client: h.client, Name: h.name, StateDir: state, Version: "hollow", Port: 10250, Capacity: size, Allocatable: size,
		IPs:            []netip.Addr{h.address},
		Labels:         map[string]string{corev1.LabelTopologyZone: fmt.Sprintf("zone%d", i%3)},
		RuntimeVersion: func(context.Context) (string, error) { return "hollow", nil },
		Handlers:       func() []corev1.NodeRuntimeHandler { return nil },
		Removed:        func() {},
	})
	if err != nil {
		return nil, err
	}
	ranges, err := h.node.Register(ctx)
	if err != nil {
		return nil, err
	}
	h.podIPs = ranges[0]
	if err := h.publishKey(ctx); err != nil {
		return nil, err
	}
	h.run()
	h.synced.Wait()
	return h, nil
}

// publishKey makes the node one that watches others and is watched.
func (h *hollow) publishKey(ctx context.Context) error {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	h.key = private
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:%q}}}`, witness.KeyAnnotation, base64.StdEncoding.EncodeToString(public))
	_, err = h.client.CoreV1().Nodes().Patch(ctx, h.name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}

// run starts what ends with the node.
func (h *hollow) run() {
	var ctx context.Context
	ctx, h.stop = context.WithCancel(h.fleet.ctx)
	h.ended.Go(func() {
		if err := h.node.Run(ctx); err != nil && ctx.Err() == nil {
			slog.Error("a hollow node has ended", "node", h.name, "err", err)
		}
	})
	for _, path := range watched {
		h.synced.Add(1)
		synced := sync.OnceFunc(h.synced.Done)
		h.ended.Go(func() { h.follow(ctx, path, synced) })
	}
	h.ended.Go(func() { h.runPods(ctx) })
}

// end stops the node as a power cut does: nothing more comes from it.
func (h *hollow) end() {
	h.stop()
	h.ended.Wait()
}

// says is the node's statement that it does not reach another.
func (h *hollow) says(subject string, since time.Time) (skepv1.Statement, error) {
	now := time.Now()
	return witness.Sign(h.key, skepv1.Statement{Witness: h.name, Subject: subject, Since: since, At: now, Sequence: uint64(now.UnixNano())})
}

// follow keeps a watch open, from a list each time.
func (h *hollow) follow(ctx context.Context, path string, synced func()) {
	for ctx.Err() == nil {
		if err := h.watch(ctx, path, synced); err != nil && ctx.Err() == nil {
			slog.Warn("a hollow node's watch has ended", "node", h.name, "path", path, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// initialEnd is in the bookmark after the initial state.
var initialEnd = []byte(metav1.InitialEventsAnnotationKey)

func (h *hollow) watch(ctx context.Context, path string, synced func()) error {
	stream, err := h.client.CoreV1().RESTClient().Get().AbsPath(path).Param("watch", "true").Param("allowWatchBookmarks", "true").
		Param("sendInitialEvents", "true").Param("resourceVersionMatch", "NotOlderThan").Stream(ctx)
	if err != nil {
		return err
	}
	defer stream.Close()
	var frame []byte
	for {
		var size [4]byte
		if _, err := io.ReadFull(stream, size[:]); err != nil {
			return err
		}
		n := int(binary.BigEndian.Uint32(size[:]))
		if cap(frame) < n {
			frame = make([]byte, n)
		}
		frame = frame[:n]
		if _, err := io.ReadFull(stream, frame); err != nil {
			return err
		}
		h.received.Add(int64(4 + n))
		h.events.Add(1)
		if bytes.Contains(frame, initialEnd) {
			synced()
			continue
		}
		h.fleet.marker.Load().note(h.name, frame)
		if path == watched[slicesPath] {
			revision, withdrawn, err := readSlice(frame)
			if err != nil {
				return err
			}
			h.node.SetApplied(revision, withdrawn, len(h.fleet.nodes))
		}
	}
}

// readSlice reads from an event of a watch what an agent reports of it: the slice's revision, and whether an endpoint is not ready.
func readSlice(frame []byte) (revision uint64, withdrawn bool, err error) {
	var event metav1.WatchEvent
	var envelope runtime.Unknown
	var slice discoveryv1.EndpointSlice
	if err := event.Unmarshal(frame); err != nil {
		return 0, false, err
	}
	if err := envelope.Unmarshal(bytes.TrimPrefix(event.Object.Raw, []byte("k8s\x00"))); err != nil {
		return 0, false, err
	}
	if err := slice.Unmarshal(envelope.Raw); err != nil {
		return 0, false, err
	}
	for i := range slice.Endpoints {
		withdrawn = withdrawn || !ptr.Deref(slice.Endpoints[i].Conditions.Ready, true)
	}
	revision, err = strconv.ParseUint(slice.ResourceVersion, 10, 64)
	return revision, withdrawn, err
}
