package endpoints

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/resource"
)

// leaderAnnotation marks Endpoints that are no service's but a lock.
const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

// syncMirror brings the slices up to date that mirror the Endpoints of a
// service without a selector.
func (c *Controller) syncMirror(ctx context.Context, key controller.Key) error {
	existing := c.slicesBy(key, managedMirror)
	source := c.endpointsNow(key)
	service, err := resource.Get[*corev1.Service](ctx, c.registry, resource.Services, key.Namespace, key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil || !mirrored(service, source) {
		return c.carryOut(ctx, plan{delete: existing})
	}
	f := frame{
		generateName: source.Name + "-",
		namespace:    source.Namespace,
		labels:       map[string]string{},
		annotations:  map[string]string{},
		owner:        controllerRef(source, "Endpoints"),
	}
	for k, v := range source.Labels {
		f.labels[k] = v
	}
	f.labels[discoveryv1.LabelServiceName] = source.Name
	f.labels[discoveryv1.LabelManagedBy] = managedMirror
	for k, v := range source.Annotations {
		if k != corev1.LastAppliedConfigAnnotation {
			f.annotations[k] = v
		}
	}
	return c.carryOut(ctx, makePlan(f, existing, mirrorOf(source)))
}

func mirrored(service *corev1.Service, source *corev1.Endpoints) bool {
	return source != nil && source.DeletionTimestamp == nil && service.DeletionTimestamp == nil &&
		len(service.Spec.Selector) == 0 && service.Spec.Type != corev1.ServiceTypeExternalName &&
		source.Labels[discoveryv1.LabelSkipMirror] != "true" && source.Annotations[leaderAnnotation] == ""
}

// mirrorOf turns subsets into endpoints. Of each subset no more than maxAddresses are taken.
func mirrorOf(source *corev1.Endpoints) bundles {
	want := bundles{}
	for i := range source.Subsets {
		s := &source.Subsets[i]
		ports := make([]discoveryv1.EndpointPort, 0, len(s.Ports))
		for _, p := range s.Ports {
			ports = append(ports, discoveryv1.EndpointPort{
				Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol,
			})
		}
		room := maxAddresses
		room = mirrorAddresses(want, ports, s.Addresses, true, room)
		mirrorAddresses(want, ports, s.NotReadyAddresses, false, room)
	}
	return want
}

func mirrorAddresses(want bundles, ports []discoveryv1.EndpointPort, from []corev1.EndpointAddress, ready bool, room int) (left int) {
	for _, a := range from {
		family := familyOf(a.IP)
		if family == "" || room == 0 {
			continue
		}
		room--
		e := discoveryv1.Endpoint{
			Addresses:  []string{a.IP},
			Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)},
			TargetRef:  a.TargetRef,
			NodeName:   a.NodeName,
		}
		if a.Hostname != "" {
			e.Hostname = ptr.To(a.Hostname)
		}
		want.add(discoveryv1.AddressType(family), ports, e)
	}
	return room
}
