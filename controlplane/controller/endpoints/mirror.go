package endpoints

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	endpointsv1 "k8s.io/kubernetes/pkg/api/v1/endpoints"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// leaderAnnotation marks Endpoints that are no service's but a lock.
const leaderAnnotation = "control-plane.alpha.kubernetes.io/leader"

// syncMirror brings the slices up to date that mirror the Endpoints of a
// service without a selector.
func (c *Controller) syncMirror(ctx context.Context, key controller.Key) error {
	existing := c.slicesBy(key, managedMirror)
	source := c.endpointsNow(key)
	service, err := resource.Get[*corev1.Service](ctx, c.registry, kinds.Services, key.Namespace, key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err != nil || !mirrored(service, source) {
		c.forgetMirrored(key)
		return c.carryOut(ctx, plan{delete: existing})
	}
	f := frame{
		generateName: source.Name + "-",
		namespace:    source.Namespace,
		labels:       maps.Clone(source.Labels),
		annotations:  map[string]string{},
		owner:        controllerRef(source, "Endpoints"),
		// As many as are mirrored of a subset, so that there is one slice for each subset and family.
		perSlice: maxAddresses,
		exact:    true,
	}
	if f.labels == nil {
		f.labels = map[string]string{}
	}
	f.labels[discoveryv1.LabelServiceName] = source.Name
	f.labels[discoveryv1.LabelManagedBy] = managedMirror
	for k, v := range source.Annotations {
		if k != corev1.LastAppliedConfigAnnotation && k != corev1.EndpointsLastChangeTriggerTime {
			f.annotations[k] = v
		}
	}
	want, skipped := mirrorOf(source)
	if err := c.carryOut(ctx, makePlan(f, existing, want)); err != nil {
		return err
	}
	c.reportSkipped(source, skipped)
	return nil
}

// reportSkipped reports, once for each state of the source, which of its addresses are not mirrored.
func (c *Controller) reportSkipped(source *corev1.Endpoints, s skipped) {
	if !c.firstLook(source) {
		return
	}
	if s.invalid > 0 {
		c.mirrorRecorder.Eventf(source, corev1.EventTypeWarning, "InvalidIPAddress",
			"Skipped %d invalid IP addresses when mirroring to EndpointSlices", s.invalid)
	}
	if s.tooMany > 0 {
		c.mirrorRecorder.Eventf(source, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", maxAddresses, s.invalid+s.tooMany)
	}
}

// firstLook says whether a state of Endpoints has not been looked at before.
func (c *Controller) firstLook(source *corev1.Endpoints) bool {
	key := controller.KeyOf(source)
	c.mirroredMu.Lock()
	defer c.mirroredMu.Unlock()
	if c.mirrored[key] == source.ResourceVersion {
		return false
	}
	c.mirrored[key] = source.ResourceVersion
	return true
}

func (c *Controller) forgetMirrored(key controller.Key) {
	c.mirroredMu.Lock()
	defer c.mirroredMu.Unlock()
	delete(c.mirrored, key)
}

func mirrored(service *corev1.Service, source *corev1.Endpoints) bool {
	if source == nil {
		return false
	}
	_, lock := source.Annotations[leaderAnnotation]
	return !lock && source.DeletionTimestamp == nil && service.DeletionTimestamp == nil &&
		len(service.Spec.Selector) == 0 && service.Spec.Type != corev1.ServiceTypeExternalName &&
		source.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// skipped counts the addresses that are not mirrored.
type skipped struct{ invalid, tooMany int }

// mirrorOf turns subsets into endpoints. First they are brought into Kubernetes' own
// form, in which ports that have the same addresses are together. Of each subset at most
// maxAddresses are mirrored, the ready ones first.
func mirrorOf(source *corev1.Endpoints) (want bundles, s skipped) {
	want = bundles{}
	for _, subset := range endpointsv1.RepackSubsets(source.Subsets) {
		ports := make([]discoveryv1.EndpointPort, 0, len(subset.Ports))
		for _, p := range subset.Ports {
			ports = append(ports, discoveryv1.EndpointPort{
				Name: ptr.To(p.Name), Port: ptr.To(p.Port), Protocol: ptr.To(p.Protocol), AppProtocol: p.AppProtocol,
			})
		}
		room := maxAddresses
		room = mirrorAddresses(want, &s, ports, subset.Addresses, true, room)
		mirrorAddresses(want, &s, ports, subset.NotReadyAddresses, false, room)
	}
	return want, s
}

func mirrorAddresses(want bundles, s *skipped, ports []discoveryv1.EndpointPort, from []corev1.EndpointAddress, ready bool, room int) (remaining int) {
	for _, a := range from {
		if room == 0 {
			s.tooMany++
			continue
		}
		family := familyOf(a.IP)
		if family == "" {
			s.invalid++
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
