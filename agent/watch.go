package agent

import (
	"context"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"

	"github.com/skep-io/skep/agent/services"
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
		Router:    &router{self: podpath.Node{Addrs: w.membership.nodeIPs, PodCIDRs: w.membership.podCIDRs, Own: true}, network: w.plane.network, path: w.plane.path},
		Announcer: w.plane.announcer, Recorder: w.membership.recorder, ServiceCIDRs: w.membership.network.ServiceCIDRs, PodCIDRs: w.membership.network.PodCIDRs, Adopted: w.adopted,
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
