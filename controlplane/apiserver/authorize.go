package apiserver

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

var readVerbs = []string{"get", "list", "watch"}
var changeVerbs = []string{"create", "update", "patch"}

// authorize returns the 403 that the client sees if the user may not do this.
func (s *Server) authorize(ctx context.Context, a authorizer.AttributesRecord) error {
	switch decision, reason, err := s.authorizer.Authorize(ctx, a); {
	case err != nil:
		return apierrors.NewInternalError(err)
	case decision != authorizer.DecisionAllow:
		return forbidden(a, reason)
	}
	return nil
}

// rules are who may do what: administrators everything, agents what nodeMay allows, and everybody may read what describes the API and
// themselves. What depends on the object in the body is decided by admission.
type rules struct {
	registry *resource.Registry
}

func (r *rules) authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if identity.Master(u) {
		return authorizer.DecisionAllow, "", nil
	}
	if !a.IsResourceRequest() {
		path := a.GetPath()
		if a.GetVerb() == "get" && (isDiscoveryPath(path) || (path == skepv1.PathNetwork || path == skepv1.PathApplied) && identity.Node(u) != "") {
			return authorizer.DecisionAllow, "", nil
		}
		if of, ok := skepv1.NodeOfStatements(path); ok && a.GetVerb() == "post" && identity.Node(u) == of {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	}
	asked := target{group: a.GetAPIGroup(), version: a.GetAPIVersion(), namespace: a.GetNamespace(), resource: a.GetResource(), name: a.GetName()}
	if a.GetVerb() == "create" && selfReviewOf(asked) != nil {
		return authorizer.DecisionAllow, "", nil
	}
	node := identity.Node(u)
	if node == "" {
		return authorizer.DecisionNoOpinion, "", nil
	}
	reason, ok := r.nodeMay(ctx, node, a)
	if !ok {
		return authorizer.DecisionNoOpinion, reason, nil
	}
	return authorizer.DecisionAllow, "", nil
}

// nodeMay holds the rules for agents: what every node needs to route traffic, and otherwise only what concerns the node itself, so that a
// stolen node certificate gives access to one node and not to the cluster.
func (r *rules) nodeMay(ctx context.Context, node string, a authorizer.Attributes) (reason string, ok bool) {
	reads := slices.Contains(readVerbs, a.GetVerb())
	changes := slices.Contains(changeVerbs, a.GetVerb())
	switch a.GetAPIGroup() + "/" + a.GetResource() {
	case "/services", "/endpoints", "/namespaces", "discovery.k8s.io/endpointslices":
		return "", reads && a.GetSubresource() == ""
	case "/nodes":
		if reads && a.GetSubresource() == "" {
			return "", true
		}
		own := a.GetName() == node || (a.GetVerb() == "create" && a.GetName() == "")
		return fmt.Sprintf("node '%s' cannot change node '%s'", node, a.GetName()), own && changes && (a.GetSubresource() == "" || a.GetSubresource() == "status")
	case "coordination.k8s.io/leases":
		own := a.GetNamespace() == corev1.NamespaceNodeLease && (a.GetName() == node || (a.GetVerb() == "create" && a.GetName() == ""))
		return "can only access node lease with the same name as the requesting node", own && a.GetSubresource() == "" && (a.GetVerb() == "get" || changes || a.GetVerb() == "delete")
	case "/events", "events.k8s.io/events":
		return "", changes && a.GetSubresource() == ""
	case "/pods":
		return r.nodeMayPods(ctx, node, a)
	case "/secrets", "/configmaps":
		name := a.GetName()
		if name == "" {
			name = exactField(a, "metadata.name")
		}
		return fmt.Sprintf("no relationship found between node '%s' and this object", node),
			reads && a.GetSubresource() == "" && name != "" && r.nodeRefers(node, a.GetResource(), a.GetNamespace(), name)
	}
	return "", false
}

func (r *rules) nodeMayPods(ctx context.Context, node string, a authorizer.Attributes) (reason string, ok bool) {
	if (a.GetVerb() == "list" || a.GetVerb() == "watch") && a.GetSubresource() == "" {
		return "can only list/watch pods with spec.nodeName field selector", exactField(a, "spec.nodeName") == node
	}
	reason = fmt.Sprintf("node '%s' is not the one that the pod is bound to", node)
	if a.GetName() == "" || !r.podOnNode(ctx, node, a.GetNamespace(), a.GetName()) {
		return reason, false
	}
	switch {
	case a.GetSubresource() == "" && (a.GetVerb() == "get" || a.GetVerb() == "delete"):
		return "", true
	case a.GetSubresource() == "status" && (a.GetVerb() == "get" || a.GetVerb() == "update" || a.GetVerb() == "patch"):
		return "", true
	case a.GetSubresource() == "eviction" && a.GetVerb() == "create":
		return "", true
	}
	return "", false
}

// podOnNode says whether a pod is bound to a node. A pod that does not exist belongs to nobody.
func (r *rules) podOnNode(ctx context.Context, node, namespace, name string) bool {
	pod, err := resource.Get[*corev1.Pod](ctx, r.registry, kinds.Pods, namespace, name)
	return err == nil && pod.Spec.NodeName == node
}

// nodeRefers says whether a pod bound to the node refers to a secret or a config map.
func (r *rules) nodeRefers(node, kind, namespace, name string) bool {
	for _, pod := range resource.ByIndex[*corev1.Pod](r.registry, kinds.Pods, kinds.PodsByNode, node) {
		if pod.Namespace == namespace && podRefers(pod, kind, name) {
			return true
		}
	}
	return false
}

// exactField is the value that a request's field selector requires of a field; "" if it requires none, or cannot be read.
func exactField(a authorizer.Attributes, field string) string {
	requirements, err := a.GetFieldSelector()
	if err != nil {
		return ""
	}
	for _, r := range requirements {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) {
			return r.Value
		}
	}
	return ""
}

func forbidden(a authorizer.AttributesRecord, reason string) error {
	var message string
	resourceName := a.Resource
	if a.Subresource != "" {
		resourceName += "/" + a.Subresource
	}
	switch {
	case a.Resource == "":
		message = fmt.Sprintf("User %q cannot %s path %q", a.User.GetName(), a.Verb, a.Path)
	case a.Namespace != "":
		message = fmt.Sprintf("User %q cannot %s resource %q in API group %q in the namespace %q", a.User.GetName(), a.Verb, resourceName, a.APIGroup, a.Namespace)
	default:
		message = fmt.Sprintf("User %q cannot %s resource %q in API group %q at the cluster scope", a.User.GetName(), a.Verb, resourceName, a.APIGroup)
	}
	if reason != "" {
		message += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.APIGroup, Resource: a.Resource}, a.Name, fmt.Errorf("%s", message))
}

// discoveryRules are the paths that only describe the API, which every authenticated client may read.
var discoveryRules = []string{
	"/", "/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/livez/*", "/openapi/*", "/readyz", "/readyz/*", "/version", "/version/*",
}

func isDiscoveryPath(path string) bool {
	return slices.ContainsFunc(discoveryRules, func(rule string) bool {
		prefix, isPrefix := strings.CutSuffix(rule, "*")
		return path == rule || (isPrefix && strings.HasPrefix(path, prefix))
	})
}
