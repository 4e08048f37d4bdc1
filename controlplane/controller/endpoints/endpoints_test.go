package endpoints_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/skep-io/skep/controlplane/controller/endpoints"
	"github.com/skep-io/skep/controlplane/controlplanetest"
	"github.com/skep-io/skep/controlplane/event"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

var watched = []*resource.Kind{kinds.Endpoints, kinds.EndpointSlices}

func start(t testing.TB, r *resource.Registry) {
	recorder, mirrors := event.NewRecorder(r, endpoints.Component), event.NewRecorder(r, endpoints.MirrorComponent)
	controlplanetest.Go(t, recorder.Run)
	controlplanetest.Go(t, mirrors.Run)
	controlplanetest.Go(t, func(ctx context.Context) { _ = endpoints.New(r, recorder, mirrors).Run(ctx) })
}

// TestGolden creates the objects of each file in both orders, and with the loop
// running before and after, deletes what it says, and compares what comes of it.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		archive, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		section := map[string]string{}
		for _, f := range archive.Files {
			section[f.Name] = string(f.Data)
		}
		for _, order := range []string{"forward", "backward", "before the loop"} {
			t.Run(filepath.Base(file)+"/"+order, func(t *testing.T) {
				config := controlplanetest.SingleStack
				if strings.TrimSpace(section["cluster"]) == "dual-stack" {
					config = controlplanetest.DualStack
				}
				r := controlplanetest.StartWith(t, config)
				objects := controlplanetest.Parse(t, section["objects.yaml"])
				if order == "backward" {
					slices.Reverse(objects)
				}
				if order != "before the loop" {
					start(t, r)
				}
				controlplanetest.Create(t, r, objects...)
				for _, pod := range strings.Fields(section["delete"]) {
					if _, _, err := r.Delete(t.Context(), kinds.Pods, "default", pod, nil); err != nil {
						t.Fatal(err)
					}
				}
				if order == "before the loop" {
					start(t, r)
				}
				controlplanetest.Await(t, r, watched, func() string {
					if got := dump(r); got != section["want"] {
						return "got\n" + got + "\nwant\n" + section["want"]
					}
					return ""
				})
			})
		}
	}
}

// dump writes endpoints and slices without what differs from run to run.
func dump(r *resource.Registry) string {
	var blocks []string
	for _, e := range controlplanetest.List[*corev1.Endpoints](r, kinds.Endpoints, "default") {
		var b strings.Builder
		fmt.Fprintf(&b, "Endpoints %s %v\n", e.Name, e.Labels)
		for _, s := range e.Subsets {
			b.WriteString(" ")
			for _, p := range s.Ports {
				fmt.Fprintf(&b, " %s=%d/%s", p.Name, p.Port, p.Protocol)
			}
			if len(s.Ports) == 0 {
				b.WriteString(" -")
			}
			b.WriteString(addresses(" ready", s.Addresses) + addresses(" notReady", s.NotReadyAddresses) + "\n")
		}
		blocks = append(blocks, b.String())
	}
	for _, s := range controlplanetest.List[*discoveryv1.EndpointSlice](r, kinds.EndpointSlices, "default") {
		blocks = append(blocks, dumpSlice(s))
	}
	// "Endpoints " before "EndpointSlice ".
	sort.Slice(blocks, func(i, j int) bool { return strings.ToLower(blocks[i]) < strings.ToLower(blocks[j]) })
	return strings.Join(blocks, "")
}

func addresses(what string, list []corev1.EndpointAddress) string {
	if len(list) == 0 {
		return ""
	}
	out := what
	for _, a := range list {
		of := ""
		if a.TargetRef != nil {
			of = a.TargetRef.Name + "@" + *a.NodeName
		}
		if a.Hostname != "" {
			of += " " + a.Hostname
		}
		out += fmt.Sprintf(" %s(%s)", a.IP, of)
	}
	return out
}

func dumpSlice(s *discoveryv1.EndpointSlice) string {
	var ports, lines []string
	for _, p := range s.Ports {
		ports = append(ports, fmt.Sprintf("%s=%d/%s", *p.Name, *p.Port, *p.Protocol))
	}
	if len(ports) == 0 {
		ports = []string{"-"}
	}
	for _, e := range s.Endpoints {
		line := "  " + strings.Join(e.Addresses, ",")
		for _, c := range []struct {
			name string
			is   *bool
		}{{"ready", e.Conditions.Ready}, {"serving", e.Conditions.Serving}, {"terminating", e.Conditions.Terminating}} {
			if c.is != nil && *c.is {
				line += " " + c.name
			}
		}
		if e.TargetRef != nil {
			line += " pod=" + e.TargetRef.Name
		}
		for _, f := range []struct {
			name  string
			value *string
		}{{"node", e.NodeName}, {"zone", e.Zone}, {"hostname", e.Hostname}} {
			if f.value != nil {
				line += " " + f.name + "=" + *f.value
			}
		}
		if e.Hints != nil {
			for _, zone := range e.Hints.ForZones {
				line += " forZone=" + zone.Name
			}
			for _, node := range e.Hints.ForNodes {
				line += " forNode=" + node.Name
			}
		}
		lines = append(lines, line+"\n")
	}
	sort.Strings(lines)
	annotations := ""
	if len(s.Annotations) > 0 && s.Labels[discoveryv1.LabelManagedBy] == "endpointslicemirroring-controller.k8s.io" {
		annotations = fmt.Sprintf(" %v", s.Annotations)
	}
	return fmt.Sprintf("EndpointSlice %s %s %v%s\n  %s\n%s", s.Labels[discoveryv1.LabelServiceName], s.AddressType, s.Labels, annotations, strings.Join(ports, " "), strings.Join(lines, ""))
}

// Slices and Endpoints are deleted with their service, and change their manager with its selector.
func TestServiceGoesAndLosesItsSelector(t *testing.T) {
	r := controlplanetest.Start(t)
	start(t, r)
	controlplanetest.Create(t, r, controlplanetest.Parse(t, `
apiVersion: v1
kind: Node
metadata: {name: node1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: web}}
spec: {nodeName: node1, containers: [{name: c, image: i}]}
status: {phase: Running, podIP: 10.244.0.10, podIPs: [{ip: 10.244.0.10}], conditions: [{type: Ready, status: "True"}]}
`)...)
	managed := func(by string, endpoints int) {
		t.Helper()
		controlplanetest.Await(t, r, watched, func() string {
			list := controlplanetest.List[*discoveryv1.EndpointSlice](r, kinds.EndpointSlices, "default")
			if len(list) == 1 && list[0].Labels[discoveryv1.LabelManagedBy] == by && len(list[0].Endpoints) == endpoints {
				return ""
			}
			return dump(r)
		})
	}
	managed("endpointslice-controller.k8s.io", 1)
	// Moving the pod out of the service and back, with its labels alone.
	for _, app := range []string{"db", "web"} {
		controlplanetest.Modify(t, r, kinds.Pods, "", "default", "a", func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} })
		managed("endpointslice-controller.k8s.io", map[string]int{"db": 0, "web": 1}[app])
	}
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) { s.Spec.Selector = nil })
	managed("endpointslicemirroring-controller.k8s.io", 1)
	controlplanetest.Modify(t, r, kinds.Services, "", "default", "web", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "web"} })
	managed("endpointslice-controller.k8s.io", 1)
	if _, _, err := r.Delete(t.Context(), kinds.Services, "default", "web", nil); err != nil {
		t.Fatal(err)
	}
	controlplanetest.Await(t, r, watched, func() string { return dump(r) })
}
