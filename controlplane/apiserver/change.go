package apiserver

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/skep-io/skep/controlplane/resource"
)

// createOptions reads the options of a POST from its query.
func createOptions(c *call) (options metav1.CreateOptions, err error) {
	if err := decodeOptions(c.query, &options); err != nil {
		return options, err
	}
	return options, invalidOptions("CreateOptions", metavalidation.ValidateCreateOptions(&options))
}

// create answers POST on a collection.
func (s *Server) create(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	options, err := createOptions(c)
	if err != nil {
		return err
	}
	obj, err := s.readObject(w, c, options.FieldValidation)
	if err != nil {
		return err
	}
	created, err := s.registry.Create(c.Context(), c.kind, obj, resource.CreateOptions{
		DryRun: isDryRun(options.DryRun), FieldManager: fieldManager(options.FieldManager, c.UserAgent()),
	})
	if err != nil {
		return err
	}
	s.warnOf(w, c.kind, created)
	return s.respond(w, c, o, http.StatusCreated, created)
}

// update answers PUT on an object and on its status.
func (s *Server) update(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	var options metav1.UpdateOptions
	if err := decodeOptions(c.query, &options); err != nil {
		return err
	}
	if err := invalidOptions("UpdateOptions", metavalidation.ValidateUpdateOptions(&options)); err != nil {
		return err
	}
	obj, err := s.readObject(w, c, options.FieldValidation)
	if err != nil {
		return err
	}
	if err := matchName(obj, c.name); err != nil {
		return err
	}
	updated, err := s.registry.Update(c.Context(), c.kind, c.subresource, obj, resource.UpdateOptions{
		DryRun: isDryRun(options.DryRun), FieldManager: fieldManager(options.FieldManager, c.UserAgent()),
	})
	if err != nil {
		return err
	}
	s.warnOf(w, c.kind, updated)
	return s.respond(w, c, o, http.StatusOK, updated)
}

// readObject reads the body as an object of the request's kind and namespace.
func (s *Server) readObject(w http.ResponseWriter, c *call, validation string) (resource.Object, error) {
	body, err := readBody(c.Request)
	if err != nil {
		return nil, err
	}
	obj := c.kind.New()
	if f, err := inputFormat(c.Header.Get("Content-Type")); err == nil && f == protobufFormat && c.kind.Unstructured {
		return nil, unsupportedMediaType([]string{mediaJSON, mediaYAML})
	}
	if err := decodeBody(w, c.Header.Get("Content-Type"), body, c.kind.GVK, obj, fieldValidation(validation)); err != nil {
		return nil, err
	}
	return obj, matchNamespace(c, obj)
}

// matchNamespace makes an object's namespace that of the path, and refuses another one.
func matchNamespace(c *call, obj metav1.Object) error {
	if obj.GetNamespace() == "" {
		obj.SetNamespace(c.namespace)
	}
	if obj.GetNamespace() != c.namespace {
		if c.namespace == "" {
			return apierrors.NewBadRequest("the namespace of the provided object does not match the namespace sent on the request")
		}
		return apierrors.NewBadRequest(fmt.Sprintf("the namespace of the provided object does not match the namespace sent on the request: %q is not %q",
			obj.GetNamespace(), c.namespace))
	}
	return nil
}

// matchName makes an object's name that of the path, and refuses another one.
func matchName(obj metav1.Object, name string) error {
	if obj.GetName() == "" {
		obj.SetName(name)
	}
	if obj.GetName() != name {
		return apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), name))
	}
	return nil
}

// warnOf sends the client the kind's warnings about an object that was accepted.
func (s *Server) warnOf(w http.ResponseWriter, kind *resource.Kind, obj resource.Object) {
	if kind.Warnings == nil {
		return
	}
	warnAll(w, kind.Warnings(obj))
}

func invalidOptions(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

func isDryRun(directives []string) bool { return slices.Contains(directives, metav1.DryRunAll) }

// fieldManager is who a change is recorded for: the option, else the first word of the user agent.
func fieldManager(option, userAgent string) string {
	if option != "" {
		return option
	}
	name, _, _ := strings.Cut(userAgent, "/")
	name = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, name)
	if len(name) > metavalidation.FieldManagerMaxLength {
		name = name[:metavalidation.FieldManagerMaxLength]
	}
	return strings.ToValidUTF8(name, "")
}
