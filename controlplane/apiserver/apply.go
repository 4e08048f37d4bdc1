package apiserver

import (
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/controlplane/resource"
)

// apply answers a PATCH that is a server-side apply to an object, or to its status.
func (s *Server) apply(w http.ResponseWriter, c *call, o output, p *objectPatch) error {
	patch, err := p.applied(c)
	if err != nil {
		return err
	}
	obj, created, err := s.registry.Apply(c.Context(), c.kind, c.subresource, c.namespace, c.name, patch, p.applyOptions(s, c))
	if err != nil {
		return err
	}
	s.warnOf(w, c.kind, obj)
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	return s.respond(w, c, o, code, obj)
}

// applyScale is apply for the scale of an object.
func (s *Server) applyScale(w http.ResponseWriter, c *call, p *objectPatch) error {
	patch, err := p.applied(c)
	if err != nil {
		return err
	}
	return s.writeScale(w, c, p.updateOptions(c), func(current *autoscalingv1.Scale, fields *resource.ScaleFields) (*autoscalingv1.Scale, []metav1.ManagedFieldsEntry, error) {
		return fields.Apply(current, patch, p.applyOptions(s, c))
	})
}

// applyOptions are those of the patch. Whoever may patch an object need not be allowed to create it.
func (p *objectPatch) applyOptions(s *Server, c *call) resource.ApplyOptions {
	return resource.ApplyOptions{
		DryRun: isDryRun(p.options.DryRun), FieldManager: p.options.FieldManager, Force: ptr.Deref(p.options.Force, false),
		MayCreate: func() error { return s.authorize(c.Context(), c.target.attributes(c.user, "create")) },
	}
}

// applied reads what is applied: a part of an object in YAML, whose name and namespace are those of the path.
func (p *objectPatch) applied(c *call) (*unstructured.Unstructured, error) {
	patch := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal(p.body, &patch.Object); err != nil {
		return nil, apierrors.NewBadRequest("error decoding patch: " + truncated(err.Error(), maxValueShown))
	}
	if patch.Object == nil {
		patch.Object = map[string]any{}
	}
	if p.validation != metav1.FieldValidationIgnore {
		if err := yaml.UnmarshalStrict(p.body, &map[string]any{}); err != nil {
			text := truncated(err.Error(), maxValueShown)
			if p.validation == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest("error strict decoding patch: " + text)
			}
			warn(p.w, text)
		}
	}
	for _, field := range []string{"name", "namespace"} { // what is no string would be taken for missing, and filled in
		if _, _, err := unstructured.NestedString(patch.Object, "metadata", field); err != nil {
			return nil, apierrors.NewBadRequest("error decoding patch: " + truncated(err.Error(), maxValueShown))
		}
	}
	if err := matchNamespace(c, patch); err != nil {
		return nil, err
	}
	return patch, matchName(patch, c.name)
}
