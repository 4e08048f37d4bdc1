package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/agent/services"
	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/dataplane/podpath"
	"github.com/skep-io/skep/dataplane/sockets"
)

// clusterWatch watches services and nodes, and updates the data plane.
type clusterWatch struct {
	cfg        Config
	membership *membership
	plane      *dataPlane
	adopted    <-chan struct{} // closed when the pods that were here have their host ports again

	factory  informers.SharedInformerFactory
	services *services.Watcher
}

func (w *clusterWatch) start(ctx context.Context, group *errgroup.Group) (err error) {
	w.factory = informers.NewSharedInformerFactory(w.membership.client, 0)
	w.services, err = services.New(services.Config{
		Factory: w.factory, Node: w.cfg.NodeName, Plane: w.plane.marked, Unreachable: w.plane.marked.unreachableNodes,
		Router:    &router{self: podpath.Node{Addrs: w.membership.nodeIPs, PodCIDRs: w.membership.podCIDRs, Own: true}, network: w.plane.network, path: w.plane.path, ranges: &w.membership.ranges},
		Announcer: w.plane.announcer, Recorder: w.membership.recorder, ServiceCIDRs: w.membership.network.ServiceCIDRs, PodCIDRs: w.membership.ranges.known, Adopted: w.adopted,
		Applied: w.applied, Await: w.awaitApplied,
		OwnPorts: ownPorts(w.cfg.Server, w.membership.nodeIPs), Listening: sockets.Listening,
	})
	if err != nil {
		return err
	}
	if err := w.observeSelf(); err != nil {
		return err
	}
	group.Go(func() error { return w.services.Run(ctx) })
	w.factory.StartWithContext(ctx)
	group.Go(func() error {
		<-ctx.Done()
		w.factory.Shutdown()
		return nil
	})
	return nil
}

func (w *clusterWatch) stop() {}

// observeSelf passes changes of the Node object to the node.
func (w *clusterWatch) observeSelf() error {
	observe := func(obj any) {
		if n, ok := obj.(*corev1.Node); ok {
			w.membership.node.Observe(n)
		}
	}
	_, err := w.factory.Core().V1().Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: observe, UpdateFunc: func(_, obj any) { observe(obj) },
	})
	return err
}

// applied has the node's lease report which endpoints the maps have.
func (w *clusterWatch) applied(revision uint64, withdrawn bool) {
	nodes := len(w.factory.Core().V1().Nodes().Informer().GetStore().ListKeys())
	w.membership.node.SetApplied(revision, withdrawn, nodes)
}

// awaitApplied asks the API server, which has the leases of all nodes.
func (w *clusterWatch) awaitApplied(ctx context.Context, revision uint64) (pending []string, err error) {
	wait := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		wait = time.Until(deadline)
	}
	// The answer may come a little later than the server stops waiting.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait+time.Second)
	defer cancel()
	data, err := w.membership.client.CoreV1().RESTClient().Get().AbsPath(skepv1.PathApplied).
		Param("revision", strconv.FormatUint(revision, 10)).Param("wait", wait.String()).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	var answer skepv1.Applied
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("unreadable answer of the API server to %s: %w", skepv1.PathApplied, err)
	}
	return answer.Pending, nil
}
