package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/connections"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
)

const (
	agentDialTimeout = 5 * time.Second
	agentPort        = 10250
	// hostAnswerTimeout is longer than a retransmission of a lost SYN would be worth: whoever asks will ask again.
	hostAnswerTimeout = 300 * time.Millisecond
)

// agents connects to the agents' HTTPS servers.
type agents struct {
	registry  *resource.Registry
	transport *http.Transport
}

func newAgents(registry *resource.Registry, authority *pki.PKI) *agents {
	a := &agents{registry: registry}
	a.transport = &http.Transport{
		DialContext:         a.dial,
		TLSClientConfig:     authority.AgentTLS(),
		TLSHandshakeTimeout: agentDialTimeout,
		// Streams change their protocol, which HTTP/2 cannot do.
		ForceAttemptHTTP2:   false,
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}
	return a
}

// of makes a connection to one node's agent for each request: a request with a body cannot be sent again when a kept connection turns out
// to lead to an agent that has ended. The libraries that carry streams dial themselves, with the server name that is set here. What they
// have dialled is closed when request ends, which they may not notice while one side reads nothing.
func (a *agents) of(request context.Context, nodeName string) *http.Transport {
	fresh := a.transport.Clone()
	fresh.DialContext = endsWith(request, a.dial)
	fresh.DisableKeepAlives = true
	fresh.TLSClientConfig.ServerName = pki.AgentHost(nodeName)
	return fresh
}

type dial func(ctx context.Context, network, address string) (net.Conn, error)

// endsWith closes the dialled connection when ctx ends.
func endsWith(ctx context.Context, by dial) dial {
	return func(dialing context.Context, network, address string) (net.Conn, error) {
		conn, err := by(dialing, network, address)
		if err == nil {
			context.AfterFunc(ctx, func() { connections.Abort(conn) })
		}
		return conn, err
	}
}

func (a *agents) close() { a.transport.CloseIdleConnections() }

// dial connects to an agent, whose host in URLs is its node's name: the address is looked up here, once, so that the address that is
// checked is the one that is dialled, and a kept connection stays its node's even if another node claims the address later.
func (a *agents) dial(ctx context.Context, network, host string) (net.Conn, error) {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		return nil, err
	}
	name, ok := pki.NodeOfAgent(name)
	if !ok {
		return nil, fmt.Errorf("%q is not the name of a node's agent", host)
	}
	node, err := resource.Get[*corev1.Node](ctx, a.registry, kinds.Nodes, "", name)
	if err != nil {
		return nil, err
	}
	address, err := agentAddress(node)
	if err != nil {
		return nil, err
	}
	return agentDialer.DialContext(ctx, network, address.String())
}

var agentDialer = &net.Dialer{Timeout: agentDialTimeout, KeepAlive: 15 * time.Second}

// agentAddress returns where a node's agent listens, from the node's status. Nodes write that themselves: an address that cannot be another
// host's is not dialled, and the server that answers has to prove that it is the node.
func agentAddress(node *corev1.Node) (netip.AddrPort, error) {
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = agentPort
	}
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		addr, err := netip.ParseAddr(address.Address)
		if addr = addr.Unmap(); err != nil || !addr.IsGlobalUnicast() || addr.Zone() != "" || port > 65535 || port < 0 {
			return netip.AddrPort{}, apierrors.NewBadRequest("address not allowed")
		}
		return netip.AddrPortFrom(addr, uint16(port)), nil
	}
	return netip.AddrPort{}, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q reports no InternalIP yet", node.Name))
}

// HostAnswers says whether a node's host answers a connection to its agent, also by refusing it: the kernel does so whether the agent
// lives or not. It waits for a moment only.
func HostAnswers(ctx context.Context, node *corev1.Node) bool {
	address, err := agentAddress(node)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, hostAnswerTimeout)
	defer cancel()
	conn, err := agentDialer.DialContext(ctx, "tcp", address.String())
	if err == nil {
		_ = conn.Close()
	}
	return err == nil || errors.Is(err, syscall.ECONNREFUSED)
}

// location returns the URL of a path at a node's agent.
func (a *agents) location(ctx context.Context, nodeName, path string, query url.Values) (*url.URL, error) {
	node, err := resource.Get[*corev1.Node](ctx, a.registry, kinds.Nodes, "", nodeName)
	if err != nil {
		return nil, err
	}
	if _, err := agentAddress(node); err != nil {
		return nil, err
	}
	return agentURL(nodeName, path, query), nil
}

func agentURL(nodeName, path string, query url.Values) *url.URL {
	return &url.URL{Scheme: "https", Host: agentHost(nodeName), Path: path, RawQuery: query.Encode()}
}

func agentHost(nodeName string) string {
	return net.JoinHostPort(pki.AgentHost(nodeName), strconv.Itoa(agentPort))
}

// beside connects to another server on a node, at the address at which the node's agent has just proved that it is the node: no node can
// lead the API server to loopback, to itself or into networks that only the API server can reach.
func (a *agents) beside(ctx context.Context, node *corev1.Node, port string) (net.Conn, error) {
	agent, err := agentAddress(node)
	if err != nil {
		return nil, err
	}
	proof, err := a.handshake(ctx, node.Name, agent)
	if err != nil {
		return nil, err
	}
	proof.Close()
	return agentDialer.DialContext(ctx, "tcp", net.JoinHostPort(agent.Addr().String(), port))
}

// handshake connects to the agent of a node, which has proved its identity when handshake returns.
func (a *agents) handshake(ctx context.Context, nodeName string, address netip.AddrPort) (*tls.Conn, error) {
	config := a.transport.TLSClientConfig.Clone()
	config.ServerName = pki.AgentHost(nodeName)
	dialer := &tls.Dialer{NetDialer: agentDialer, Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("the agent at %s cannot be reached: %w", address, err)
	}
	return conn.(*tls.Conn), nil
}

// unreachable is the answer when no connection to an agent can be made.
func unreachable(host string, err error) error {
	name, _, _ := strings.Cut(host, ":")
	name, _ = pki.NodeOfAgent(name)
	return statusError(http.StatusBadGateway, "BadGateway", fmt.Sprintf("error dialing backend: the agent of node %s cannot be reached: %v", name, err))
}
