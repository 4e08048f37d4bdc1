package endpoints

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// syncEndpoints brings the Endpoints object of one service up to date.
func (c *Controller) syncEndpoints(ctx context.Context, key controller.Key) error {
	service, err := resource.Get[*corev1.Service](ctx, c.registry, kinds.Services, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return c.deleteEndpoints(ctx, key)
	}
	if err != nil {
		return err
	}
	// Endpoints of a service without a selector are written by hand, or by another controller.
	if len(service.Spec.Selector) == 0 || service.Spec.Type == corev1.ServiceTypeExternalName || service.DeletionTimestamp != nil {
		return nil
	}
	have := c.endpointsNow(key)
	want := c.endpointsOf(service, have)
	if have != nil && equality.Semantic.DeepEqual(have.Subsets, want.Subsets) &&
		equality.Semantic.DeepEqual(have.Labels, want.Labels) &&
		have.Annotations[corev1.EndpointsOverCapacity] == want.Annotations[corev1.EndpointsOverCapacity] {
		return nil
	}
	var obj resource.Object
	if have == nil {
		obj, err = c.registry.Create(ctx, kinds.Endpoints, want, resource.CreateOptions{})
	} else {
		obj, err = c.registry.Update(ctx, kinds.Endpoints, "", want, resource.UpdateOptions{})
	}
	switch {
	case err == nil:
		c.legacyView.Wrote(obj.(*corev1.Endpoints))
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err), apierrors.IsConflict(err):
		return err
	case have == nil:
		c.recorder.Eventf(want, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %v: %v", key, err)
	default:
		c.recorder.Eventf(want, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %v: %v", key, err)
	}
	return err
}

func (c *Controller) endpointsNow(key controller.Key) *corev1.Endpoints {
	for _, e := range c.legacyView.Group(key) {
		return e
	}
	return nil
}

// deleteEndpoints removes the Endpoints of a deleted service: only those that this loop
// made, since Endpoints may be created before their service.
func (c *Controller) deleteEndpoints(ctx context.Context, key controller.Key) error {
	have := c.endpointsNow(key)
	if have == nil || have.Labels[labelEndpointsBy] != managedEndpoints {
		return nil
	}
	_, _, err := c.registry.Delete(ctx, kinds.Endpoints, key.Namespace, key.Name, &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &have.UID},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// endpointsOf makes the Endpoints object of a service from the existing one, if there is one.
func (c *Controller) endpointsOf(service *corev1.Service, have *corev1.Endpoints) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: service.Name, Namespace: service.Namespace}}
	if have != nil {
		e = have.DeepCopy()
	}
	e.Labels = map[string]string{}
	for k, v := range service.Labels {
		e.Labels[k] = v
	}
	delete(e.Labels, corev1.IsHeadlessService)
	e.Labels[labelEndpointsBy] = managedEndpoints
	if headless(service) {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	e.Subsets = toSubsets(c.addresses(service))
	if truncate(e.Subsets) {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[corev1.EndpointsOverCapacity] = "truncated"
	} else {
		delete(e.Annotations, corev1.EndpointsOverCapacity)
	}
	return e
}

// addresses lists the pods of a service, in its first family: Endpoints have only one.
func (c *Controller) addresses(service *corev1.Service) []address {
	family := familiesOf(service)[0]
	var list []address
	for _, pod := range c.podsOf(service) {
		ip := addressOf(pod, family)
		if ip == "" || !reachable(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		a := address{
			EndpointAddress: corev1.EndpointAddress{
				IP: ip, Hostname: hostnameOf(pod, service),
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
			},
			ready: service.Spec.PublishNotReadyAddresses || controller.PodReady(pod),
		}
		if pod.Spec.NodeName != "" {
			a.NodeName = &pod.Spec.NodeName
		}
		for i := range service.Spec.Ports {
			p := &service.Spec.Ports[i]
			if n, ok := portOf(pod, p); ok {
				a.ports = append(a.ports, corev1.EndpointPort{Name: p.Name, Port: n, Protocol: p.Protocol, AppProtocol: p.AppProtocol})
			}
		}
		// A headless service may be without ports; any other pod without one serves nothing.
		if len(a.ports) > 0 || len(service.Spec.Ports) == 0 {
			list = append(list, a)
		}
	}
	return list
}
