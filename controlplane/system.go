package controlplane

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skep-io/skep/controlplane/controller"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servers"
)

const (
	apiService = "kubernetes"
	dnsSecret  = "skep-dns-etcd"
)

// system keeps the objects that lead to the control plane itself: the
// service default/kubernetes with its endpoints, and the Secret by which cluster
// DNS reads etcd. It creates or repairs them when they are deleted or changed.
type system struct {
	registry  *resource.Registry
	settings  *settings
	pki       *pki.PKI
	directory *servers.Directory
	queue     *controller.Queue[string]
}

func newSystem(registry *resource.Registry, s *settings, authority *pki.PKI, directory *servers.Directory) *system {
	return &system{registry: registry, settings: s, pki: authority, directory: directory, queue: controller.NewQueue[string]("system objects")}
}

// Run works until ctx ends.
func (y *system) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	work := map[string]func(context.Context) error{
		"service": y.service, "endpoints": y.endpoints, "slice": y.slice, "secret": y.secret,
	}
	if y.settings.advertise.IsLoopback() {
		slog.Warn("The API is advertised at a loopback address, so the service default/kubernetes gets no endpoints: pods cannot reach it. Give --advertise-address to change that", "address", y.settings.advertise)
		delete(work, "endpoints")
		delete(work, "slice")
	}
	observe(ctx, &wg, y, kinds.Services, metav1.NamespaceDefault, apiService, "service")
	if work["slice"] != nil {
		observe(ctx, &wg, y, kinds.Endpoints, metav1.NamespaceDefault, apiService, "endpoints")
		observe(ctx, &wg, y, kinds.EndpointSlices, metav1.NamespaceDefault, apiService, "slice")
	}
	observe(ctx, &wg, y, kinds.Secrets, metav1.NamespaceSystem, dnsSecret, "secret")
	y.pki.OnRenewal(func() { y.queue.Add("secret") })
	y.directory.OnChange(func() {
		for name := range work {
			y.queue.Add(name)
		}
	})
	for name := range work {
		y.queue.Add(name)
	}
	y.queue.Run(ctx, 1, func(ctx context.Context, name string) error { return work[name](ctx) })
	wg.Wait()
	return ctx.Err()
}

func observe(ctx context.Context, wg *sync.WaitGroup, y *system, k *resource.Kind, namespace, name, key string) {
	controller.Observe(ctx, wg, y.registry, k, func(old, cur resource.Object, _ int64) {
		obj := cur
		if obj == nil {
			obj = old
		}
		if obj.GetName() == name && obj.GetNamespace() == namespace {
			y.queue.Add(key)
		}
	})
}

// ensure creates an object, or writes what repair returns if the existing object is not as it should be.
func ensure[T resource.Object](ctx context.Context, y *system, k *resource.Kind, want T, repair func(have T) bool) error {
	_, err := y.registry.Modify(ctx, k, "", want.GetNamespace(), want.GetName(), resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		have := current.DeepCopyObject().(T)
		have.SetResourceVersion("")
		if !repair(have) {
			return current, nil
		}
		return have, nil
	})
	if apierrors.IsNotFound(err) {
		_, err = y.registry.Create(ctx, k, want, resource.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("%s %s/%s: %w", k.Singular, want.GetNamespace(), want.GetName(), err)
	}
	return nil
}

func (y *system) port() int32 {
	port, err := strconv.ParseInt(y.settings.listenPort, 10, 32)
	if err != nil {
		return 0
	}
	return int32(port)
}

func apiLabels() map[string]string {
	return map[string]string{"component": "apiserver", "provider": "kubernetes"}
}

func (y *system) service(ctx context.Context) error {
	ports := []corev1.ServicePort{{
		Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt32(y.port()),
	}}
	want := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: apiService, Labels: apiLabels()},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: y.settings.firstServiceIPs()[0].String(),
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack), SessionAffinity: corev1.ServiceAffinityNone, Ports: ports,
		},
	}
	return ensure(ctx, y, kinds.Services, want, func(have *corev1.Service) bool {
		if equality.Semantic.DeepEqual(have.Spec.Ports, ports) && len(have.Spec.Selector) == 0 {
			return false
		}
		have.Spec.Ports, have.Spec.Selector = ports, nil
		return true
	})
}

