package apiserver

import (
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

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

// evict answers POST on a pod's eviction: a deletion, since nothing here limits how many pods may be disrupted.
func (s *Server) evict(w http.ResponseWriter, c *call) error {
	body, err := readBody(c.Request)
	if err != nil {
		return err
	}
	eviction := &policyv1.Eviction{}
	if err := decodeBody(w, c.Header.Get("Content-Type"), body, policyv1.SchemeGroupVersion.WithKind("Eviction"), eviction, metav1.FieldValidationWarn); err != nil {
		return err
	}
	if err := matchNamespace(c, eviction); err != nil {
		return err
	}
	if err := matchName(eviction, c.name); err != nil {
		return err
	}
	options := eviction.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(options)); err != nil {
		return err
	}
	if isTrue(c.query, "dryRun") {
		options.DryRun = c.query["dryRun"]
	}
	if _, _, err := s.registry.Delete(c.Context(), kinds.Pods, c.namespace, c.name, options); err != nil {
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
