package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
	"github.com/skep-io/skep/witness"
)

// nodeRestriction decides what a node may write, as Kubernetes' NodeRestriction does and somewhat stricter. It compares an update with the
// stored object, never with what the request says of that (CVE-2021-25735), after the fields that the update cannot change have been set.
type nodeRestriction struct {
	*admission.Handler
	kinds    Kinds
	registry *resource.Registry
}

func (p *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Create {
		return p.restrict(ctx, a)
	}
	node := identity.Node(a.GetUserInfo())
	obj, isNode := a.GetObject().(*corev1.Node)
	if before, ok := a.GetOldObject().(*corev1.Node); ok && isNode && node != "" && !hasPodRanges(before) && hasPodRanges(obj) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to choose its pod ranges", node))
	}
	return nil
}

func hasPodRanges(node *corev1.Node) bool {
	return node.Spec.PodCIDR != "" || len(node.Spec.PodCIDRs) > 0
}

func (p *nodeRestriction) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetOperation() == admission.Update {
		return p.restrict(ctx, a)
	}
	return nil
}

func (p *nodeRestriction) restrict(ctx context.Context, a admission.Attributes) error {
	u := a.GetUserInfo()
	node := identity.Node(u)
	if node == "" || identity.Master(u) {
		return nil
	}
	reason := ""
	switch obj := a.GetObject().(type) {
	case *corev1.Node:
		before, _ := a.GetOldObject().(*corev1.Node)
		reason = restrictNode(node, obj, before)
	case *corev1.Pod:
		before, _ := a.GetOldObject().(*corev1.Pod)
		reason = restrictPod(node, obj, before)
	case *corev1.Event:
		before, _ := a.GetOldObject().(*corev1.Event)
		reason = p.restrictEvent(ctx, node, obj, before)
	default:
		if a.GetName() != node {
			reason = fmt.Sprintf("node '%s' cannot change %s of another name", node, a.GetResource().Resource)
		}
	}
	if reason == "" {
		return nil
	}
	return admission.NewForbidden(a, errors.New(reason))
}

// restrictNode says why a node may not write this state of its Node object; "" if it may.
func restrictNode(name string, node, old *corev1.Node) string {
	if node.Name != name {
		return fmt.Sprintf("node %q is not allowed to modify node %q", name, node.Name)
	}
	created := old == nil
	if created {
		old = &corev1.Node{Spec: *node.Spec.DeepCopy()}
		if hasPodRanges(node) {
			return fmt.Sprintf("node %q is not allowed to choose its pod ranges", name)
		}
		if node.Spec.ConfigSource != nil {
			return fmt.Sprintf("node %q is not allowed to create pods with a non-nil configSource", name)
		}
	}
	spec := node.Spec
	if !hasPodRanges(old) { // those that are there were allocated: Admit lets a node ask for none
		spec.PodCIDR, spec.PodCIDRs = "", nil
	}
	switch {
	case !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints):
		return fmt.Sprintf("node %q is not allowed to modify taints", name)
	case !equality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences):
		return fmt.Sprintf("node %q is not allowed to modify ownerReferences", name)
	case !slices.Equal(node.Finalizers, old.Finalizers):
		return fmt.Sprintf("node %q is not allowed to modify finalizers", name)
	case !maps.Equal(withoutWitnessKey(node.Annotations), withoutWitnessKey(old.Annotations)):
		return fmt.Sprintf("node %q is not allowed to modify annotations", name)
	case !equality.Semantic.DeepEqual(spec, old.Spec):
		return fmt.Sprintf("node %q is not allowed to modify its spec", name)
	}
	var refused []string
	for _, key := range changedKeys(node.Labels, old.Labels) {
		if !nodeMayLabel(key, created) {
			refused = append(refused, key)
		}
	}
	switch {
	case len(refused) == 0:
		return ""
	case created:
		return fmt.Sprintf("node %q is not allowed to set the following labels: %s", name, strings.Join(refused, ", "))
	}
	return "is not allowed to modify labels: " + strings.Join(refused, ", ")
}

// withoutWitnessKey leaves out the one annotation that a node may write: the key that verifies its own statements.
func withoutWitnessKey(annotations map[string]string) map[string]string {
	others := maps.Clone(annotations)
	delete(others, witness.KeyAnnotation)
	return others
}

