package apiserver

import (
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/eviction"
	"github.com/skep-io/skep/controlplane/kinds"
)

// bind answers POST on bindings and on a pod's binding: it puts a pod on a node.
func (s *Server) bind(w http.ResponseWriter, c *call) error {
	options, err := createOptions(c)
	if err != nil {
		return err
	}
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	binding := &corev1.Binding{}
	kind := corev1.SchemeGroupVersion.WithKind("Binding")
	if err := decodeBody(w, c.Header.Get("Content-Type"), body, kind, binding, fieldValidation(options.FieldValidation)); err != nil {
		return err
	}
	if err := matchNamespace(c, binding); err != nil {
		return err
	}
	if c.name != "" {
		if err := matchName(binding, c.name); err != nil {
			return err
		}
	}
	var problems field.ErrorList
	if k := binding.Target.Kind; k != "" && k != "Node" {
		problems = append(problems, field.NotSupported(field.NewPath("target", "kind"), k, []string{"Node", "<empty>"}))
	}
	if binding.Target.Name == "" {
		problems = append(problems, field.Required(field.NewPath("target", "name"), ""))
	}
	if len(problems) > 0 {
		return apierrors.NewInvalid(kind.GroupKind(), binding.Name, problems)
	}
	if !isDryRun(options.DryRun) {
		if err := kinds.Bind(c.Context(), s.registry, []kinds.Binding{{
			Namespace: binding.Namespace, Name: binding.Name, UID: string(binding.UID), Node: binding.Target.Name,
		}})[0]; err != nil {
			return err
		}
	}
	return s.created(w, c)
}

// evict answers POST on a pod's eviction: a deletion that the pod's disruption budget has to allow.
func (s *Server) evict(w http.ResponseWriter, c *call) error {
	create, err := createOptions(c)
	if err != nil {
		return err
	}
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	posted := &policyv1.Eviction{}
	if err := decodeBody(w, c.Header.Get("Content-Type"), body, policyv1.SchemeGroupVersion.WithKind("Eviction"), posted, fieldValidation(create.FieldValidation)); err != nil {
		return err
	}
	if err := matchNamespace(c, posted); err != nil {
		return err
	}
	if err := matchName(posted, c.name); err != nil {
		return err
	}
	options := posted.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(options)); err != nil {
		return err
	}
	switch {
	case len(options.DryRun) == 0:
		options.DryRun = create.DryRun
	case len(create.DryRun) > 0 && !slices.Equal(create.DryRun, options.DryRun):
		return apierrors.NewBadRequest(fmt.Sprintf("Non-matching dry-run options in request and content: %v and %v", create.DryRun, options.DryRun))
	}
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), c.name, field.ErrorList{
			field.Invalid(field.NewPath("deleteOptions").Child("ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option"),
		})
	}
	if err := eviction.Evict(c.Context(), s.registry, c.namespace, c.name, options); err != nil {
		return err
	}
	return s.created(w, c)
}

// created answers with a Status of success, where no object was created.
func (s *Server) created(w http.ResponseWriter, c *call) error {
	o, err := negotiate(c.Request, c.query, false, false)
	if err != nil {
		o = output{format: jsonFormat} // it is done already
	}
	writeObject(w, c.Request, o, http.StatusCreated, &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated,
	})
	return nil
}

func uidMismatch(given, current string) error {
	return fmt.Errorf("Precondition failed: UID in precondition: %s, UID in object meta: %s", given, current)
}
