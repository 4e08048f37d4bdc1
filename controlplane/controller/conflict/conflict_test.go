package conflict_test

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"

	"github.com/skep-io/skep/controlplane/controller/conflict"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servicespec"
)

var watched = []*resource.Kind{kinds.Services, kinds.Events}

func start(t *testing.T, r *resource.Registry) (stop func()) {
	t.Helper()
	recorder := event.NewRecorder(r, conflict.Component)
	stopEvents := controlplanetest.Go(t, recorder.Run)
	stopLoop := controlplanetest.Go(t, func(ctx context.Context) { _ = conflict.New(r, controlplanetest.SingleStack, recorder).Run(ctx) })
	return func() {
		stopLoop()
		stopEvents()
	}
}

func create(t *testing.T, r *resource.Registry, text string) {
	t.Helper()
	controlplanetest.Create(t, r, controlplanetest.Parse(t, text)...)
}

func get(t *testing.T, r *resource.Registry, name string) *corev1.Service {
	t.Helper()
	service, err := resource.Get[*corev1.Service](t.Context(), r, kinds.Services, "default", name)
	if err != nil {
		t.Fatal(err)
	}
	return service
}

// await waits until a service has a condition with this message; "" for no such condition.
func await(t *testing.T, r *resource.Registry, name, condition, want string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		c := apimeta.FindStatusCondition(get(t, r, name).Status.Conditions, condition)
		switch {
		case c == nil && want == "", c != nil && c.Status == "True" && c.Message == want:
			return ""
		}
		return fmt.Sprintf("%s of %s is %+v, want %q", condition, name, c, want)
	})
}

// awaitEvent waits for an event, and fails if it was recorded more than once.
func awaitEvent(t *testing.T, r *resource.Registry, kind, name, reason, message string) {
	t.Helper()
	controlplanetest.Await(t, r, watched, func() string {
		var count int32
		for _, e := range controlplanetest.List[*corev1.Event](r, kinds.Events, "default") {
			if e.InvolvedObject.Kind == kind && e.InvolvedObject.Name == name && e.Reason == reason && e.Message == message {
				count += e.Count
			}
		}
		if count > 1 {
			t.Fatalf("%s %s was told %d times: %s", kind, name, count, message)
		}
		if count == 0 {
			return fmt.Sprintf("no event %s for %s %s: %s", reason, kind, name, message)
		}
		return ""
	})
}

const older = `
apiVersion: v1
kind: Service
metadata: {name: %s, annotations: {skep.io/selection: random}}
spec: {externalIPs: [192.0.2.1], ports: [{name: a, port: 80}, {name: b, port: 81}]}
`

// The first service to ask for an address keeps it, whatever the names are; the other has a condition that names it, until the conflict
// ends.
func TestExternalAddresses(t *testing.T) {
	r := controlplanetest.Start(t)
	stop := start(t, r)
	create(t, r, fmt.Sprintf(older, "one"))
	next := servicespec.Since(get(t, r, "one")) + 1
	create(t, r, `
apiVersion: v1
kind: Service
metadata: {name: another}
spec: {externalIPs: [192.0.2.1, 192.0.2.2], ports: [{name: a, port: 80}, {name: c, port: 82}]}
`)
	why := "is older"
	if servicespec.Since(get(t, r, "another")) < next {
		why = "is as old and comes first by name"
	}
	loser, rival := "another", "one"
	if why != "is older" { // made within one second
		loser, rival = "one", "another"
	}
	lost := "192.0.2.1:80/TCP belongs to service default/" + rival + ", which " + why + "; all else of it works"
	await(t, r, loser, servicespec.AddressConflict, lost)
	await(t, r, rival, servicespec.AddressConflict, "")
	awaitEvent(t, r, "Service", loser, conflict.ReasonInUse, lost)

	// A change that leaves the conflict as it is records no event; nor does another leader.
	controlplanetest.Modify(t, r, kinds.Services, "", "default", loser, func(s *corev1.Service) { s.Labels = map[string]string{"a": "b"} })
	stop()
	start(t, r)
	controlplanetest.Modify(t, r, kinds.Services, "", "default", rival, func(s *corev1.Service) { s.Spec.Ports[0].Port = 90 })
	await(t, r, loser, servicespec.AddressConflict, "")
	awaitEvent(t, r, "Service", loser, conflict.ReasonInUse, lost)

	// A deleted service releases the address.
	controlplanetest.Modify(t, r, kinds.Services, "", "default", rival, func(s *corev1.Service) { s.Spec.Ports[0].Port = 80 })
	await(t, r, loser, servicespec.AddressConflict, lost)
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", rival, nil); err != nil {
		t.Fatal(err)
	}
	await(t, r, loser, servicespec.AddressConflict, "")
}