// nodeMayLabel says whether a node may set a label of its own: when it registers, those that kubelets may. Later only those that describe
// the host, so that a compromised node cannot attract pods with its zone or with labels of the administrator's.
func nodeMayLabel(key string, registering bool) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		domain = ""
	}
	within := func(suffix string) bool { return domain == suffix || strings.HasSuffix(domain, "."+suffix) }
	switch {
	case within(corev1.LabelNamespaceNodeRestriction):
		return false
	case within("kubernetes.io"), within("k8s.io"):
		if !kubeletapis.IsKubeletLabel(key) {
			return false
		}
		place := []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion, corev1.LabelFailureDomainBetaZone, corev1.LabelFailureDomainBetaRegion}
		return registering || !slices.Contains(place, key)
	}
	return registering
}

func changedKeys(a, b map[string]string) []string {
	changed := map[string]bool{}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			changed[key] = true
		}
	}
	for key := range b {
		if _, ok := a[key]; !ok {
			changed[key] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}

// restrictPod says why a node may not write this state of a pod; "" if it may. It is called only for the status of the node's own pods.
func restrictPod(node string, pod, old *corev1.Pod) string {
	switch {
	case old == nil:
		return fmt.Sprintf("node %q cannot create pods", node)
	case old.Spec.NodeName != node:
		return fmt.Sprintf("node %q can only update pod status for pods with spec.nodeName set to itself", node)
	case !maps.Equal(pod.Labels, old.Labels):
		return fmt.Sprintf("node %q cannot update labels through pod status", node)
	case !maps.Equal(pod.Annotations, old.Annotations):
		return fmt.Sprintf("node %q cannot update annotations through pod status", node)
	case !slices.Equal(pod.Finalizers, old.Finalizers) || !equality.Semantic.DeepEqual(pod.OwnerReferences, old.OwnerReferences):
		return fmt.Sprintf("node %q cannot update finalizers and ownerReferences through pod status", node)
	case !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses):
		return fmt.Sprintf("node %q cannot update resource claim statues", node)
	}
	return ""
}

// restrictEvent says why a node may not write this event; "" if it may: in its own name, about itself, its pods, and services that do not
// work on it, with the reasons that agents use for that.
func (p *nodeRestriction) restrictEvent(ctx context.Context, node string, event, old *corev1.Event) string {
	if old != nil && !isFrom(old, node) {
		return fmt.Sprintf("node %q cannot change the events of others", node)
	}
	if !isFrom(event, node) {
		return fmt.Sprintf("node %q can only write events whose source.host is itself", node)
	}
	about := event.InvolvedObject
	if !p.reportsOn(ctx, node, event) || event.Related != nil ||
		about.Namespace != event.Namespace && (about.Namespace != "" || event.Namespace != metav1.NamespaceDefault) {
		return fmt.Sprintf("node %q can only write events about itself, its pods, and services that do not work on it", node)
	}
	return ""
}

// reportsOn says whether the node may report on the event's object.
func (p *nodeRestriction) reportsOn(ctx context.Context, node string, event *corev1.Event) bool {
	about := event.InvolvedObject
	switch {
	case about.APIVersion != "" && about.APIVersion != "v1":
	case about.Kind == "Node":
		return about.Name == node
	case about.Kind == "Pod":
		pod, err := resource.Get[*corev1.Pod](ctx, p.registry, p.kinds.Pods, about.Namespace, about.Name)
		if apierrors.IsNotFound(err) {
			return true // events about a deleted pod are allowed too
		}
		return err == nil && pod.Spec.NodeName == node
	case about.Kind == "Service":
		service, err := resource.Get[*corev1.Service](ctx, p.registry, p.kinds.Services, about.Namespace, about.Name)
		return err == nil && about.UID == service.UID && event.Type == corev1.EventTypeWarning &&
			(event.Reason == servicespec.ReasonNotInstalled || event.Reason == servicespec.ReasonHealthPort)
	}
	return false
}

// isFrom says whether an event names the node as its only source.
func isFrom(event *corev1.Event, node string) bool {
	host, instance := event.Source.Host, event.ReportingInstance
	return (host == node || host == "") && (instance == node || instance == "") && (host != "" || instance != "")
}
