package gc_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller/gc"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const owner = `
apiVersion: v1
kind: ReplicationController
metadata: {name: owner}
spec:
  replicas: 0
  selector: {app: web}
  template: {metadata: {labels: {app: web}}, spec: {containers: [{name: c, image: i}]}}
`

// family makes an owner, a config map of its own and one that it shares with the node "other".
func family(t *testing.T, r *resource.Registry) resource.Object {
	o := controlplanetest.Create(t, r, controlplanetest.Parse(t, owner)...)[0]
	other := controlplanetest.Create(t, r, controlplanetest.Parse(t, "{apiVersion: v1, kind: Node, metadata: {name: other}}")...)[0]
	ref := *metav1.NewControllerRef(o, corev1.SchemeGroupVersion.WithKind("ReplicationController"))
	second := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "other", UID: other.GetUID()}
	for name, refs := range map[string][]metav1.OwnerReference{"own": {ref}, "shared": {ref, second}} {
		controlplanetest.Create(t, r, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: refs}})
	}
	return o
}

// state lists the objects that exist, with how many owners.
func state(r *resource.Registry) string {
	out := ""
	for _, rc := range controlplanetest.List[*corev1.ReplicationController](r, kinds.ReplicationControllers, "default") {
		out += rc.Name + " "
	}
	for _, cm := range controlplanetest.List[*corev1.ConfigMap](r, kinds.ConfigMaps, "default") {
		out += fmt.Sprintf("%s:%d ", cm.Name, len(cm.OwnerReferences))
	}
	return out
}

func TestPropagation(t *testing.T) {
	for policy, want := range map[metav1.DeletionPropagation]string{
		metav1.DeletePropagationBackground: "shared:1 ",
		metav1.DeletePropagationForeground: "shared:1 ",
		metav1.DeletePropagationOrphan:     "own:0 shared:1 ",
	} {
		for _, order := range []string{"loop first", "deletion first"} {
			t.Run(string(policy)+"/"+order, func(t *testing.T) {
				r := controlplanetest.Start(t)
				run := func() { controlplanetest.Go(t, func(ctx context.Context) { _ = gc.New(r).Run(ctx) }) }
				if order == "loop first" {
					run()
				}
				o := family(t, r)
				if _, _, err := r.Delete(t.Context(), kinds.ReplicationControllers, "default", o.GetName(), &metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
					t.Fatal(err)
				}
				if order == "deletion first" {
					run()
				}
				controlplanetest.Await(t, r, []*resource.Kind{kinds.ReplicationControllers, kinds.ConfigMaps}, func() string {
					if got := state(r); got != want {
						return fmt.Sprintf("there are %q, want %q", got, want)
					}
					return ""
				})
			})
		}
	}
}

// An object with an owner that never existed is deleted; one with an owner of a kind that is not served stays.
func TestDanglingAndUnknownOwners(t *testing.T) {
	r := controlplanetest.Start(t)
	controlplanetest.Go(t, func(ctx context.Context) { _ = gc.New(r).Run(ctx) })
	controlplanetest.Create(t, r,
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "foreign", OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "1"}}}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dangling", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "x", UID: "2"}}}},
	)
	controlplanetest.Await(t, r, []*resource.Kind{kinds.ConfigMaps}, func() string {
		if got := state(r); got != "foreign:1 " {
			return got
		}
		return ""
	})
}
