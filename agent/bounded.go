package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// apiTimeout bounds a request to the API server that is no watch: a server that accepts requests and never answers must not
// block the caller. The time to read a long list counts too.
const apiTimeout = time.Minute

// boundedTransport gives every request that is no watch a time limit, whether or not its caller set one. Watches end when
// their connection does: HTTP/2 pings an idle one.
type boundedTransport struct {
	http.RoundTripper
	bound time.Duration
	// reason is added to the error of a request that timed out; optional.
	reason func() string
	// unanswered is called when a renewal of the node's lease is not answered within leaseAnsweredWithin; optional.
	unanswered func()
}

// leases is the path below which nodes' leases are.
const leases = "/apis/coordination.k8s.io/v1/namespaces/" + corev1.NamespaceNodeLease + "/leases/"

// RoundTrip implements http.RoundTripper.
func (t *boundedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Query().Get("watch") != "" {
		return t.RoundTripper.RoundTrip(request)
	}
	if t.unanswered != nil && request.Method == http.MethodPut && strings.HasPrefix(request.URL.Path, leases) {
		answer := time.AfterFunc(leaseAnsweredWithin, t.unanswered)
		defer answer.Stop()
	}
	late := fmt.Errorf("%s %s%s: the API server has not answered for %v", request.Method, request.URL.Host, request.URL.Path, t.bound)
	ctx, cancel := context.WithTimeoutCause(request.Context(), t.bound, late)
	response, err := t.RoundTripper.RoundTrip(request.WithContext(ctx))
	if err != nil {
		if errors.Is(context.Cause(ctx), late) {
			err = late
			if t.reason != nil {
				err = fmt.Errorf("%w%s", late, t.reason())
			}
		}
		cancel()
		return nil, err
	}
	response.Body = &boundedBody{response.Body, cancel}
	return response, nil
}

// boundedBody releases the timeout's timer when it is closed.
type boundedBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *boundedBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}