// CVE-2020-8554: a service that asked for an address that is the cluster's own now has a condition that no node serves it there, until it
// no longer is.
func TestExternalAddressesInside(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	create(t, r, `
apiVersion: v1
kind: Service
metadata: {name: thief}
spec: {externalIPs: [192.0.2.77, 192.0.2.78], ports: [{name: kubelet, port: 10250}]}
`)
	await(t, r, "thief", servicespec.ExternalAddressesIgnored, "")
	create(t, r, `
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.77}]}
`)
	ignored := "192.0.2.77 is ignored: it is the address of node n1"
	await(t, r, "thief", servicespec.ExternalAddressesIgnored, ignored)
	awaitEvent(t, r, "Service", "thief", conflict.ReasonInside, ignored)
	if _, _, err := r.Delete(t.Context(), kinds.Nodes, "", "n1", nil); err != nil {
		t.Fatal(err)
	}
	await(t, r, "thief", servicespec.ExternalAddressesIgnored, "")
}

// Host ports and node ports conflict on the nodes where the pods are; a port at one address of a node takes precedence over that at all.
func TestHostPorts(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	create(t, r, `
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: here}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{containerPort: 8080, hostPort: 30080}]}]}
status: {podIPs: [{ip: 10.244.1.2}]}
`)
	service, pod := get(t, r, "web"), controlplanetest.List[*corev1.Pod](r, kinds.Pods, "default")[0]
	why := "is older"
	if servicespec.Since(pod) == servicespec.Since(service) {
		why = "is as old and comes first by name"
	}
	awaitEvent(t, r, "Pod", "here", conflict.ReasonInUse, "host port 30080/TCP belongs to service default/web, which "+why+"; all else of it works")
	await(t, r, "web", servicespec.AddressConflict, "")

	create(t, r, `
apiVersion: v1
kind: Pod
metadata: {name: exact}
spec: {nodeName: n2, containers: [{name: c, image: i, ports: [{containerPort: 8080, hostPort: 30080, hostIP: 192.0.2.12}]}]}
status: {podIPs: [{ip: 10.244.2.2}]}
`)
	await(t, r, "web", servicespec.AddressConflict, "node port 30080/TCP at 192.0.2.12 on node n2 belongs to pod default/exact, which asks for that very address; all else of it works")
	controlplanetest.Modify(t, r, kinds.Nodes, "status", "", "n2", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.0.2.13" })
	await(t, r, "web", servicespec.AddressConflict, "")
	controlplanetest.Modify(t, r, kinds.Nodes, "status", "", "n2", func(n *corev1.Node) { n.Status.Addresses[0].Address = "192.0.2.12" })
	await(t, r, "web", servicespec.AddressConflict, "node port 30080/TCP at 192.0.2.12 on node n2 belongs to pod default/exact, which asks for that very address; all else of it works")
	create(t, r, `
apiVersion: v1
kind: Pod
metadata: {name: astray}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{containerPort: 8080, hostPort: 30080, hostIP: 192.0.2.12}]}]}
status: {podIPs: [{ip: 10.244.1.3}]}
`)
	controlplanetest.Modify(t, r, kinds.Pods, "status", "default", "exact", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	await(t, r, "web", servicespec.AddressConflict, "")
}

// Endpoints at a service's address are ignored, and the message names that service.
func TestMisledEndpoints(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	create(t, r, `
apiVersion: v1
kind: Service
metadata: {name: dns}
spec: {clusterIP: 10.96.0.10, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 53}]
endpoints: [{addresses: [10.96.0.10]}, {addresses: [10.96.3.4]}, {addresses: [10.244.1.1]}]
`)
	said := "endpoint 10.96.0.10 in EndpointSlice web-1 is ignored: it is the address of service default/dns; " +
		"endpoint 10.96.3.4 in EndpointSlice web-1 is ignored: it is in the range of service addresses, 10.96.0.0/16; its other endpoints work"
	await(t, r, "web", servicespec.EndpointsIgnored, said)
	awaitEvent(t, r, "Service", "web", conflict.ReasonIgnored, said)
	if _, _, err := r.Delete(t.Context(), kinds.EndpointSlices, "default", "web-1", nil); err != nil {
		t.Fatal(err)
	}
	await(t, r, "web", servicespec.EndpointsIgnored, "")
}
