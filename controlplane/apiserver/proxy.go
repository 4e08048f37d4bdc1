package apiserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// nodeProxy answers nodes/NAME/proxy/…: it passes on what the agent serves there, or another server on the node for
// nodes/[SCHEME:]NAME:PORT/proxy/….
func (s *Server) nodeProxy(w http.ResponseWriter, c *call) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid node request %q", c.name))
	}
	node, err := resource.Get[*corev1.Node](c.Context(), s.registry, kinds.Nodes, "", name)
	if err != nil {
		return err
	}
	address, err := agentAddress(node)
	if err != nil {
		return err
	}
	if port != "" && port != strconv.Itoa(int(address.Port())) {
		location := &url.URL{Scheme: scheme, Host: net.JoinHostPort(address.Addr().String(), port), Path: c.rest}
		s.proxyTo(w, c, location, &http.Transport{
			DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return s.agents.beside(ctx, node, port) },
			TLSClientConfig: anyCertificate(), DisableKeepAlives: true,
		})
		return nil
	}
	location := agentURL(name, c.rest, c.query)
	if location.Path == "" {
		location.Path = "/"
	}
	s.carry(w, c, func(w http.ResponseWriter, c *call) { s.proxy(c, name, location, false).ServeHTTP(w, forAgent(c)) })
	return nil
}

// podProxy answers pods/[SCHEME:]NAME[:PORT]/proxy/…: it passes on what the pod serves there, by default on the pod's first named port.
func (s *Server) podProxy(w http.ResponseWriter, c *call) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", c.name))
	}
	pod, err := current[*corev1.Pod](c.Context(), s, kinds.Pods, c.namespace, name)
	if err != nil {
		return err
	}
	for i := 0; port == "" && i < len(pod.Spec.Containers); i++ {
		if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
			port = strconv.Itoa(int(ports[0].ContainerPort))
		}
	}
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil || !ip.IsGlobalUnicast() {
		return apierrors.NewBadRequest("address not allowed")
	}
	host := net.JoinHostPort(pod.Status.PodIP, port)
	if port == "" {
		host = host[:len(host)-1]
	}
	return s.proxyToPod(w, c, pod, &url.URL{Scheme: scheme, Host: host, Path: c.rest})
}

// serviceProxy answers services/[SCHEME:]NAME[:PORT]/proxy/…: what one of the service's ready pods serves at the port, which
// is named or numbered as in the service.
func (s *Server) serviceProxy(w http.ResponseWriter, c *call) error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", c.name))
	}
	service, err := current[*corev1.Service](c.Context(), s, kinds.Services, c.namespace, name)
	if err != nil {
		return err
	}
	if number, err := strconv.ParseInt(port, 10, 32); err == nil {
		if port, ok = portNamed(service, int32(number)); !ok {
			return apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", number, name))
		}
	}
	list, err := s.registry.List(c.Context(), kinds.EndpointSlices, c.namespace,
		resource.ListOptions{LabelSelector: labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})})
	if err != nil {
		return err
	}
	var slices []*discoveryv1.EndpointSlice
	for _, obj := range list.Objects {
		slices = append(slices, obj.Value().(*discoveryv1.EndpointSlice))
	}
	family := corev1.IPFamilyUnknown
	if len(service.Spec.IPFamilies) > 0 {
		family = service.Spec.IPFamilies[0]
	}
	var chosen *corev1.Pod
	host, err := streamproxy.RandomEndpoint(name, slices, port, family, func(endpoint *discoveryv1.Endpoint) bool {
		chosen = s.podBehind(c.Context(), c.namespace, endpoint)
		return chosen != nil
	})
	if err != nil {
		return err
	}
	return s.proxyToPod(w, c, chosen, &url.URL{Scheme: scheme, Host: host, Path: c.rest})
}

// current reads an object as the store has it: a client that has just created a pod or a service must find it.
func current[T resource.Object](ctx context.Context, s *Server, kind *resource.Kind, namespace, name string) (T, error) {
	obj, err := s.registry.Get(ctx, kind, namespace, name, "")
	if err != nil {
		var none T
		return none, err
	}
	return obj.(T), nil
}

func portNamed(service *corev1.Service, number int32) (name string, ok bool) {
	for _, port := range service.Spec.Ports {
		if port.Port == number {
			return port.Name, true
		}
	}
	return "", false
}

// podBehind returns the pod that an endpoint is about, or nil: whoever may write endpoints must not reach other addresses
// through the API server.
func (s *Server) podBehind(ctx context.Context, namespace string, endpoint *discoveryv1.Endpoint) *corev1.Pod {
	ref := endpoint.TargetRef
	if ref == nil || ref.Namespace != namespace || len(endpoint.Addresses) == 0 {
		return nil
	}
	pod, err := current[*corev1.Pod](ctx, s, kinds.Pods, namespace, ref.Name)
	if err != nil {
		return nil
	}
	for _, ip := range pod.Status.PodIPs {
		if ip.IP == endpoint.Addresses[0] {
			return pod
		}
	}
	return nil
}

// proxyToPod goes through the agent of the pod's node, which certainly has a route to the pod.
func (s *Server) proxyToPod(w http.ResponseWriter, c *call, pod *corev1.Pod, location *url.URL) error {
	node, err := resource.Get[*corev1.Node](c.Context(), s.registry, kinds.Nodes, "", pod.Spec.NodeName)
	if err != nil {
		return err
	}
	agent, err := agentAddress(node)
	if err != nil {
		return err
	}
	s.proxyTo(w, c, location, s.agents.through(node.Name, agent))
	return nil
}

// proxyTo answers with the response of a server outside of the control plane, and rewrites links in its pages to lead through this proxy. A
// path without its trailing slash is redirected, as relative links need the slash.
func (s *Server) proxyTo(w http.ResponseWriter, c *call, location *url.URL, transport *http.Transport) {
	s.carry(w, c, func(w http.ResponseWriter, c *call) {
		transport.DialContext = endsWith(c.Context(), transport.DialContext)
		proxy.NewUpgradeAwareHandler(location, transport, true, false, backendErrors{}).ServeHTTP(w, forAgent(c))
	})
}

// anyCertificate is for servers in pods and on nodes, whose authority is unknown.
func anyCertificate() *tls.Config {
	return &tls.Config{InsecureSkipVerify: true} //nolint:gosec // as Kubernetes does, and documents
}

// backendErrors answers for a server that could not be reached.
type backendErrors struct{}

func (backendErrors) Error(w http.ResponseWriter, r *http.Request, err error) {
	if status := apierrors.APIStatus(nil); !asStatus(err, &status) {
		err = apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
	}
	writeError(w, r, err)
}
