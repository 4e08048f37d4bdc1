package apiserver

import (
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

// get answers with one object, or with its status subresource, which shows the whole object too.
func (s *Server) get(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	var options metav1.GetOptions
	if err := decodeOptions(c.query, &options); err != nil {
		return err
	}
	obj, err := s.registry.Get(c.Context(), c.kind, c.namespace, c.name, options.ResourceVersion)
	if err != nil {
		return err
	}
	return s.respond(w, c, o, http.StatusOK, obj)
}

// list answers with the objects of a kind that the selectors pick.
func (s *Server) list(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	options, err := listOptions(c)
	if err != nil {
		return err
	}
	list, err := s.registry.List(c.Context(), c.kind, c.namespace, registryList(options))
	if err != nil {
		return err
	}
	return s.respondList(w, c, o, list)
}

// listOptions reads and checks the options that list, watch and deletecollection share.
func listOptions(c *call) (*internalversion.ListOptions, error) {
	options := &internalversion.ListOptions{}
	if err := decodeOptions(c.query, options); err != nil {
		return nil, err
	}
	options.Watch = options.Watch || c.verb == "watch"
	internalversion.SetListOptionsDefaults(options, true)
	if errs := internalvalidation.ValidateListOptions(options, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	if err := selectable(c.kind, options.FieldSelector); err != nil {
		return nil, err
	}
	if c.name != "" { // …/watch/…/NAME
		byName := fields.OneTermEqualSelector("metadata.name", c.name)
		if options.FieldSelector == nil {
			options.FieldSelector = byName
		} else {
			options.FieldSelector = fields.AndSelectors(options.FieldSelector, byName)
		}
	}
	return options, nil
}

// selectable refuses a selector on a field that the kind cannot be selected by: ignoring it would answer with too much.
func selectable(kind *resource.Kind, selector fields.Selector) error {
	if selector == nil || selector.Empty() {
		return nil
	}
	for _, requirement := range selector.Requirements() {
		if field := requirement.Field; field != "metadata.namespace" && !kind.Selectable(field) {
			return apierrors.NewBadRequest("field label not supported: " + field)
		}
	}
	return nil
}

func registryList(o *internalversion.ListOptions) resource.ListOptions {
	return resource.ListOptions{
		LabelSelector: o.LabelSelector, FieldSelector: o.FieldSelector,
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
		Limit: o.Limit, Continue: o.Continue,
	}
}

// respond answers with an object in the shape that the client asked for.
func (s *Server) respond(w http.ResponseWriter, c *call, o output, code int, obj resource.Object) error {
	switch o.shape {
	case shapeTable:
		t, err := s.table(c, o, []resource.Object{obj}, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, false)
		if err != nil {
			return err
		}
		writeObject(w, c.Request, o, code, t)
	case shapeMetadata:
		writeObject(w, c.Request, o, code, o.metadata(obj))
	case shapeMetaList:
		return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
			"you requested PartialObjectMetadataList, but the requested object is not a list")
	default:
		writeObject(w, c.Request, o, code, obj)
	}
	return nil
}

// metadata returns an object's metadata alone.
func (o *output) metadata(obj metav1.Object) *metav1.PartialObjectMetadata {
	partial := meta.AsPartialObjectMetadata(obj)
	partial.SetGroupVersionKind(o.shapeKind("PartialObjectMetadata"))
	return partial
}

// respondList answers with a list in the shape that the client asked for. In its own shape and the usual formats the list
// is assembled from the items' bytes, which the cache keeps, and not encoded again.
func (s *Server) respondList(w http.ResponseWriter, c *call, o output, list *resource.List) error {
	listMeta := metav1.ListMeta{
		ResourceVersion: strconv.FormatInt(list.Revision, 10), Continue: list.Continue, RemainingItemCount: list.Remaining,
	}
	switch {
	case o.shape == shapeTable:
		objects := make([]resource.Object, len(list.Objects))
		for i, obj := range list.Objects {
			objects[i] = obj.Value()
		}
		t, err := s.table(c, o, objects, listMeta, false)
		if err != nil {
			return err
		}
		writeObject(w, c.Request, o, http.StatusOK, t)
	case o.shape == shapeMetaList || o.shape == shapeMetadata:
		if o.shape == shapeMetadata {
			return statusError(http.StatusNotAcceptable, metav1.StatusReasonNotAcceptable,
				"you requested PartialObjectMetadata, but the requested object is a list")
		}
		partial := &metav1.PartialObjectMetadataList{ListMeta: listMeta, Items: make([]metav1.PartialObjectMetadata, len(list.Objects))}
		partial.SetGroupVersionKind(o.shapeKind("PartialObjectMetadataList"))
		for i, obj := range list.Objects {
			partial.Items[i] = *o.metadata(obj.Value())
		}
		writeObject(w, c.Request, o, http.StatusOK, partial)
	case o.pretty || o.format == yamlFormat:
		typed, err := typedList(c.kind, list.Objects, listMeta)
		if err != nil {
			return err
		}
		writeObject(w, c.Request, o, http.StatusOK, typed)
	default:
		chunks, err := o.format.joinList(c.kind, listMeta, list.Objects)
		if err != nil {
			return err
		}
		writeBytes(w, c.Request, o.format.mediaType, http.StatusOK, chunks...)
	}
	return nil
}

// typedList makes the list type of a kind. Its items share what they point to with the cache.
func typedList(kind *resource.Kind, objects []*watchcache.Object, listMeta metav1.ListMeta) (runtime.Object, error) {
	list := kind.NewList()
	items := make([]runtime.Object, len(objects))
	for i, obj := range objects {
		item, err := kind.In(obj.Value())
		if err != nil {
			return nil, err
		}
		items[i] = item
	}
	if err := meta.SetList(list, items); err != nil {
		return nil, err
	}
	accessor, err := meta.ListAccessor(list)
	if err != nil {
		return nil, err
	}
	accessor.SetResourceVersion(listMeta.ResourceVersion)
	accessor.SetContinue(listMeta.Continue)
	accessor.SetRemainingItemCount(listMeta.RemainingItemCount)
	list.GetObjectKind().SetGroupVersionKind(kind.GVK.GroupVersion().WithKind(kind.GVK.Kind + "List"))
	return list, nil
}
