package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/identity"
)

// delete answers DELETE on an object: with the object while its deletion waits, and with a Status once it is removed, except for the kinds
// for which Kubernetes returns the object even then.
func (s *Server) delete(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	options, err := deleteOptions(c)
	if err != nil {
		return err
	}
	if err := c.mayDeleteUnreadable(options); err != nil {
		return err
	}
	obj, removed, err := s.registry.Delete(c.Context(), c.kind, c.namespace, c.name, options)
	if err != nil {
		return err
	}
	if obj == nil { // it could not be read
		writeObject(w, c.Request, o, http.StatusOK, &metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
			Details: &metav1.StatusDetails{Name: c.name, Group: c.group, Kind: c.resource},
		})
		return nil
	}
	code := http.StatusOK
	//lint:ignore SA1019 clients from before propagationPolicy still send it
	if orphan := options.OrphanDependents; !removed && orphan != nil && !*orphan {
		code = http.StatusAccepted
	}
	if removed && !c.kind.ReturnsDeleted {
		writeObject(w, c.Request, o, code, &metav1.Status{
			TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess,
			Details: &metav1.StatusDetails{Name: c.name, Group: c.group, Kind: c.resource, UID: obj.GetUID()},
		})
		return nil
	}
	return s.respond(w, c, o, code, obj)
}

// mayDeleteUnreadable lets only an administrator delete an object that cannot be read, since that ignores its finalizers.
func (c *call) mayDeleteUnreadable(options *metav1.DeleteOptions) error {
	if identity.Master(c.user) || !ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil
	}
	a := c.attributes()
	a.Verb = "unsafe-delete-ignore-read-errors"
	return forbidden(a, "")
}

// deleteCollection answers DELETE on a collection.
func (s *Server) deleteCollection(w http.ResponseWriter, c *call) error {
	o, err := c.negotiate(false)
	if err != nil {
		return err
	}
	selected, err := listOptions(c)
	if err != nil {
		return err
	}
	options, err := deleteOptions(c)
	if err != nil {
		return err
	}
	list, err := s.registry.DeleteCollection(c.Context(), c.kind, c.namespace, options, registryList(selected))
	if err != nil {
		return err
	}
	return s.respondList(w, c, o, list)
}

// deleteOptions reads the options from the body, or from the query where there is no body.
func deleteOptions(c *call) (*metav1.DeleteOptions, error) {
	body, err := readBody(c.Request)
	if err != nil {
		return nil, err
	}
	options := &metav1.DeleteOptions{}
	if len(body) > 0 {
		f, err := inputFormat(c.Header.Get("Content-Type"))
		if err != nil {
			return nil, err
		}
		// The options may come as those of the resource's own group: the type is the same.
		kind := schema.GroupVersionKind{Version: "v1", Kind: "DeleteOptions"}
		obj, _, err := f.decoder.Decode(body, &kind, options)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		decoded, ok := obj.(*metav1.DeleteOptions)
		if !ok {
			return nil, apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
		}
		options = decoded
	} else if err := decodeOptions(c.query, options); err != nil {
		return nil, err
	}
	return options, invalidOptions("DeleteOptions", metavalidation.ValidateDeleteOptions(options))
}
