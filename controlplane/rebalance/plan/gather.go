package plan

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheduler"
)

// Gather reads the state: of pods, controllers and nodes all that is stored now.
func Gather(ctx context.Context, r *resource.Registry) (state scheduler.State, err error) {
	for _, k := range []*resource.Kind{kinds.ReplicationControllers, kinds.ReplicaSets, kinds.Nodes, kinds.Pods} {
		if err := r.WaitForStore(ctx, k); err != nil {
			return state, err
		}
	}
	return scheduler.State{
		Nodes:                  resource.ListAs[*corev1.Node](r, kinds.Nodes, "", nil),
		Namespaces:             resource.ListAs[*corev1.Namespace](r, kinds.Namespaces, "", nil),
		Pods:                   resource.ListAs[*corev1.Pod](r, kinds.Pods, "", nil),
		Services:               resource.ListAs[*corev1.Service](r, kinds.Services, "", nil),
		ReplicationControllers: resource.ListAs[*corev1.ReplicationController](r, kinds.ReplicationControllers, "", nil),
		ReplicaSets:            resource.ListAs[*appsv1.ReplicaSet](r, kinds.ReplicaSets, "", nil),
	}, nil
}
