package servicecidr_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/controller/servicecidr"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
)

var watched = []*resource.Kind{kinds.ServiceCIDRs, kinds.IPAddresses, kinds.Services, kinds.Events}

func start(t *testing.T, r *resource.Registry) (stop func()) {
	recorder, repairs := event.NewRecorder(r, servicecidr.Component), event.NewRecorder(r, servicecidr.RepairComponent)
	stops := []func(){
		controlplanetest.Go(t, func(ctx context.Context) {
			_ = servicecidr.New(r, controlplanetest.SingleStack.ServiceCIDRs, recorder, repairs).Run(ctx)
		}),
		controlplanetest.Go(t, recorder.Run), controlplanetest.Go(t, repairs.Run),
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

func addRange(t *testing.T, r *resource.Registry, name string, cidrs ...string) {
	t.Helper()
	controlplanetest.Create(t, r, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}})
}

// rangeState is "gone", or the status of the condition Ready and whether there is a finalizer.
func rangeState(t *testing.T, r *resource.Registry, name string) string {
	t.Helper()
	cidr, err := resource.Get[*networkingv1.ServiceCIDR](t.Context(), r, kinds.ServiceCIDRs, "", name)
	if apierrors.IsNotFound(err) {
		return "gone"
	}
	if err != nil {
		t.Fatal(err)
	}
	state := "no condition"
	if c := apimeta.FindStatusCondition(cidr.Status.Conditions, networkingv1.ServiceCIDRConditionReady); c != nil {
		state = strings.TrimSpace(string(c.Status) + " " + c.Reason)
	}
	if slices.Contains(cidr.Finalizers, servicecidr.Finalizer) {
		state += ", protected"
	}
	return state
}

func awaitRange(t *testing.T, r *resource.Registry, name, want string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		if got := rangeState(t, r, name); got != want {
			return fmt.Sprintf("ServiceCIDR %s is %q, want %q", name, got, want)
		}
		return ""
	})
}

func awaitEvent(t *testing.T, r *resource.Registry, object, reason, text string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		var seen []string
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Name == object && e.Reason == reason && strings.Contains(e.Message, text) {
				return ""
			}
			seen = append(seen, e.InvolvedObject.Name+": "+e.Reason+": "+e.Message)
		}
		return fmt.Sprintf("no event %s with %q for %s, but %q", reason, text, object, seen)
	})
}

func addService(r *resource.Registry, ctx context.Context, name, ip string) (*corev1.Service, error) {
	obj, err := r.Create(ctx, kinds.Services, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}},
	}, resource.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}

func remove(t *testing.T, r *resource.Registry, k *resource.Kind, namespace, name string) {
	t.Helper()
	if _, _, err := r.Delete(t.Context(), k, namespace, name, nil); err != nil {
		t.Fatal(err)
	}
}

func TestRanges(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	awaitRange(t, r, allocator.DefaultServiceCIDR, "True, protected")
	addRange(t, r, "more", "10.97.0.0/24")
	awaitRange(t, r, "more", "True, protected")
	if _, err := addService(r, t.Context(), "web", "10.97.0.7"); err != nil {
		t.Fatal(err)
	}
	if _, err := addService(r, t.Context(), "api", "10.96.0.1"); err != nil {
		t.Fatal(err)
	}

	remove(t, r, kinds.ServiceCIDRs, "", "more")
	awaitRange(t, r, "more", "False Terminating, protected")
	if _, err := addService(r, t.Context(), "late", "10.97.0.8"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "does not match the current range") {
		t.Errorf("an address of a range that is being deleted: %v", err)
	}
	remove(t, r, kinds.Services, "default", "web")
	awaitRange(t, r, "more", "gone")

	// A range may also be deleted when other ranges contain its addresses: here they are added later.
	addRange(t, r, "small", "10.98.0.0/28")
	awaitRange(t, r, "small", "True, protected")
	if _, err := addService(r, t.Context(), "web", "10.98.0.3"); err != nil {
		t.Fatal(err)
	}
	remove(t, r, kinds.ServiceCIDRs, "", "small")
	awaitRange(t, r, "small", "False Terminating, protected")
	addRange(t, r, "large", "10.98.0.0/16")
	awaitRange(t, r, "small", "gone")

	// The default range is needed as long as it is the only one for an address, and created again if it is deleted.
	remove(t, r, kinds.ServiceCIDRs, "", allocator.DefaultServiceCIDR)
	awaitRange(t, r, allocator.DefaultServiceCIDR, "False Terminating, protected")
	service, err := addService(r, t.Context(), "elsewhere", "")
	if err != nil || !strings.HasPrefix(service.Spec.ClusterIP, "10.98.") {
		t.Errorf("while the default range is being deleted: %+v, %v", service, err)
	}
	remove(t, r, kinds.Services, "default", "api")
	awaitRange(t, r, allocator.DefaultServiceCIDR, "True, protected")
}

