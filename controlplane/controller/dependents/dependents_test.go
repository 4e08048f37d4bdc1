package dependents

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	clocktesting "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

const webSet = `
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: %s}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
`

func selectorOf(obj resource.Object) labels.Selector {
	return labels.SelectorFromSet(obj.(*appsv1.ReplicaSet).Spec.Selector.MatchLabels)
}

// fixture is a set of pods to which only the test delivers changes.
type fixture struct {
	*testing.T
	r     *resource.Registry
	pods  *Dependents[*corev1.Pod]
	clock *clocktesting.FakePassiveClock
}

func start(t *testing.T) *fixture {
	f := &fixture{T: t, r: controlplanetest.Start(t), clock: clocktesting.NewFakePassiveClock(time.Now())}
	f.pods = New[*corev1.Pod](f.r, Owners{Kind: kinds.ReplicaSets, Selector: selectorOf}, kinds.Pods, f.clock)
	return f
}

func (f *fixture) set(name string) *appsv1.ReplicaSet {
	return controlplanetest.Create(f.T, f.r, controlplanetest.Parse(f.T, fmt.Sprintf(webSet, name))...)[0].(*appsv1.ReplicaSet)
}

// pod stores a pod and delivers it.
func (f *fixture) pod(name, app string, owner *appsv1.ReplicaSet) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": app}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, kinds.ReplicaSets.GVK)}
	}
	pod = controlplanetest.Create(f.T, f.r, pod)[0].(*corev1.Pod)
	f.pods.deliver(nil, pod, controller.Revision(pod))
	return pod
}

func (f *fixture) stored(name string) *corev1.Pod {
	f.Helper()
	obj, err := f.r.Get(f.Context(), kinds.Pods, "default", name, "")
	if err != nil {
		f.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

// claim claims for a set as the loop has it, which may be out of date, and returns the names of the pods.
func (f *fixture) claim(set *appsv1.ReplicaSet) (string, error) {
	pods, err := f.pods.Claim(f.Context(), set, selectorOf(set), controller.PodActive)
	var names []string
	for _, pod := range pods {
		names = append(names, pod.Name)
	}
	slices.Sort(names)
	return strings.Join(names, " "), err
}

func (f *fixture) wantClaimed(set *appsv1.ReplicaSet, want string) {
	f.Helper()
	if got, err := f.claim(set); err != nil || got != want {
		f.Errorf("claimed %q, %v, want %q", got, err, want)
	}
}

func TestClaim(t *testing.T) {
	f := start(t)
	web, other := f.set("web"), f.set("other")
	f.pod("owned", "web", web)
	f.pod("relabeled", "quarantine", web)
	f.pod("orphan", "web", nil)
	f.pod("stranger", "db", nil)
	f.pod("others", "web", other)
	// Each was changed after the cache delivered it: Claim decides by the stored state.
	f.pod("lost", "web", nil)
	controlplanetest.Modify(t, f.r, kinds.Pods, "", "default", "lost", func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(other, kinds.ReplicaSets.GVK)}
	})
	f.pod("changed", "web", nil)
	controlplanetest.Modify(t, f.r, kinds.Pods, "", "default", "changed", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} })
	f.pod("back", "quarantine", web)
	controlplanetest.Modify(t, f.r, kinds.Pods, "", "default", "back", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
	f.pod("gone", "web", nil)
	if _, _, err := f.r.Delete(t.Context(), kinds.Pods, "default", "gone", nil); err != nil {
		t.Fatal(err)
	}
	f.wantClaimed(web, "orphan owned")
	for name, want := range map[string]*appsv1.ReplicaSet{
		"owned": web, "orphan": web, "back": web, "others": other, "lost": other, "relabeled": nil, "stranger": nil, "changed": nil,
	} {
		ref := metav1.GetControllerOf(f.stored(name))
		if want == nil && ref != nil || want != nil && (ref == nil || ref.UID != want.UID) {
			t.Errorf("%s is controlled by %+v", name, ref)
		}
	}
	if ref := metav1.GetControllerOf(f.stored("orphan")); ref.APIVersion != "apps/v1" || ref.Kind != "ReplicaSet" || ref.Name != "web" || !ptr.Deref(ref.BlockOwnerDeletion, false) {
		t.Errorf("the adopted pod has %+v", ref)
	}
	// Its own writes count before the cache delivers them: the released pod is an orphan, the adopted one is not adopted again.
	f.wantClaimed(web, "orphan owned")
}

// An owner that is deleted or being deleted in the store adopts nothing, whatever its loop's cache has.
func TestAdoptionAsksTheStore(t *testing.T) {
	orphaning := &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationOrphan)}
	background := &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
	for name, tt := range map[string]struct {
		options  *metav1.DeleteOptions
		replaced bool
		want     string
	}{
		"going":    {options: orphaning, want: "default/web has just been deleted at"},
		"gone":     {options: background, want: "can't recheck DeletionTimestamp: "},
		"replaced": {options: background, replaced: true, want: "original ReplicaSet default/web is gone: got uid"},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t)
			web := f.set("web")
			f.pod("a", "web", nil)
			f.pod("b", "web", nil)
			if _, _, err := f.r.Delete(t.Context(), kinds.ReplicaSets, "default", "web", tt.options); err != nil {
				t.Fatal(err)
			}
			if tt.replaced {
				f.set("web")
			}
			_, err := f.claim(web)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Count(err.Error(), "can't adopt Pod default/") != 1 {
				t.Errorf("claim: %v, want one \"can't adopt Pod\" with %q", err, tt.want)
			}
			if refs := append(f.stored("a").OwnerReferences, f.stored("b").OwnerReferences...); len(refs) != 0 {
				t.Errorf("adopted by an owner that is %s: %+v", name, refs)
			}
		})
	}
}

