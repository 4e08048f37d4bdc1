package resource

import (
	"context"
	"errors"
	"slices"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/storage"
)

const (
	// maxGeneratedName leaves room in a DNS label for the suffix of a generated name.
	maxGeneratedName = 63 - generatedSuffix
	generatedSuffix  = 5
	// maxGenerateAttempts is how many generated names are tried before "already exists" is returned.
	maxGenerateAttempts = 8
)

// Create stores an object and returns it as it was stored. The caller must not use obj afterwards.
func (r *Registry) Create(ctx context.Context, k *Kind, obj Object, o CreateOptions) (Object, error) {
	if k.stored != nil {
		return r.createIn(ctx, k, obj, o)
	}
	if v := obj.GetResourceVersion(); v != "" && v != "0" {
		return nil, versionOnCreate()
	}
	obj.SetResourceVersion("")
	obj.SetSelfLink("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	if !k.Namespaced {
		obj.SetNamespace("")
	} else if obj.GetNamespace() == "" {
		return nil, apierrors.NewBadRequest("an empty namespace may not be set during creation")
	}
	if k.Default != nil {
		k.Default(obj)
	}
	if !o.FieldsTracked {
		if err := k.track(ctx, "", obj, nil, o.FieldManager); err != nil {
			return nil, err
		}
	}
	change := attributes(ctx, k, "", admission.Create, obj.GetNamespace(), obj.GetName(), obj, nil, o.DryRun)
	if err := r.gate.admit(ctx, change); err != nil {
		return nil, err
	}
	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	k.prepareCreate(obj)
	for attempt := 1; ; attempt++ {
		if generated {
			obj.SetName(generateName(obj.GetGenerateName()))
		}
		created, err := r.insert(ctx, k, obj, change.GetName(), o)
		if !generated || attempt == maxGenerateAttempts || !apierrors.IsAlreadyExists(err) {
			return created, err
		}
	}
}

// prepareCreate sets the fields that only the server sets.
func (k *Kind) prepareCreate(obj Object) {
	if k.PrepareForCreate != nil {
		k.PrepareForCreate(obj)
	}
	if k.SpecChanged != nil {
		obj.SetGeneration(1)
	}
	obj.SetUID(uuid.NewUUID())
	obj.SetCreationTimestamp(now())
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
}

func generateName(base string) string {
	if len(base) > maxGeneratedName {
		base = base[:maxGeneratedName]
	}
	return base + rand.String(generatedSuffix)
}

// insert writes an object together with what is allocated for it, after which it is complete and can be validated. A refused object leaves
// nothing allocated: both are written in one transaction. Plugins see the name that was asked for.
func (r *Registry) insert(ctx context.Context, k *Kind, obj Object, asked string, o CreateOptions) (Object, error) {
	for range maxAttempts {
		var tx Tx
		stored := obj
		if r.config.Allocators[k.Stored()] != nil {
			// An attempt that fails must not leave its allocation in the object.
			stored = obj.DeepCopyObject().(Object)
			if err := r.allocate(ctx, k, &tx, "", stored, nil); err != nil {
				return nil, err
			}
		}
		if err := k.validateCreate(stored); err != nil {
			return nil, err
		}
		complete := attributes(ctx, k, "", admission.Create, stored.GetNamespace(), asked, stored, nil, o.DryRun)
		if err := r.gate.validate(ctx, complete); err != nil {
			return nil, err
		}
		key := k.Key(stored.GetNamespace(), stored.GetName())
		if o.DryRun {
			return stored, r.absent(ctx, k, key, stored.GetName())
		}
		value, err := k.Encode(stored)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		tx.Guards = append(tx.Guards, storage.Guard{Key: key})
		tx.Ops = append(tx.Ops, storage.Op{Key: key, Value: value, TTL: k.TTL})
		revision, err := r.store.Commit(ctx, tx.Guards, tx.Ops)
		var conflict *storage.ConflictError
		switch {
		case err == nil:
			stored.SetResourceVersion(strconv.FormatInt(revision, 10))
			return stored, nil
		case !errors.As(err, &conflict):
			return nil, StoreError(ctx, err)
		case slices.Contains(conflict.Keys, key):
			return nil, r.alreadyExists(ctx, k, key, stored.GetName())
		}
		if err := r.catchUp(ctx, conflict); err != nil {
			return nil, err
		}
	}
	return nil, k.conflict(obj.GetName(), errors.New("what was allocated to the object went to others at the same time, several times; please try again"))
}

// validateCreate validates a complete object.
func (k *Kind) validateCreate(obj Object) error {
	if k.ValidateCreate != nil {
		if errs := k.ValidateCreate(obj); len(errs) > 0 {
			return k.invalid(obj.GetName(), errs)
		}
	}
	if k.Canonicalize != nil {
		k.Canonicalize(obj)
	}
	return nil
}

func (r *Registry) absent(ctx context.Context, k *Kind, key, name string) error {
	switch _, err := r.store.Get(ctx, key); {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return StoreError(ctx, err)
	}
	return r.alreadyExists(ctx, k, key, name)
}

// alreadyExists also says whether the existing object is being deleted.
func (r *Registry) alreadyExists(ctx context.Context, k *Kind, key, name string) error {
	err := apierrors.NewAlreadyExists(k.GroupResource(), name)
	if o, getErr := r.Fresh(ctx, k, key, name); getErr == nil && o.Value().GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = "object is being deleted: " + err.ErrStatus.Message
	}
	return err
}
