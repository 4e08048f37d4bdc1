package endpoints

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// syncSlices brings the slices of one service up to date.
func (c *Controller) syncSlices(ctx context.Context, key controller.Key) error {
	service, err := resource.Get[*corev1.Service](ctx, c.registry, kinds.Services, key.Namespace, key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	changed := c.changes.pop(key)
	existing := c.slicesBy(key, managedSlice)
	if err != nil || len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName {
		c.popTrigger(key)
		return c.carryOut(ctx, plan{delete: existing})
	}
	if service.DeletionTimestamp != nil {
		return nil
	}
	f := frame{
		generateName: service.Name + "-",
		namespace:    service.Namespace,
		labels:       sliceLabels(service, managedSlice),
		annotations:  c.popTrigger(key),
		owner:        controllerRef(service, "Service"),
		perSlice:     maxPerSlice,
	}
	p, ok := plan{}, false
	if changed != nil {
		p, ok = c.amend(f, existing, service, changed)
	}
	if !ok {
		p = makePlan(f, existing, c.wanted(service))
	}
	if err = c.carryOut(ctx, p); err != nil {
		c.changes.everything(key)
		c.restoreTrigger(key, f.annotations)
	}
	return err
}

// wanted works out the endpoints of a service, per family.
func (c *Controller) wanted(service *corev1.Service) bundles {
	want, found := bundles{}, map[discoveryv1.AddressType]bool{}
	for _, pod := range c.podsOf(service) {
		for _, p := range c.places(service, pod) {
			found[p.addressType] = true
			want.add(p.addressType, p.ports, p.endpoint)
		}
	}
	for _, family := range familiesOf(service) {
		if addressType := discoveryv1.AddressType(family); !found[addressType] {
			want.add(addressType, nil)
		}
	}
	return want
}

// zone returns the zone of a node, "" for none, and whether there is such a node.
func (c *Controller) zone(node string) (zone string, known bool) {
	n, err := resource.Get[*corev1.Node](context.Background(), c.registry, kinds.Nodes, "", node)
	if err != nil {
		return "", false
	}
	return zoneOf(n), true
}

// familiesOf returns the families that a service is served in. A service without any was
// stored before the field existed: it has the family of its address.
func familiesOf(service *corev1.Service) []corev1.IPFamily {
	if len(service.Spec.IPFamilies) > 0 {
		return service.Spec.IPFamilies
	}
	if familyOf(service.Spec.ClusterIP) == corev1.IPv6Protocol {
		return []corev1.IPFamily{corev1.IPv6Protocol}
	}
	return []corev1.IPFamily{corev1.IPv4Protocol}
}

func slicePorts(pod *corev1.Pod, service *corev1.Service) []discoveryv1.EndpointPort {
	ports := make([]discoveryv1.EndpointPort, 0, len(service.Spec.Ports))
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		if n, ok := portOf(pod, p); ok {
			ports = append(ports, discoveryv1.EndpointPort{
				Name: ptr.To(p.Name), Port: ptr.To(n), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol,
			})
		}
	}
	return ports
}

func sliceLabels(service *corev1.Service, managedBy string) map[string]string {
	set := map[string]string{}
	for k, v := range service.Labels {
		set[k] = v
	}
	delete(set, corev1.IsHeadlessService)
	set[discoveryv1.LabelServiceName] = service.Name
	set[discoveryv1.LabelManagedBy] = managedBy
	if headless(service) {
		set[corev1.IsHeadlessService] = ""
	}
	return set
}

func headless(service *corev1.Service) bool {
	return service.Spec.ClusterIP == "" || service.Spec.ClusterIP == corev1.ClusterIPNone
}

// slicesBy returns the slices of a service that one of the loops manages.
func (c *Controller) slicesBy(key controller.Key, managedBy string) []*discoveryv1.EndpointSlice {
	var mine []*discoveryv1.EndpointSlice
	for _, s := range c.sliceView.Group(key) {
		if s.Labels[discoveryv1.LabelManagedBy] == managedBy && s.DeletionTimestamp == nil {
			mine = append(mine, s)
		}
	}
	return mine
}

// carryOut writes a plan. Updates are guarded by the revision that the plan was
// made from; after a conflict the whole sync is retried.
func (c *Controller) carryOut(ctx context.Context, p plan) error {
	for _, s := range p.update {
		obj, err := c.registry.Update(ctx, kinds.EndpointSlices, "", s, resource.UpdateOptions{})
		if err != nil {
			return err
		}
		c.sliceView.Wrote(obj.(*discoveryv1.EndpointSlice))
	}
	for _, s := range p.create {
		obj, err := c.registry.Create(ctx, kinds.EndpointSlices, s, resource.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return err
		}
		c.sliceView.Wrote(obj.(*discoveryv1.EndpointSlice))
	}
	for _, s := range p.delete {
		_, _, err := c.registry.Delete(ctx, kinds.EndpointSlices, s.Namespace, s.Name, &metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &s.UID},
		})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}
