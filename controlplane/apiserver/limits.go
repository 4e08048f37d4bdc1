package apiserver

import (
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Default numbers of requests worked on at once. Watches and proxied streams do not count: they last for hours and cost
// nothing while nothing happens.
const (
	defaultReads   = 400
	defaultChanges = 200
)

// limits bounds the requests in work, reads and changes apart, so that a burst of lists cannot keep the agents' status
// and leases out.
type limits struct{ reads, changes chan struct{} }

func newLimits(reads, changes int) limits {
	if reads <= 0 {
		reads = defaultReads
	}
	if changes <= 0 {
		changes = defaultChanges
	}
	return limits{make(chan struct{}, reads), make(chan struct{}, changes)}
}

// enter takes a place, or says that there is none: the client should come back in a second.
func (l limits) enter(method string) (leave func(), err error) {
	places := l.changes
	if method == http.MethodGet || method == http.MethodHead {
		places = l.reads
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, apierrors.NewTooManyRequests("too many requests, please try again later", 1)
	}
}