// TestAllocationRacesDeletion allocates addresses of ranges while these are deleted: no
// address may end up without a range.
func TestAllocationRacesDeletion(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	for round := range 10 {
		name := fmt.Sprintf("round%d", round)
		addRange(t, r, name, fmt.Sprintf("10.100.%d.0/24", round))
		awaitRange(t, r, name, "True, protected")
		created := make(chan *corev1.Service)
		go func() {
			service, err := addService(r, t.Context(), name, fmt.Sprintf("10.100.%d.5", round))
			if err != nil && !apierrors.IsInvalid(err) {
				t.Error(err)
			}
			created <- service
		}()
		remove(t, r, kinds.ServiceCIDRs, "", name)
		if <-created != nil {
			awaitRange(t, r, name, "False Terminating, protected")
		} else {
			awaitRange(t, r, name, "gone")
		}
	}
}

// write puts an object into the store as it is, as a restored backup would.
func write(t *testing.T, r *resource.Registry, k *resource.Kind, obj resource.Object) {
	t.Helper()
	value, err := scheme.Codec.Encode(obj)
	if err != nil {
		t.Fatal(err)
	}
	key := k.Key(obj.GetNamespace(), obj.GetName())
	revision, err := r.Store().Commit(t.Context(), nil, []storage.Op{{Key: key, Value: value}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cache(k).WaitUntil(t.Context(), revision); err != nil {
		t.Fatal(err)
	}
}

func TestRepair(t *testing.T) {
	r := controlplanetest.Start(t)
	good, err := addService(r, t.Context(), "good", "10.96.0.20")
	if err != nil {
		t.Fatal(err)
	}
	like := func(name, ip string, nodePort int32) *corev1.Service {
		s := good.DeepCopy()
		s.Name, s.UID, s.ResourceVersion = name, "", ""
		s.SetUID(good.UID + "-" + "x")
		s.Spec.ClusterIP, s.Spec.ClusterIPs = ip, []string{ip}
		if nodePort != 0 {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, nodePort
		}
		s.SetGroupVersionKind(kinds.Services.GVK)
		return s
	}
	address := func(ip, service string) *networkingv1.IPAddress {
		a := &networkingv1.IPAddress{
			ObjectMeta: metav1.ObjectMeta{Name: ip, UID: "u", Labels: map[string]string{networkingv1.LabelManagedBy: "ipallocator.k8s.io", networkingv1.LabelIPAddressFamily: "IPv4"}},
			Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: service}},
		}
		a.SetGroupVersionKind(kinds.IPAddresses.GVK)
		return a
	}
	write(t, r, kinds.Services, like("unrecorded", "10.96.0.21", 30100))
	write(t, r, kinds.Services, like("outside", "10.55.0.1", 0))
	write(t, r, kinds.Services, like("rival", "10.96.0.20", 30100))
	write(t, r, kinds.Services, like("misnamed", "10.96.0.22", 0))
	write(t, r, kinds.IPAddresses, address("10.96.0.22", "nobody"))
	write(t, r, kinds.IPAddresses, address("10.96.0.23", "nobody"))
	write(t, r, kinds.IPAddresses, address("10.96.0.24", "good"))
	mine := address("10.96.0.25", "nobody")
	mine.Labels = nil // not the allocator's: somebody else's to judge
	write(t, r, kinds.IPAddresses, mine)
	start(t, r)
	awaitEvent(t, r, "unrecorded", "ClusterIPNotAllocated", "10.96.0.21 is not allocated; repairing")
	awaitEvent(t, r, "outside", "ClusterIPOutOfRange", "10.55.0.1 is not within any configured Service CIDR")
	awaitEvent(t, r, "rival", "ClusterIPAlreadyAllocated", "default/good has it too")
	awaitEvent(t, r, "misnamed", "ClusterIPNotAllocated", "repairing")
	awaitEvent(t, r, "10.96.0.23", "IPAddressNotAllocated", "leaked")
	awaitEvent(t, r, "10.96.0.24", "IPAddressWrongReference", "default/good")
	controlplanetest.Await(t, r, watched, func() string {
		var seen []string
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			seen = append(seen, e.InvolvedObject.Name+" "+e.Reason)
		}
		// Either of the two gets the port, and the other has an event.
		a, b := slices.Contains(seen, "unrecorded PortNotAllocated"), slices.Contains(seen, "rival PortNotAllocated")
		x, y := slices.Contains(seen, "unrecorded PortAlreadyAllocated"), slices.Contains(seen, "rival PortAlreadyAllocated")
		if a && y && !b || b && x && !a {
			return ""
		}
		return fmt.Sprint(seen)
	})
	controlplanetest.Await(t, r, watched, func() string {
		got := map[string]string{}
		for _, a := range controlplanetest.List[*networkingv1.IPAddress](r, kinds.IPAddresses, "") {
			got[a.Name] = a.Spec.ParentRef.Name
		}
		want := map[string]string{"10.96.0.20": "good", "10.96.0.21": "unrecorded", "10.96.0.22": "misnamed", "10.96.0.25": "nobody"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("addresses are of %v, want %v", got, want)
		}
		return ""
	})
	// A range that contains the address outside ends the warnings.
	addRange(t, r, "more", "10.55.0.0/24")
	awaitEvent(t, r, "outside", "ClusterIPNotAllocated", "10.55.0.1 is not allocated; repairing")
}
