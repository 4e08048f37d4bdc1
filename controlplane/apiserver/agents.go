package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	agentDialTimeout = 5 * time.Second
	agentPort        = 10250
)

// agents is the way to the agents' HTTPS servers.
type agents struct {
	registry  *resource.Registry
	transport *http.Transport
	// fresh makes a connection for each request. A request with a body cannot be
	// sent again when the kept connection turns out to be one to an agent that died.
	fresh *http.Transport
}

func newAgents(registry *resource.Registry, authority *pki.PKI) *agents {
	dialer := &net.Dialer{Timeout: agentDialTimeout, KeepAlive: 15 * time.Second}
	kept := &http.Transport{
		DialContext:         dialer.DialContext,
		TLSClientConfig:     authority.AgentTLS(),
		TLSHandshakeTimeout: agentDialTimeout,
		// Streams change their protocol, which HTTP/2 has no way for.
		ForceAttemptHTTP2:   false,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	fresh := kept.Clone()
	fresh.DisableKeepAlives = true
	return &agents{registry: registry, transport: kept, fresh: fresh}
}

func (a *agents) close() { a.transport.CloseIdleConnections() }

// agentAddress returns where a node's agent listens, as the node's status tells.
func agentAddress(node *corev1.Node) (string, error) {
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = agentPort
	}
	for _, address := range node.Status.Addresses {
		if address.Type == corev1.NodeInternalIP {
			return net.JoinHostPort(address.Address, strconv.Itoa(port)), nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has told no InternalIP yet", node.Name))
}

// location returns the URL of a path at a node's agent.
func (a *agents) location(ctx context.Context, nodeName, path string, query url.Values) (*url.URL, error) {
	node, err := resource.Get[*corev1.Node](ctx, a.registry, resource.Nodes, "", nodeName)
	if err != nil {
		return nil, err
	}
	address, err := agentAddress(node)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: address, Path: path, RawQuery: query.Encode()}, nil
}

// unreachable is the answer where the way to an agent ends before the agent.
func unreachable(host string, err error) error {
	return statusError(http.StatusBadGateway, "BadGateway", fmt.Sprintf("error dialing backend: the agent at %s cannot be reached: %v", host, err))
}
