package resource

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// errModified is Kubernetes' text for an update that was made from an old state.
var errModified = errors.New("the object has been modified; please apply your changes to the latest version and try again")

func (k *Kind) notFound(name string) error { return apierrors.NewNotFound(k.GroupResource(), name) }

func (k *Kind) conflict(name string, err error) error {
	return apierrors.NewConflict(k.GroupResource(), name, err)
}

// maxErrors is how many faults of one object are listed.
const maxErrors = 100

func (k *Kind) invalid(name string, errs field.ErrorList) error {
	if len(errs) > maxErrors { // putting their texts together takes the square of their number
		more := fmt.Errorf("%d more faults are not listed", len(errs)-maxErrors)
		errs = append(errs[:maxErrors:maxErrors], field.InternalError(field.NewPath("others"), more))
	}
	return apierrors.NewInvalid(k.GVK.GroupKind(), name, errs)
}

// StoreError turns an error of the store into a Status. The error of a request that its client gave up stays as it is.
func StoreError(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case errors.Is(err, watchcache.ErrClosed):
		return apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "", 0, false)
	case errors.Is(err, context.DeadlineExceeded):
		return apierrors.NewTimeoutError(err.Error(), 0)
	case errors.Is(err, storage.ErrTooLarge):
		return apierrors.NewRequestEntityTooLargeError(err.Error())
	}
	return apierrors.NewInternalError(err)
}

// versionOnCreate is Kubernetes' answer, a plain 500, to a create with a resource version.
func versionOnCreate() error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status:  metav1.StatusFailure,
		Code:    http.StatusInternalServerError,
		Message: "resourceVersion should not be set on objects to be created",
	}}
}

// expired makes a 410, so that clients list again.
func expired(err error) error { return apierrors.NewResourceExpired(err.Error()) }

// tooNew makes the error that a revision has not been reached, in the form that makes clients retry.
func tooNew(want, have int64) error {
	err := apierrors.NewTimeoutError(fmt.Sprintf("Too large resource version: %d, current: %d", want, have), 1)
	err.ErrStatus.Details.Causes = []metav1.StatusCause{{
		Type:    metav1.CauseTypeResourceVersionTooLarge,
		Message: "Too large resource version",
	}}
	return err
}

// check says whether an object meets the preconditions of a change.
func (k *Kind) check(p *metav1.Preconditions, obj Object) error {
	if p == nil {
		return nil
	}
	if p.UID != nil && *p.UID != obj.GetUID() {
		return k.conflict(obj.GetName(), fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, obj.GetUID()))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != obj.GetResourceVersion() {
		return k.conflict(obj.GetName(), fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v",
			*p.ResourceVersion, obj.GetResourceVersion()))
	}
	return nil
}

// Modified is the conflict of a change with an earlier one.
func (k *Kind) Modified(name string) error { return k.conflict(name, errModified) }
