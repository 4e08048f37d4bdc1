package resource

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// Version is a further group and version in which the objects of a kind are read and written. They are stored, cached and known to
// control loops and plugins as the kind itself says; the scheme has the conversions and the defaults of the version, and says by
// which fields it is selected.
type Version struct {
	GVK     schema.GroupVersionKind
	New     func() Object
	NewList func() runtime.Object
	// ValidateCreate and ValidateUpdate are in place of the kind's, for objects that come in this version; they get them as they are
	// stored. Nil: the kind's.
	ValidateCreate func(Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
}

// AllVersions are the kind and one Kind for each of its further versions, which is read and written through the registry like any other.
func (k *Kind) AllVersions() []*Kind {
	all := []*Kind{k}
	for _, v := range k.Versions {
		stored := *k
		stored.base = k.Stored()
		if v.ValidateCreate != nil {
			stored.ValidateCreate = v.ValidateCreate
		}
		if v.ValidateUpdate != nil {
			stored.ValidateUpdate = v.ValidateUpdate
		}
		as := stored
		as.stored, as.GVK, as.New, as.NewList = &stored, v.GVK, v.New, v.NewList
		as.Default = func(obj Object) { scheme.Scheme.Default(obj) }
		if k.Warnings != nil {
			as.Warnings = func(obj Object) []string {
				in, err := stored.In(obj)
				if err != nil {
					return nil // what the registry has stored can be converted
				}
				return k.Warnings(in)
			}
		}
		all = append(all, &as)
	}
	return all
}

// Stored is the kind as it was registered, in the version in which its objects are stored.
func (k *Kind) Stored() *Kind {
	if k.base != nil {
		return k.base
	}
	return k
}

// Has says whether the kind is known by a name, in one of its versions' groups.
func (k *Kind) Has(gk schema.GroupKind) bool {
	for _, v := range k.Versions {
		if v.GVK.GroupKind() == gk {
			return true
		}
	}
	return k.GVK.GroupKind() == gk
}

// In returns an object of the kind in the kind's version: obj itself, if it has that version. It shares memory with obj.
func (k *Kind) In(obj Object) (Object, error) {
	if k.base == nil && len(k.Versions) == 0 || obj == nil {
		return obj, nil
	}
	if gvks, _, err := scheme.Scheme.ObjectKinds(obj); err == nil && gvks[0] == k.GVK {
		return obj, nil
	}
	in, err := k.internal(obj)
	if err != nil {
		return nil, err
	}
	out := k.New()
	if err := scheme.Scheme.Convert(in, out, nil); err != nil {
		return nil, fmt.Errorf("convert %s %q to %s: %w", k.GVK.Kind, obj.GetName(), k.GVK.GroupVersion(), err)
	}
	out.GetObjectKind().SetGroupVersionKind(k.GVK)
	return out, nil
}

// Encoded returns a cached object in the kind's version, as encode writes it. The cache keeps it by the content type and the version.
func (k *Kind) Encoded(o *watchcache.Object, contentType string, encode func(runtime.Object) ([]byte, error)) ([]byte, error) {
	if k.stored == nil {
		return o.Encoded(contentType, encode)
	}
	return o.Encoded(contentType+" "+k.GVK.GroupVersion().String(), func(obj runtime.Object) ([]byte, error) {
		shown, err := k.In(obj.(Object))
		if err != nil {
			return nil, err
		}
		return encode(shown)
	})
}

// internal is an object of any version in Kubernetes' internal type, to and from which all versions convert.
func (k *Kind) internal(obj Object) (runtime.Object, error) {
	in, err := scheme.Scheme.New(k.Stored().GVK.GroupKind().WithVersion(runtime.APIVersionInternal))
	if err == nil {
		err = scheme.Scheme.Convert(obj, in, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("convert %s %q from %T: %w", k.GVK.Kind, obj.GetName(), obj, err)
	}
	return in, nil
}

// convertingCodec reads objects in whichever version they were stored.
type convertingCodec struct {
	storage.Codec
	kind *Kind
}

func (c convertingCodec) Decode(data []byte, modRevision int64) (runtime.Object, error) {
	decoded, err := c.Codec.Decode(data, modRevision)
	obj, ok := decoded.(Object)
	if err != nil || !ok {
		return decoded, err
	}
	if obj, err = c.kind.Stored().In(obj); err != nil {
		return nil, fmt.Errorf("object not decodable revision=%d: %w", modRevision, err)
	}
	return obj, nil
}

// createIn is Create of an object in a further version.
func (r *Registry) createIn(ctx context.Context, k *Kind, obj Object, o CreateOptions) (Object, error) {
	k.Default(obj)
	stored, err := k.stored.In(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return k.converted(r.Create(ctx, k.stored, stored, o))
}

// modifyIn is ModifyWith of an object in a further version, which change sees and returns.
func (r *Registry) modifyIn(ctx context.Context, k *Kind, sub, ns, name string, o UpdateOptions, change func(Object, *Tx) (Object, error)) (Object, error) {
	return k.converted(r.ModifyWith(ctx, k.stored, sub, ns, name, o, func(current Object, tx *Tx) (Object, error) {
		shown, err := k.In(current)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		next, err := change(shown, tx)
		if err != nil {
			return nil, err
		}
		if next == shown {
			return current, nil
		}
		k.Default(next)
		if next, err = k.stored.In(next); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return next, nil
	}))
}

// deleteIn is Delete with its answer in a further version.
func (r *Registry) deleteIn(ctx context.Context, k *Kind, ns, name string, o *metav1.DeleteOptions) (Object, bool, error) {
	obj, gone, err := r.Delete(ctx, k.stored, ns, name, o)
	if obj != nil && err == nil {
		obj, err = k.converted(obj, nil)
	}
	return obj, gone, err
}

// converted is the registry's answer in the kind's version.
func (k *Kind) converted(obj Object, err error) (Object, error) {
	if err != nil {
		return nil, err
	}
	if obj, err = k.In(obj); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// storedFields is a field selector of a further version as one of the stored version.
func (k *Kind) storedFields(selector fields.Selector) (fields.Selector, error) {
	if k.stored == nil || selector == nil || selector.Empty() {
		return selector, nil
	}
	selector, err := selector.Transform(func(name, value string) (string, string, error) {
		return scheme.Scheme.ConvertFieldLabel(k.GVK, name, value)
	})
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return selector, nil
}