func TestOwnerThatIsDeletedKeepsWhatItHas(t *testing.T) {
	f := start(t)
	web := f.set("web")
	web.DeletionTimestamp = ptr.To(metav1.Now())
	f.pod("owned", "web", web)
	f.pod("relabeled", "quarantine", web)
	f.pod("orphan", "web", nil)
	f.wantClaimed(web, "owned")
	if f.stored("relabeled").OwnerReferences == nil || f.stored("orphan").OwnerReferences != nil {
		t.Error("an owner that is being deleted released or adopted")
	}
}

func TestOwnWritesCountBeforeTheCacheHasThem(t *testing.T) {
	f := start(t)
	web := f.set("web")
	a, b := f.pod("a", "web", web), f.pod("b", "web", web)
	made, err := f.pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "c", Namespace: "default", Labels: a.Labels, OwnerReferences: a.OwnerReferences}, Spec: a.Spec,
	})
	if err != nil {
		t.Fatal(err)
	}
	f.wantClaimed(web, "a b c")
	if deleted, err := f.pods.Delete(t.Context(), a); !deleted || err != nil {
		t.Fatal(deleted, err)
	}
	f.wantClaimed(web, "b c")
	// An older state of the pod, delivered late, does not bring it back.
	f.pods.deliver(nil, a, controller.Revision(a))
	f.wantClaimed(web, "b c")
	f.pods.deliver(a, nil, controller.Revision(a)+1)
	f.wantClaimed(web, "b c")
	// The cache delivered the deletion before this loop asked for it, and it has another pod of the name by now.
	if deleted, err := f.pods.Delete(t.Context(), a); deleted || err != nil {
		t.Error("a pod that is gone:", deleted, err)
	}
	again := f.pod("a", "web", web)
	if deleted, err := f.pods.Delete(t.Context(), a); deleted || err != nil {
		t.Error("a pod that was replaced:", deleted, err)
	}
	f.wantClaimed(web, "a b c")
	// A changed one is deleted by Delete only.
	controlplanetest.Modify(t, f.r, kinds.Pods, "", "default", "b", func(p *corev1.Pod) { p.Annotations = map[string]string{"seen": "no"} })
	if deleted, err := f.pods.DeleteUnchanged(t.Context(), b); deleted || err != nil {
		t.Error("a pod that changed:", deleted, err)
	}
	f.wantClaimed(web, "a b c")
	// Nothing is written when the loop has ended.
	ended, end := context.WithCancel(t.Context())
	end()
	if deleted, err := f.pods.Delete(ended, again); deleted || err == nil {
		t.Error("after the end:", deleted, err)
	}
	if _, err := f.pods.Create(ended, made); err == nil {
		t.Error("created after the end")
	}
	f.wantClaimed(web, "a b c")
	if len(f.pods.deleting) != 0 {
		t.Errorf("still waits for the deletion of %v", f.pods.deleting)
	}
}

// A deletion that the cache never shows is no longer expected after five minutes, as in Kubernetes.
func TestDeletionThatIsNeverSeenTimesOut(t *testing.T) {
	f := start(t)
	web := f.set("web")
	a := f.pod("a", "web", web)
	if _, err := f.pods.Delete(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	f.clock.SetTime(f.clock.Now().Add(5 * time.Minute))
	f.wantClaimed(web, "")
	f.clock.SetTime(f.clock.Now().Add(time.Second))
	f.wantClaimed(web, "a")
}

// A change queues exactly the owners that it concerns.
func TestObserveEnqueuesOwners(t *testing.T) {
	f := start(t)
	web, other := f.set("web"), f.set("other")
	f.pod("owned", "web", web)
	f.pod("stranger", "db", nil)
	queue := make(chan controller.Key, 100)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	f.pods.Observe(ctx, &wg, func(key controller.Key) { queue <- key })
	next := func(what string, want ...string) {
		t.Helper()
		var got []string
		for range want {
			select {
			case key := <-queue:
				got = append(got, key.Name)
			case <-time.After(time.Minute):
				t.Fatalf("%s: enqueued %v, want %v", what, got, want)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: enqueued %v, want %v", what, got, want)
		}
	}
	next("what there was", "web")
	change := func(change func(*corev1.Pod)) {
		controlplanetest.Modify(t, f.r, kinds.Pods, "", "default", "owned", change)
	}
	change(func(p *corev1.Pod) { p.Labels = map[string]string{"app": "db"} })
	next("other labels", "web")
	change(func(p *corev1.Pod) { p.OwnerReferences = nil })
	next("released, and nobody selects it", "web")
	change(func(p *corev1.Pod) { p.Labels = map[string]string{"app": "web"} })
	next("an orphan that both select", "other", "web")
	change(func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(other, kinds.ReplicaSets.GVK)}
	})
	next("adopted", "other")
	if _, _, err := f.r.Delete(t.Context(), kinds.Pods, "default", "owned", nil); err != nil {
		t.Fatal(err)
	}
	next("deleted", "other")
}
