package resource_test

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/storage"
)

// A registry that has read an object keeps showing it when its value breaks; one that starts after that fails the lists
// that would leave it out, as kube-apiserver does: an agent takes what a list leaves out for deleted.
func TestUnreadableObjects(t *testing.T) {
	r, store := newRegistry(t)
	create(t, r, kinds.Pods, pod("broken", "node1"))
	create(t, r, kinds.Pods, pod("whole", "node1"))
	ctx := testContext(t)
	const key = "/registry/pods/default/broken"
	revision, err := store.Commit(ctx, nil, []storage.Op{{Key: key, Value: []byte("k8s\x00\xff\xff")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cache(kinds.Pods).WaitUntil(ctx, revision); err != nil {
		t.Fatal(err)
	}
	list, err := r.List(ctx, kinds.Pods, "", resource.ListOptions{})
	if err != nil || len(list.Objects) != 2 {
		t.Errorf("the list has %v (%v), want both pods", list, err)
	}
	_, err = r.Get(ctx, kinds.Pods, "default", "broken", "")
	if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), "StorageError: corrupt object, Code: 7, Key: "+key) {
		t.Errorf("get: %v, want kube-apiserver's error of a corrupt object", err)
	}

	late := runRegistry(t, store)
	for what, check := range map[string]func() error{
		"list": func() error { _, err := late.List(ctx, kinds.Pods, "", resource.ListOptions{}); return err },
		"list of its own": func() error {
			_, err := late.List(ctx, kinds.Pods, "default", resource.ListOptions{ResourceVersion: "0"})
			return err
		},
		"watch": func() error { _, err := late.Watch(ctx, kinds.Pods, "", resource.WatchOptions{}); return err },
	} {
		if err := check(); apierrors.ReasonForError(err) != metav1.StatusReasonStoreReadError || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v, want StoreReadError with the key", what, err)
		}
	}
	for what, check := range map[string]func() error{
		"list of another namespace": func() error {
			_, err := late.List(ctx, kinds.Pods, "kube-system", resource.ListOptions{})
			return err
		},
		"get of another": func() error { _, err := late.Get(ctx, kinds.Pods, "default", "whole", "0"); return err },
	} {
		if err := check(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := late.Get(ctx, kinds.Pods, "default", "broken", "0"); !apierrors.IsInternalError(err) {
		t.Errorf("get from the cache: %v, want an error that is not NotFound", err)
	}

	if _, _, err := late.Delete(ctx, kinds.Pods, "default", "broken", nil); !apierrors.IsInternalError(err) {
		t.Errorf("delete: %v, want the error of reading", err)
	}
	force := &metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: ptr.To(true)}
	if _, _, err := late.Delete(ctx, kinds.Pods, "default", "whole", force); !apierrors.IsConflict(err) {
		t.Errorf("delete of a readable object by force: %v, want a refusal", err)
	}
	if _, err := late.DeleteCollection(ctx, kinds.Pods, "default", force, resource.ListOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("delete of a collection by force: %v, want Invalid", err)
	}
	if _, gone, err := late.Delete(ctx, kinds.Pods, "default", "broken", force); err != nil || !gone {
		t.Fatalf("delete by force: %v", err)
	}
	if list, err := late.List(ctx, kinds.Pods, "", resource.ListOptions{}); err != nil || len(list.Objects) != 1 {
		t.Errorf("afterwards the list has %v (%v), want one pod", list, err)
	}
	if list, err := r.List(ctx, kinds.Pods, "", resource.ListOptions{}); err != nil || len(list.Objects) != 1 {
		t.Errorf("afterwards the first registry's list has %v (%v), want one pod", list, err)
	}
}
