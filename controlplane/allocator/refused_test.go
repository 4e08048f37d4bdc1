package allocator_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// judge records the services that plugins see complete, and refuses those that are labelled so.
type judge struct {
	*admission.Handler
	saw []*corev1.Service
}

func (j *judge) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	service, ok := a.GetObject().(*corev1.Service)
	if !ok {
		return nil
	}
	j.saw = append(j.saw, service.DeepCopy())
	if service.Labels["refuse"] != "" {
		return admission.NewForbidden(a, errors.New("as its label says"))
	}
	return nil
}

// Services are validated once, when they have their addresses and ports, and plugins see these as well. If a service is refused then,
// nothing stays allocated for it.
func TestRefusedServicesHoldNothing(t *testing.T) {
	host := allocationRegistry(t, allocationEtcd(t), clusterWith("10.96.0.0/16"))
	plugin := &judge{Handler: admission.NewHandler(admission.Create, admission.Update)}
	services, validated := *kinds.Services, []*corev1.Service{}
	services.ValidateCreate = func(obj resource.Object) field.ErrorList {
		validated = append(validated, obj.DeepCopyObject().(*corev1.Service))
		return kinds.Services.ValidateCreate(obj)
	}
	allocated := allocator.Kinds{Nodes: kinds.Nodes, Services: &services, IPAddresses: kinds.IPAddresses, ServiceCIDRs: kinds.ServiceCIDRs}
	all := []*resource.Kind{&services, kinds.Nodes, kinds.IPAddresses, kinds.ServiceCIDRs}
	r := resource.New(host.Store(), resource.Config{
		Allocators: allocated.Allocators(clusterWith("10.96.0.0/16")),
		Admission:  func(*resource.Registry) []admission.Interface { return []admission.Interface{plugin} },
	}, all)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	if err := r.WaitForSync(ctx); err != nil {
		t.Fatal(err)
	}
	local := func(name string, change func(*corev1.Service)) *corev1.Service {
		service := newService(name, func(s *corev1.ServiceSpec) {
			s.Type, s.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		})
		change(service)
		return service
	}
	if errs := kinds.Services.ValidateCreate(local("alone", func(s *corev1.Service) { kinds.Services.Default(s) })); len(errs) == 0 {
		t.Error("a service whose health check port was not allocated is valid")
	}
	complete := func(s *corev1.Service) bool {
		return s.Spec.ClusterIP != "" && s.Spec.Ports[0].NodePort != 0 && s.Spec.HealthCheckNodePort != 0
	}
	made, err := r.Create(ctx, &services, local("fine", func(*corev1.Service) {}), resource.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(validated) != 1 || !complete(validated[0]) || len(plugin.saw) != 1 || !complete(plugin.saw[0]) {
		t.Errorf("validation saw %+v, plugins %+v: want the complete service, once each", validated, plugin.saw)
	}
	checkRecords(t, r)
	if _, err := r.Create(ctx, &services, local("invalid", func(s *corev1.Service) { s.Spec.Ports[0].Name = "Web_1" }), resource.CreateOptions{}); !apierrors.IsInvalid(err) ||
		!strings.Contains(err.Error(), "spec.ports[0].name") {
		t.Errorf("a service with a bad port name: %v", err)
	}
	if _, err := r.Create(ctx, &services, local("refused", func(s *corev1.Service) { s.Labels = map[string]string{"refuse": "x"} }), resource.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a service that a plugin refuses: %v", err)
	}
	if _, err := r.Create(ctx, &services, local("dry", func(*corev1.Service) {}), resource.CreateOptions{DryRun: true}); err != nil {
		t.Errorf("a dry run: %v", err)
	}
	for name, change := range map[string]func(*corev1.Service){
		"bad port name": func(s *corev1.Service) { s.Spec.Ports[0].Name = "Web_1" },
		"plugin":        func(s *corev1.Service) { s.Labels = map[string]string{"refuse": "x"} },
	} {
		_, err := r.Modify(ctx, &services, "", "default", "fine", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
			service := current.DeepCopyObject().(*corev1.Service)
			service.Spec.Ports = append(service.Spec.Ports, corev1.ServicePort{Name: "more", Protocol: corev1.ProtocolUDP, Port: 81})
			change(service)
			return service, nil
		})
		if !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			t.Errorf("an update that is refused (%s): %v", name, err)
		}
	}
	checkRecords(t, r)
	kvs, _, err := r.Store().List(ctx, allocator.NodePortPrefix)
	if err != nil || len(kvs) != 2 {
		t.Errorf("%d node ports are held, want the 2 of %s: %v", len(kvs), made.GetName(), err)
	}
}
