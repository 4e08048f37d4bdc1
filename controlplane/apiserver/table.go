package apiserver

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/resource"
)

// table prints objects as the client's options say. headed leaves the columns out, as in all but a watch's first event.
func (s *Server) table(c *call, o output, objects []resource.Object, listMeta metav1.ListMeta, headed bool) (*metav1.Table, error) {
	options := metav1.TableOptions{NoHeaders: headed}
	switch policy := metav1.IncludeObjectPolicy(c.query.Get("includeObject")); policy {
	case "", metav1.IncludeNone, metav1.IncludeMetadata, metav1.IncludeObject:
		options.IncludeObject = policy
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Unable to convert to Table as requested: includeObject: Invalid value: %q: must be 'Metadata', 'Object', 'None', or empty", policy))
	}
	table, err := c.kind.Table(objects, options)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	table.ListMeta = listMeta
	table.SetGroupVersionKind(o.shapeKind("Table"))
	return table, nil
}
