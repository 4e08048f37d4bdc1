package apiserver

import (
	"net/http"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/resource"
)

// scaleOf returns an object's current and desired replicas as a Scale.
func scaleOf(kind *resource.Kind, obj resource.Object) *autoscalingv1.Scale {
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec: autoscalingv1.ScaleSpec{Replicas: kind.Scale.Replicas(obj)},
		Status: autoscalingv1.ScaleStatus{
			Replicas: kind.Scale.Current(obj), Selector: kind.Scale.Selector(obj),
		},
	}
	scale.SetGroupVersionKind(resource.ScaleKind)
	return scale
}

func (s *Server) getScale(w http.ResponseWriter, c *call) error {
	o, err := negotiate(c.Request, c.query, false, false)
	if err != nil {
		return err
	}
	obj, err := s.registry.Get(c.Context(), c.kind.Stored(), c.namespace, c.name, c.query.Get("resourceVersion"))
	if err != nil {
		return err
	}
	writeObject(w, c.Request, o, http.StatusOK, scaleOf(c.kind, obj))
	return nil
}

func (s *Server) updateScale(w http.ResponseWriter, c *call) error {
	var options metav1.UpdateOptions
	if err := decodeOptions(c.query, &options); err != nil {
		return err
	}
	if err := invalidOptions("UpdateOptions", metavalidation.ValidateUpdateOptions(&options)); err != nil {
		return err
	}
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	if err := decodeBody(w, c.Header.Get("Content-Type"), body, resource.ScaleKind, scale, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	return s.changeScale(w, c, resource.UpdateOptions{
		DryRun: isDryRun(options.DryRun), FieldManager: fieldManager(options.FieldManager, c.UserAgent()),
	}, func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error) { return scale, nil })
}

func (s *Server) patchScale(w http.ResponseWriter, c *call) error {
	p, err := readPatch(w, c)
	if err != nil {
		return err
	}
	if p.kind == types.ApplyYAMLPatchType {
		return s.applyScale(w, c, p)
	}
	return s.changeScale(w, c, p.updateOptions(c), func(current *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		scale := &autoscalingv1.Scale{}
		return scale, p.apply(current, scale)
	})
}

// scaleChange makes a new scale from the current one, and the record of who set which fields of the object.
type scaleChange func(*autoscalingv1.Scale, *resource.ScaleFields) (*autoscalingv1.Scale, []metav1.ManagedFieldsEntry, error)

// changeScale writes the scale that change makes from the current one, in the name of the manager in options.
func (s *Server) changeScale(w http.ResponseWriter, c *call, options resource.UpdateOptions,
	change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) error {
	return s.writeScale(w, c, options, func(current *autoscalingv1.Scale, fields *resource.ScaleFields) (*autoscalingv1.Scale, []metav1.ManagedFieldsEntry, error) {
		scale, err := change(current)
		if err != nil {
			return nil, nil, err
		}
		entries, err := fields.Update(current, scale, options.FieldManager)
		return scale, entries, err
	})
}

// writeScale sets the replicas to those that change makes from the current scale. A resource version or a UID in the scale must
// be the object's.
func (s *Server) writeScale(w http.ResponseWriter, c *call, options resource.UpdateOptions, change scaleChange) error {
	o, err := negotiate(c.Request, c.query, false, false)
	if err != nil {
		return err
	}
	options.FieldsTracked = true
	changed, err := s.registry.Modify(c.Context(), c.kind.Stored(), "", c.namespace, c.name, options,
		func(current resource.Object) (resource.Object, error) {
			fields, err := c.kind.Stored().ScaleFields(current)
			if err != nil {
				return nil, err
			}
			scale, entries, err := change(scaleOf(c.kind, current), fields)
			if err != nil {
				return nil, err
			}
			if err := matchNamespace(c, scale); err != nil {
				return nil, err
			}
			if err := matchName(scale, c.name); err != nil {
				return nil, err
			}
			if scale.UID != "" && scale.UID != current.GetUID() {
				return nil, apierrors.NewConflict(c.groupResource(), c.name, uidMismatch(string(scale.UID), string(current.GetUID())))
			}
			if scale.Spec.Replicas < 0 {
				return nil, apierrors.NewInvalid(resource.ScaleKind.GroupKind(), c.name, field.ErrorList{
					field.Invalid(field.NewPath("spec", "replicas"), strconv.Itoa(int(scale.Spec.Replicas)), "must be greater than or equal to 0"),
				})
			}
			obj := current.DeepCopyObject().(resource.Object)
			c.kind.Scale.SetReplicas(obj, scale.Spec.Replicas)
			obj.SetManagedFields(entries)
			if scale.ResourceVersion != "" {
				obj.SetResourceVersion(scale.ResourceVersion)
			}
			return obj, nil
		})
	if err != nil {
		return err
	}
	writeObject(w, c.Request, o, http.StatusOK, scaleOf(c.kind, changed))
	return nil
}
