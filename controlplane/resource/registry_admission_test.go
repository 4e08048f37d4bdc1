package resource_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// scribe records what it is called with, marks pods when it mutates, and refuses those that are labelled so when it validates.
type scribe struct {
	*admission.Handler
	seen []string
}

func (s *scribe) note(turn string, a admission.Attributes) {
	if a.GetResource().Resource == "pods" {
		s.seen = append(s.seen, fmt.Sprintf("%s %s %s/%s by %s", turn, a.GetOperation(), a.GetName(), a.GetSubresource(), a.GetUserInfo().GetName()))
	}
}

func (s *scribe) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	s.note("admit", a)
	if pod, ok := a.GetObject().(*corev1.Pod); ok {
		if pod.Spec.RestartPolicy == "" {
			return errors.New("the defaults are not set")
		}
		pod.Annotations = map[string]string{"admitted": "yes"}
	}
	return nil
}

func (s *scribe) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	s.note("validate", a)
	if pod, ok := a.GetObject().(*corev1.Pod); ok {
		if pod.UID == "" || pod.Annotations["admitted"] == "" {
			return errors.New("the object is not complete")
		}
		if pod.Labels["refuse"] != "" {
			return admission.NewForbidden(a, errors.New("as its label says"))
		}
	}
	return nil
}

// Every change passes the plugins, with its user's name: mutating ones after defaults, validating ones on the complete object. A refused
// change is not written.
func TestEveryChangePassesAdmission(t *testing.T) {
	_, store := newRegistry(t)
	plugin := &scribe{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete)}
	r := resource.New(store, resource.Config{Admission: func(*resource.Registry) []admission.Interface { return []admission.Interface{plugin} }}, kinds.All())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })

	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx"}}},
	}
	created, err := r.Create(identity.With(ctx, identity.Controllers), kinds.Pods, pod, resource.CreateOptions{})
	if err != nil || created.GetAnnotations()["admitted"] != "yes" {
		t.Fatalf("create: %v, annotations %v", err, created.GetAnnotations())
	}
	label := func(ctx context.Context, sub, key string) error {
		_, err := r.Modify(ctx, kinds.Pods, sub, "default", "web", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			changed := current.DeepCopyObject().(*corev1.Pod)
			changed.Labels = map[string]string{key: "x"}
			return changed, nil
		})
		return err
	}
	if err := label(ctx, "status", "fine"); err != nil {
		t.Fatal(err)
	}
	if err := label(identity.With(ctx, identity.Scheduler), "", "refuse"); !apierrors.IsForbidden(err) {
		t.Errorf("a change that a plugin refuses: %v, want 403", err)
	}
	if stored, err := r.Get(ctx, kinds.Pods, "default", "web", ""); err != nil || stored.GetLabels()["refuse"] != "" {
		t.Errorf("what was refused is stored: %v, %v", stored, err)
	}
	binding := kinds.Binding{Namespace: "default", Name: "web", Node: "node1"}
	if err := kinds.Bind(identity.With(ctx, identity.Scheduler), r, []kinds.Binding{binding})[0]; err != nil {
		t.Fatal(err)
	}
	none := int64(0)
	if _, _, err := r.Delete(ctx, kinds.Pods, "default", "web", &metav1.DeleteOptions{GracePeriodSeconds: &none}); err != nil {
		t.Fatal(err)
	}
	const controllers, scheduler, self = "system:kube-controller-manager", "system:kube-scheduler", "system:apiserver"
	want := []string{
		"admit CREATE web/ by " + controllers, "validate CREATE web/ by " + controllers,
		"admit UPDATE web/status by " + self, "validate UPDATE web/status by " + self,
		"admit UPDATE web/ by " + scheduler, "validate UPDATE web/ by " + scheduler,
		"validate UPDATE web/binding by " + scheduler,
		"admit DELETE web/ by " + self, "validate DELETE web/ by " + self,
	}
	var seen []string
	for _, line := range plugin.seen {
		if !slices.Contains(seen, line) { // an attempt on a state that was old is made again
			seen = append(seen, line)
		}
	}
	if !slices.Equal(seen, want) {
		t.Errorf("plugins saw\n%q\nwant\n%q", seen, want)
	}
}
