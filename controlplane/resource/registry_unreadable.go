package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apistorage "k8s.io/apiserver/pkg/storage"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// maxUnreadableCauses is how many objects a list's error names, as in kube-apiserver.
const maxUnreadableCauses = 100

// corrupt is kube-apiserver's error for a stored object that cannot be read.
func corrupt(key string, err error) error {
	return apistorage.NewCorruptObjError(key, err)
}

// Decode reads a stored value, or returns kube-apiserver's error for one that cannot be read.
func (k *Kind) Decode(kv storage.KeyValue) (*watchcache.Object, error) {
	if kv.Err != nil {
		return nil, corrupt(kv.Key, kv.Err)
	}
	decoded, err := k.codec().Decode(kv.Value, kv.ModRevision)
	if err != nil {
		return nil, corrupt(kv.Key, err)
	}
	obj, ok := decoded.(Object)
	if !ok {
		return nil, corrupt(kv.Key, fmt.Errorf("object not decodable revision=%d: %T is not an API object", kv.ModRevision, decoded))
	}
	return watchcache.NewObject(kv.Key, kv.ModRevision, obj), nil
}

// stale says whether an object would be stored in another form now, as after the
// key that encrypts was changed. A write that changes nothing else writes it then.
func (r *Registry) stale(ctx context.Context, key string) bool {
	kv, err := r.store.Get(ctx, key)
	return err == nil && kv.Stale
}

// Unreadable returns the objects of a kind that cannot be decoded.
func (r *Registry) Unreadable(k *Kind) []watchcache.Unreadable {
	return r.Cache(k).Unreadable(k.Prefix())
}

// Reread reads again what could not be decoded.
func (r *Registry) Reread() {
	for _, c := range r.set.now.Load().caches {
		c.Reread()
	}
}

// complete is kube-apiserver's error for a list that would leave out an object
// that is stored: one that cannot be decoded and of which no earlier state is
// known. Agents and controllers then keep what they have, instead of taking the
// object for deleted. An object with an earlier state is shown in that state.
func (r *Registry) complete(k *Kind, s *selector) error {
	prefix := k.prefix(s.namespace)
	if s.name != "" && (s.namespace != "" || !k.Namespaced) {
		prefix = k.Key(s.namespace, s.name)
	}
	var hidden []watchcache.Unreadable
	for _, u := range r.Cache(k).Unreadable(prefix) {
		if !u.Kept && (s.name == "" || strings.HasSuffix(u.Key, "/"+s.name)) {
			hidden = append(hidden, u)
		}
	}
	if len(hidden) == 0 {
		return nil
	}
	message := fmt.Sprintf("failed to read one or more %s from the storage: %v", k.GroupResource(), corrupt(hidden[0].Key, hidden[0].Err))
	if len(hidden) > 1 {
		message = fmt.Sprintf("%s (and %d more)", message, len(hidden)-1)
	}
	var causes []metav1.StatusCause
	for i, u := range hidden {
		if i == maxUnreadableCauses {
			causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: "too many errors, the list is truncated"})
			break
		}
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Field: u.Key, Message: corrupt(u.Key, u.Err).Error()})
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError,
		Details: &metav1.StatusDetails{Group: k.GVK.Group, Kind: k.Resource, Name: "list", Causes: causes},
		Message: message,
	}}
}

// deleteUnreadable removes a stored object that cannot be decoded, without waiting for
// finalizers, grace or dependents. It refuses any other object.
func (r *Registry) deleteUnreadable(ctx context.Context, k *Kind, key, name string, dryRun bool) error {
	kv, err := r.store.Get(ctx, key)
	if errors.Is(err, storage.ErrNotFound) {
		return k.notFound(name)
	}
	if err != nil {
		return StoreError(ctx, err)
	}
	if _, err := k.Decode(kv); err == nil {
		return apierrors.NewConflict(k.GroupResource(), name, apistorage.NewInvalidObjError(key,
			"ignoreStoreReadErrorWithClusterBreakingPotential is only for an object that cannot be read, and this one can"))
	}
	tx := Tx{
		Guards: []storage.Guard{{Key: key, ModRevision: kv.ModRevision}},
		Ops:    []storage.Op{{Key: key, Delete: true}},
	}
	if old, ok := r.Cache(k).Get(key); ok {
		// What was allocated with its last known state is free again.
		if err := r.allocate(ctx, k, &tx, "", nil, old.Value()); err != nil {
			return err
		}
	}
	if dryRun {
		return nil
	}
	var changed *storage.ConflictError
	switch _, err := r.store.Commit(ctx, tx.Guards, tx.Ops); {
	case errors.As(err, &changed):
		return k.conflict(name, errModified)
	case err != nil:
		return StoreError(ctx, err)
	}
	slog.Warn("Stored object that cannot be decoded is deleted on request, without regard to its finalizers", "key", key, "revision", kv.ModRevision)
	return nil
}
