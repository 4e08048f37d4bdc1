package servicecidr

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// known says whether all addresses of a service are recorded correctly, as far as the cache shows.
func (c *Controller) known(service *corev1.Service) bool {
	for _, ip := range clusterIPs(service) {
		addr, err := netip.ParseAddr(ip)
		if err != nil || !c.inRange(addr) {
			return false
		}
		address, err := resource.Get[*networkingv1.IPAddress](context.Background(), c.registry, kinds.IPAddresses, "", addr.String())
		if err != nil || !names(address, service) || address.Labels[networkingv1.LabelManagedBy] != managedBy ||
			address.Labels[networkingv1.LabelIPAddressFamily] != string(familyOf(addr)) {
			return false
		}
	}
	return true
}

func clusterIPs(service *corev1.Service) []string {
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.ClusterIP == corev1.ClusterIPNone || service.Spec.ClusterIP == "" {
		return nil
	}
	return service.Spec.ClusterIPs
}

func (c *Controller) inRange(addr netip.Addr) bool {
	return slices.ContainsFunc(c.all(), func(cidr *networkingv1.ServiceCIDR) bool { return contains(cidr, addr) })
}

func names(address *networkingv1.IPAddress, service *corev1.Service) bool {
	ref := address.Spec.ParentRef
	return ref != nil && ref.Group == "" && ref.Resource == "services" && ref.Namespace == service.Namespace && ref.Name == service.Name
}

func familyOf(addr netip.Addr) corev1.IPFamily {
	if addr.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// syncService makes sure that every address of a service, and every node port, is
// recorded as its own.
func (c *Controller) syncService(ctx context.Context, key controller.Key) error {
	service, err := resource.Get[*corev1.Service](ctx, c.registry, kinds.Services, key.Namespace, key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := c.repairPorts(ctx, service); err != nil || c.known(service) {
		return err
	}
	// The cache of addresses may be behind that of services: ask the store before anything is reported or written.
	obj, err := c.registry.Get(ctx, kinds.Services, key.Namespace, key.Name, "")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	service = obj.(*corev1.Service)
	for _, ip := range clusterIPs(service) {
		if err := c.repairIP(ctx, service, ip); err != nil {
			return err
		}
	}
	return nil
}

func (c *Controller) repairIP(ctx context.Context, service *corev1.Service, ip string) error {
	warn := func(reason, format string, args ...any) {
		c.repairs.Eventf(service, corev1.EventTypeWarning, reason, format, args...)
	}
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		warn("ClusterIPNotValid", "Cluster IP %s is not a valid IP; please recreate Service", ip)
		return nil
	}
	family := familyOf(addr)
	if !c.inRange(addr) {
		warn("ClusterIPOutOfRange", "Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family, ip)
		return nil
	}
	obj, err := c.registry.Get(ctx, kinds.IPAddresses, "", addr.String(), "")
	if apierrors.IsNotFound(err) {
		warn("ClusterIPNotAllocated", "Cluster IP [%v]: %s is not allocated; repairing", family, ip)
		return kinds.Allocated.RecordServiceIP(ctx, c.registry, service, addr, nil)
	}
	if err != nil {
		return err
	}
	address := obj.(*networkingv1.IPAddress)
	if !names(address, service) {
		rival, err := c.rival(ctx, address)
		if err != nil {
			return err
		}
		if rival != "" {
			warn("ClusterIPAlreadyAllocated", "Cluster IP [%v]: %s was assigned to multiple services (%s has it too); please recreate service", family, ip, rival)
			return nil
		}
		warn("ClusterIPNotAllocated", "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, ip, service.Namespace, service.Name)
		return kinds.Allocated.RecordServiceIP(ctx, c.registry, service, addr, address)
	}
	if address.Labels[networkingv1.LabelManagedBy] != managedBy || address.Labels[networkingv1.LabelIPAddressFamily] != string(family) {
		return kinds.Allocated.RecordServiceIP(ctx, c.registry, service, addr, address)
	}
	return nil
}

// rival returns the service that an address is recorded for, if that service has the address; "" if not.
func (c *Controller) rival(ctx context.Context, address *networkingv1.IPAddress) (string, error) {
	ref := address.Spec.ParentRef
	if ref == nil || ref.Group != "" || ref.Resource != "services" {
		return "", nil
	}
	obj, err := c.registry.Get(ctx, kinds.Services, ref.Namespace, ref.Name, "")
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil || !slices.Contains(clusterIPs(obj.(*corev1.Service)), address.Name) {
		return "", err
	}
	return ref.Namespace + "/" + ref.Name, nil
}

// repairPorts records the node ports of a service that have no record.
func (c *Controller) repairPorts(ctx context.Context, service *corev1.Service) error {
	findings, err := kinds.Allocated.RecordNodePorts(ctx, c.registry, service)
	for _, f := range findings {
		if f.Holder != "" {
			c.repairs.Eventf(service, corev1.EventTypeWarning, "PortAlreadyAllocated", "Port %d was assigned to multiple services (%s has it too); please recreate service", f.Port, f.Holder)
		} else {
			c.repairs.Eventf(service, corev1.EventTypeWarning, "PortNotAllocated", "Port %d is not allocated; repairing", f.Port)
		}
	}
	return err
}

// syncAddress removes an address that the allocator gave out and that no service has.
func (c *Controller) syncAddress(ctx context.Context, name string) error {
	address, err := resource.Get[*networkingv1.IPAddress](ctx, c.registry, kinds.IPAddresses, "", name)
	if apierrors.IsNotFound(err) || err == nil && address.Labels[networkingv1.LabelManagedBy] != managedBy {
		return nil
	}
	if err != nil {
		return err
	}
	ref := address.Spec.ParentRef
	reason, message := "IPAddressNotAllocated", ""
	switch {
	case ref == nil || ref.Group != "" || ref.Resource != "services":
		message = "IPAddress " + name + " appears to have been modified, not referencing a Service: cleaning up"
	default:
		obj, err := c.registry.Get(ctx, kinds.Services, ref.Namespace, ref.Name, "")
		switch {
		case apierrors.IsNotFound(err):
			message = "IPAddress: " + name + " for Service " + ref.Namespace + "/" + ref.Name + " appears to have leaked: cleaning up"
		case err != nil:
			return err
		case slices.Contains(clusterIPs(obj.(*corev1.Service)), name):
			return nil
		default:
			reason, message = "IPAddressWrongReference", "IPAddress: "+name+" for Service "+ref.Namespace+"/"+ref.Name+" has a wrong reference; cleaning up"
		}
	}
	// The address may have been deleted with its service since the cache was read: then there is nothing to clean up.
	_, _, err = c.registry.Delete(ctx, kinds.IPAddresses, "", name, &metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &address.UID, ResourceVersion: &address.ResourceVersion},
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err == nil {
		c.repairs.Eventf(address, corev1.EventTypeWarning, reason, "%s", message)
	}
	return err
}
