package apiserver

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// attributes are what a decision is made of.
type attributes struct {
	target
	verb          string
	path          string // of a request that is not about a resource
	fieldSelector string
}

var readVerbs = []string{"get", "list", "watch"}
var changeVerbs = []string{"create", "update", "patch"}

// authorize says whether id may do what a asks for; the error is the 403 that the client sees. What depends on the object
// in the body is decided later, by restrict.
func (s *Server) authorize(id identity, a attributes) error {
	if id.master() {
		return nil
	}
	if a.resource == "" {
		if a.verb == "get" && (isDiscoveryPath(a.path) || a.path == skepv1.PathNetwork && id.node() != "") {
			return nil
		}
		return forbidden(id, a, "")
	}
	if a.verb == "create" && selfReviewOf(a.target) != nil {
		return nil
	}
	node := id.node()
	if node == "" {
		return forbidden(id, a, "")
	}
	if reason, ok := s.nodeMay(node, a); !ok {
		return forbidden(id, a, reason)
	}
	return nil
}

// nodeMay holds the rules for agents: what every node needs to route traffic, and otherwise only what concerns the node
// itself, so that a stolen node certificate opens one node and not the cluster.
func (s *Server) nodeMay(node string, a attributes) (reason string, ok bool) {
	reads := slices.Contains(readVerbs, a.verb)
	changes := slices.Contains(changeVerbs, a.verb)
	switch a.group + "/" + a.resource {
	case "/services", "/endpoints", "/namespaces", "discovery.k8s.io/endpointslices":
		return "", reads && a.subresource == ""
	case "/nodes":
		if reads && a.subresource == "" {
			return "", true
		}
		own := a.name == node || (a.verb == "create" && a.name == "")
		return fmt.Sprintf("node '%s' cannot change node '%s'", node, a.name), own && changes && (a.subresource == "" || a.subresource == "status")
	case "coordination.k8s.io/leases":
		own := a.namespace == corev1.NamespaceNodeLease && (a.name == node || (a.verb == "create" && a.name == ""))
		return "can only access node lease with the same name as the requesting node", own && a.subresource == "" && (a.verb == "get" || changes || a.verb == "delete")
	case "/events", "events.k8s.io/events":
		return "", changes && a.subresource == ""
	case "/pods":
		return s.nodeMayPods(node, a)
	case "/secrets", "/configmaps":
		name := a.name
		if name == "" {
			name = exactField(a.fieldSelector, "metadata.name")
		}
		return fmt.Sprintf("no relationship found between node '%s' and this object", node),
			reads && a.subresource == "" && name != "" && s.nodeRefers(node, a.resource, a.namespace, name)
	}
	return "", false
}

func (s *Server) nodeMayPods(node string, a attributes) (reason string, ok bool) {
	if (a.verb == "list" || a.verb == "watch") && a.subresource == "" {
		return "can only list/watch pods with spec.nodeName field selector", exactField(a.fieldSelector, "spec.nodeName") == node
	}
	reason = fmt.Sprintf("node '%s' is not the one that the pod is bound to", node)
	if a.name == "" || !s.podOnNode(node, a.namespace, a.name) {
		return reason, false
	}
	switch {
	case a.subresource == "" && (a.verb == "get" || a.verb == "delete"):
		return "", true
	case a.subresource == "status" && (a.verb == "get" || a.verb == "update" || a.verb == "patch"):
		return "", true
	case a.subresource == "eviction" && a.verb == "create":
		return "", true
	}
	return "", false
}

// podOnNode says whether a pod is bound to a node. A pod that does not exist belongs to nobody.
func (s *Server) podOnNode(node, namespace, name string) bool {
	pod, err := resource.Get[*corev1.Pod](s.stopping, s.registry, kinds.Pods, namespace, name)
	return err == nil && pod.Spec.NodeName == node
}

// nodeRefers says whether a pod bound to the node refers to a secret or a config map.
func (s *Server) nodeRefers(node, kind, namespace, name string) bool {
	for _, pod := range resource.ByIndex[*corev1.Pod](s.registry, kinds.Pods, kinds.PodsByNode, node) {
		if pod.Namespace == namespace && podRefers(pod, kind, name) {
			return true
		}
	}
	return false
}

func exactField(selector, field string) string {
	parsed, err := fields.ParseSelector(selector)
	if err != nil {
		return ""
	}
	value, _ := parsed.RequiresExactMatch(field)
	return value
}

func forbidden(id identity, a attributes, reason string) error {
	var message string
	resourceName := a.resource
	if a.subresource != "" {
		resourceName += "/" + a.subresource
	}
	switch {
	case a.resource == "":
		message = fmt.Sprintf("User %q cannot %s path %q", id.name, a.verb, a.path)
	case a.namespace != "":
		message = fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q", id.name, a.verb, resourceName, a.group, a.namespace)
	default:
		message = fmt.Sprintf("User %q cannot %s resource %q in API group %q at the cluster scope", id.name, a.verb, resourceName, a.group)
	}
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(a.resourceVersion().GroupResource(), a.name, fmt.Errorf("%s", message))
}

// discoveryRules are the paths that only tell what the API is, which every authenticated client may read.
var discoveryRules = []string{
	"/", "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/livez/*", "/openapi/*", "/readyz", "/readyz/*", "/version", "/version/*",
}

func isDiscoveryPath(path string) bool {
	return slices.ContainsFunc(discoveryRules, func(rule string) bool {
		prefix, isPrefix := strings.CutSuffix(rule, "*")
		return path == rule || (isPrefix && strings.HasPrefix(path, prefix))
	})
}
