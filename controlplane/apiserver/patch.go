package apiserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/skep-io/skep/controlplane/resource"
)

// maxPatchOperations is how many operations one JSON patch may have: each copies the whole document.
const maxPatchOperations = 10000

// All copy operations of a JSON patch together may copy as much as a body may hold: each may double the document.
func init() { jsonpatch.AccumulatedCopySizeLimit = maxBody }

// patchTypes are the supported patches, in the order in which a 415 lists them.
var patchTypes = []string{string(types.JSONPatchType), string(types.MergePatchType), string(types.StrategicMergePatchType), string(types.ApplyYAMLPatchType)}

// objectPatch is a patch as a client sent it.
type objectPatch struct {
	kind       types.PatchType
	body       []byte
	options    metav1.PatchOptions
	validation string
	w          http.ResponseWriter
	// warned is set after the first application: a patch is applied again after a conflict, but its warnings are returned once.
	warned bool
}

// patchOperation is an element of a JSON patch. Clients whose patch is no list see this name in the error.
type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	From  string `json:"from"`
	Value any    `json:"value"`
}

// readPatch reads and checks everything about a patch that does not depend on the object.
func readPatch(w http.ResponseWriter, c *call) (*objectPatch, error) {
	mediaType, _, err := mime.ParseMediaType(c.Header.Get("Content-Type"))
	p := &objectPatch{kind: types.PatchType(mediaType), w: w}
	switch p.kind {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType:
	default:
		err = errors.New("unknown")
	}
	if err != nil {
		return nil, unsupportedMediaType(patchTypes)
	}
	if p.kind == types.StrategicMergePatchType && c.kind != nil && c.kind.Unstructured {
		return nil, unsupportedMediaType(patchTypes[:2]) // they have no Go type whose tags say how to merge
	}
	if err := decodeOptions(c.query, &p.options); err != nil {
		return nil, err
	}
	if err := invalidOptions("PatchOptions", metavalidation.ValidatePatchOptions(&p.options, p.kind)); err != nil {
		return nil, err
	}
	p.validation = fieldValidation(p.options.FieldValidation)
	p.body, err = readBody(c.Request)
	return p, err
}

func (p *objectPatch) updateOptions(c *call) resource.UpdateOptions {
	return resource.UpdateOptions{DryRun: isDryRun(p.options.DryRun), FieldManager: fieldManager(p.options.FieldManager, c.UserAgent())}
}

// patch answers PATCH on an object and on its status.
func (s *Server) patch(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	p, err := readPatch(w, c)
	if err != nil {
		return err
	}
	if p.kind == types.ApplyYAMLPatchType {
		return s.apply(w, c, o, p)
	}
	changes := p.updateOptions(c)
	patched, err := s.registry.Modify(c.Context(), c.kind, c.subresource, c.namespace, c.name, changes,
		func(current resource.Object) (resource.Object, error) {
			obj := c.kind.New()
			if err := p.apply(current, obj); err != nil {
				return nil, err
			}
			obj.GetObjectKind().SetGroupVersionKind(c.kind.GVK)
			if err := matchNamespace(c, obj); err != nil {
				return nil, err
			}
			return obj, matchName(obj, c.name)
		})
	if err != nil {
		return err
	}
	s.warnOf(w, c.kind, patched)
	return s.respond(w, c, o, http.StatusOK, patched)
}

// apply sets into to the result of the patch on current, which is not changed.
func (p *objectPatch) apply(current, into runtime.Object) error {
	defer func() { p.warned = true }()
	if p.kind == types.StrategicMergePatchType {
		return p.applyStrategic(current, into)
	}
	before, err := json.Marshal(current)
	if err != nil {
		return err
	}
	after, flaws, err := p.applyJSON(before)
	if err != nil {
		return err
	}
	more, err := kjson.UnmarshalStrict(after, into)
	if err != nil {
		return invalidPatch(string(after), err)
	}
	return p.check(append(flaws, more...), string(after))
}

// applyJSON applies a JSON patch or a merge patch to a document. The flaws are those of the patch itself.
func (p *objectPatch) applyJSON(before []byte) (after []byte, flaws []error, err error) {
	if p.kind == types.MergePatchType {
		var fields map[string]any
		if flaws, err = kjson.UnmarshalStrict(p.body, &fields); err != nil {
			return nil, nil, apierrors.NewBadRequest("error decoding patch: " + truncated(err.Error(), maxValueShown))
		}
		after, err = jsonpatch.MergePatch(before, p.body)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		return after, flaws, nil
	}
	var shape []patchOperation
	if flaws, err = kjson.UnmarshalStrict(p.body, &shape); err != nil {
		return nil, nil, apierrors.NewBadRequest("error decoding patch: " + truncated(err.Error(), maxValueShown))
	}
	for i := range flaws {
		flaws[i] = fmt.Errorf("json patch %w", flaws[i])
	}
	if len(shape) > maxPatchOperations {
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf(
			"The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(shape)))
	}
	operations, err := jsonpatch.DecodePatch(p.body)
	if err != nil {
		return nil, nil, apierrors.NewBadRequest(err.Error())
	}
	after, err = operations.Apply(before)
	var copied *jsonpatch.AccumulatedCopySizeError
	switch {
	case errors.As(err, &copied):
		return nil, nil, apierrors.NewRequestEntityTooLargeError(err.Error())
	case err != nil:
		return nil, nil, statusError(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "the server rejected our request due to an error in our request: "+truncated(err.Error(), maxValueShown))
	case len(after) > maxBody:
		return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the object would have %d bytes after the patch, limit is %d", len(after), maxBody))
	}
	return after, flaws, nil
}

// applyStrategic merges by the keys that the Go types of the API are tagged with.
func (p *objectPatch) applyStrategic(current, into runtime.Object) error {
	before, err := runtime.DefaultUnstructuredConverter.ToUnstructured(current)
	if err != nil {
		return err
	}
	patch := map[string]any{}
	flaws, err := kjson.UnmarshalStrict(p.body, &patch)
	if err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	after, err := strategicpatch.StrategicMergeMapPatch(before, patch, into)
	switch {
	case errors.Is(err, mergepatch.ErrBadJSONDoc), errors.Is(err, mergepatch.ErrBadPatchFormatForPrimitiveList),
		errors.Is(err, mergepatch.ErrBadPatchFormatForRetainKeys), errors.Is(err, mergepatch.ErrBadPatchFormatForSetElementOrderList),
		errors.Is(err, mergepatch.ErrUnsupportedStrategicMergePatchFormat):
		return apierrors.NewBadRequest(err.Error())
	case err != nil:
		return statusError(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "the patch could not be applied: "+err.Error())
	}
	err = runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(after, into, true)
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		flaws = append(flaws, strict.Errors()...)
	} else if err != nil {
		return invalidPatch(string(p.body), err)
	}
	return p.check(flaws, string(p.body))
}

// check refuses, warns of or ignores fields that are unknown or given twice.
func (p *objectPatch) check(flaws []error, value string) error {
	switch {
	case len(flaws) == 0 || p.validation == metav1.FieldValidationIgnore:
	case p.validation == metav1.FieldValidationStrict:
		return invalidPatch(value, runtime.NewStrictDecodingError(flaws))
	case !p.warned:
		warnAll(p.w, errorTexts(flaws))
	}
	return nil
}

// maxValueShown is how much of a client's body an error repeats.
const maxValueShown = 4 << 10

func invalidPatch(value string, err error) error {
	value = truncated(value, maxValueShown)
	return apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), value, truncated(err.Error(), maxValueShown))})
}
