package apiserver

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// PodRanges are the ranges of pods' addresses.
type PodRanges interface {
	// Added are those that were added since the cluster's start.
	Added() []netip.Prefix
	List(ctx context.Context) (*skepv1.PodRangeList, error)
	// Add adds a range for a client.
	Add(ctx context.Context, prefix netip.Prefix, client string) error
}

// servePodRanges answers the administrator; anyone else is refused before this.
func (s *Server) servePodRanges(w http.ResponseWriter, c *call) error {
	if s.podRanges == nil {
		return notFound()
	}
	list := func(w http.ResponseWriter, c *call) error {
		ranges, err := s.podRanges.List(c.Context())
		if err != nil {
			return err
		}
		return answerJSON(w, c, ranges)
	}
	return s.only(w, c, map[string]handler{http.MethodGet: list, http.MethodPost: func(w http.ResponseWriter, c *call) error {
		body, err := readBody(c.Request)
		if err != nil {
			return err
		}
		var asked skepv1.PodRange
		if err := json.Unmarshal(body, &asked); err != nil {
			return apierrors.NewBadRequest("pod range: " + err.Error())
		}
		if err := s.podRanges.Add(c.Context(), asked.CIDR, c.RemoteAddr); err != nil {
			return err
		}
		return list(w, c)
	}})
}