// servers are the addresses at which the API is served at the moment; ok is false while they are not known.
func (y *system) servers() (addresses []string, ok bool) {
	alive, ok := y.directory.Alive()
	for _, addr := range alive {
		if addr.Is4() == y.settings.advertise.Is4() && !addr.IsLoopback() {
			addresses = append(addresses, addr.String())
		}
	}
	return addresses, ok
}

func (y *system) endpoints(ctx context.Context) error {
	servers, ok := y.servers()
	if !ok {
		return nil // once they are known, this is called again
	}
	subsets := []corev1.EndpointSubset{{
		Ports: []corev1.EndpointPort{{Name: "https", Port: y.port(), Protocol: corev1.ProtocolTCP}},
	}}
	for _, address := range servers {
		subsets[0].Addresses = append(subsets[0].Addresses, corev1.EndpointAddress{IP: address})
	}
	want := &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: apiService,
			// The slice is kept here too: it must not be mirrored a second time.
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
		},
		Subsets: subsets,
	}
	return ensure(ctx, y, kinds.Endpoints, want, func(have *corev1.Endpoints) bool {
		if equality.Semantic.DeepEqual(have.Subsets, subsets) && have.Labels[discoveryv1.LabelSkipMirror] == "true" {
			return false
		}
		have.Subsets, have.Labels = subsets, want.Labels
		return true
	})
}

func (y *system) slice(ctx context.Context) error {
	servers, ok := y.servers()
	if !ok {
		return nil
	}
	family := discoveryv1.AddressTypeIPv6
	if y.settings.advertise.Is4() {
		family = discoveryv1.AddressTypeIPv4
	}
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: apiService,
			Labels: map[string]string{discoveryv1.LabelServiceName: apiService},
		},
		AddressType: family,
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To("https"), Port: ptr.To(y.port()), Protocol: ptr.To(corev1.ProtocolTCP),
		}},
	}
	for _, address := range servers {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)},
		})
	}
	current, err := y.registry.Get(ctx, kinds.EndpointSlices, metav1.NamespaceDefault, apiService, "0")
	if err == nil && current.(*discoveryv1.EndpointSlice).AddressType != family {
		// The family of a slice cannot change.
		if _, _, err := y.registry.Delete(ctx, kinds.EndpointSlices, metav1.NamespaceDefault, apiService, nil); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return ensure(ctx, y, kinds.EndpointSlices, want, func(have *discoveryv1.EndpointSlice) bool {
		if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
			equality.Semantic.DeepEqual(have.Labels, want.Labels) {
			return false
		}
		have.Endpoints, have.Ports, have.Labels = want.Endpoints, want.Ports, want.Labels
		return true
	})
}

// secret holds what cluster DNS mounts to read etcd.
func (y *system) secret(ctx context.Context) error {
	certificate, key := y.pki.DNSClient()
	var endpoints []string
	for _, r := range y.directory.Known() {
		endpoints = append(endpoints, r.DNS)
	}
	data := map[string][]byte{
		"ca.crt":    y.pki.CA(),
		"tls.crt":   certificate,
		"tls.key":   key,
		"endpoints": []byte(strings.Join(endpoints, ",")),
	}
	want := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: dnsSecret},
		Type:       corev1.SecretTypeOpaque,
		Data:       data,
	}
	return ensure(ctx, y, kinds.Secrets, want, func(have *corev1.Secret) bool {
		// Each server has a certificate of its own, and any of them will do.
		if y.pki.ServesDNS(have.Data["tls.crt"], have.Data["tls.key"]) && pki.SameAuthority(have.Data["ca.crt"], data["ca.crt"]) {
			for _, name := range []string{"tls.crt", "tls.key"} {
				data[name] = have.Data[name]
			}
			if y.pki.Newer(have.Data["ca.crt"]) {
				data["ca.crt"] = have.Data["ca.crt"]
			}
		}
		if equality.Semantic.DeepEqual(have.Data, data) {
			return false
		}
		have.Data = data
		return true
	})
}
