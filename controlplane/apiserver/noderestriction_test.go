package apiserver

import (
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skep-io/skep/controlplane/servicespec"
)

// A node may register with the labels that kubelets may have, and with nothing else that affects where pods are placed.
func TestNodeRegistersAsKubeletsMay(t *testing.T) {
	config, _ := shared.node(t, "restrict-1")
	nodes := mustClient(t, config).CoreV1().Nodes()
	create := func(change func(*corev1.Node)) error {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "restrict-1"}}
		change(node)
		_, err := nodes.Create(t.Context(), node, metav1.CreateOptions{})
		if err == nil {
			deleteNode(t, "restrict-1")
			config, _ = shared.node(t, "restrict-1")
			nodes = mustClient(t, config).CoreV1().Nodes()
		}
		return err
	}
	label := func(key string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels = map[string]string{key: "x"} }
	}
	for what, change := range map[string]func(*corev1.Node){
		"its name":        label(corev1.LabelHostname),
		"its zone":        label(corev1.LabelTopologyZone),
		"a node label":    label("node.kubernetes.io/skep-version"),
		"a kubelet label": label("sub.kubelet.kubernetes.io/x"),
		"a label of ours": label("disktype"),
		"a taint":         func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}} },
	} {
		if err := create(change); err != nil {
			t.Errorf("register with %s: %v", what, err)
		}
	}
	for what, change := range map[string]func(*corev1.Node){
		"a restricted label":    label("node-restriction.kubernetes.io/secure"),
		"one below it":          label("a.node-restriction.kubernetes.io/secure"),
		"a control plane label": label("node-role.kubernetes.io/control-plane"),
		"a k8s.io label":        label("x.k8s.io/y"),
		"another's pod range":   func(n *corev1.Node) { n.Spec.PodCIDR = "10.244.3.0/24" },
		"all addresses":         func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"8.0.0.0/7"}; n.Spec.PodCIDR = "8.0.0.0/7" },
		"an owner": func(n *corev1.Node) {
			n.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "u"}}
		},
		"a finalizer":   func(n *corev1.Node) { n.Finalizers = []string{"a.example/stay"} },
		"an annotation": func(n *corev1.Node) { n.Annotations = map[string]string{"a": "b"} },
		"another name":  func(n *corev1.Node) { n.Name = "restrict-9" },
	} {
		if err := create(change); !apierrors.IsForbidden(err) {
			t.Errorf("register with %s: %v, want Forbidden", what, err)
		}
	}
}

// A node may change its status, and nothing of its Node that attracts pods. The old state that it sends is ignored (CVE-2021-25735): every
// way to write is tried, including the status.
func TestNodeChangesItsStatusOnly(t *testing.T) {
	config, _ := shared.node(t, "restrict-2")
	client := mustClient(t, config)
	nodes := client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "restrict-2", Labels: map[string]string{"team": "a", corev1.LabelTopologyZone: "z1"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNode(t, "restrict-2") })
	node.Spec.Taints = []corev1.Taint{{Key: "infected", Effect: corev1.TaintEffectNoSchedule}}
	node.Spec.Unschedulable = true
	if node, err = shared.client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	patches := map[string]string{
		"a restricted label":  `{"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`,
		"a role":              `{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`,
		"another zone":        `{"metadata":{"labels":{"topology.kubernetes.io/zone":"z2"}}}`,
		"a new label":         `{"metadata":{"labels":{"disktype":"ssd"}}}`,
		"another value":       `{"metadata":{"labels":{"team":"b"}}}`,
		"a label less":        `{"metadata":{"labels":{"team":null}}}`,
		"an annotation":       `{"metadata":{"annotations":{"a":"b"}}}`,
		"one beside its key":  `{"metadata":{"annotations":{"skep.io/witness-key":"AAAA","a":"b"}}}`,
		"an owner":            `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`,
		"a finalizer":         `{"metadata":{"finalizers":["a.example/stay"]}}`,
		"a taint less":        `{"spec":{"taints":null}}`,
		"a taint more":        `{"spec":{"taints":[{"key":"k","effect":"NoExecute"}]}}`,
		"schedulable again":   `{"spec":{"unschedulable":null}}`,
		"a provider's ID":     `{"spec":{"providerID":"x://y"}}`,
		"the pod range":       `{"spec":{"podCIDR":"10.244.77.0/24","podCIDRs":["10.244.77.0/24"]}}`,
		"the pod range gone":  `{"spec":{"podCIDR":null,"podCIDRs":null}}`,
		"a label, status too": `{"metadata":{"labels":{"disktype":"ssd"}},"status":{"phase":"Running"}}`,
	}
	for what, patch := range patches {
		for _, subresource := range [][]string{nil, {"status"}} {
			_, err := nodes.Patch(t.Context(), "restrict-2", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, subresource...)
			if subresource != nil && strings.HasPrefix(patch, `{"spec"`) && err == nil {
				continue // the status's way leaves the specification as it is, which is looked at below
			}
			if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
				t.Errorf("%s by %v: %v, want Forbidden", what, subresource, err)
			}
		}
	}
	for _, key := range []string{`"AAAA"`, `"BBBB"`, `null`} { // its own statements' key is the node's
		patch := []byte(`{"metadata":{"annotations":{"skep.io/witness-key":` + key + `}}}`)
		if _, err := nodes.Patch(t.Context(), "restrict-2", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Errorf("its witness key %s: %v", key, err)
		}
	}
	stolen := node.DeepCopy()
	stolen.ResourceVersion, stolen.Spec.Taints, stolen.Labels["disktype"] = "", nil, "ssd"
	for what, put := range map[string]func() (*corev1.Node, error){
		"PUT": func() (*corev1.Node, error) {
			return nodes.Update(t.Context(), stolen.DeepCopy(), metav1.UpdateOptions{})
		},
		"PUT of status": func() (*corev1.Node, error) {
			return nodes.UpdateStatus(t.Context(), stolen.DeepCopy(), metav1.UpdateOptions{})
		},
	} {
		if _, err := put(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want Forbidden", what, err)
		}
	}
	now, err := shared.client.CoreV1().Nodes().Get(t.Context(), "restrict-2", metav1.GetOptions{})
	if err != nil || len(now.Spec.Taints) != 1 || !now.Spec.Unschedulable || now.Spec.PodCIDR != node.Spec.PodCIDR || now.Labels["team"] != "a" || now.Labels["disktype"] != "" {
		t.Errorf("the node is %+v (%v)", now, err)
	}
	for what, patch := range map[string]string{
		"its condition": `{"status":{"conditions":[{"type":"Ready","status":"True"}]}}`,
		"its version":   `{"metadata":{"labels":{"node.kubernetes.io/skep-version":"2","kubernetes.io/arch":"amd64"}}}`,
	} {
		if _, err := nodes.Patch(t.Context(), "restrict-2", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, []string{"status"}[:strings.Count(patch, `"status":{`)]...); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A node may write only the status of its pods, and events about itself and about them.
func TestNodeAndItsPods(t *testing.T) {
	ns := namespace(t)
	config, _ := shared.node(t, "restrict-3")
	client := mustClient(t, config)
	makePod(t, ns, "own", "restrict-3")
	makePod(t, ns, "evicted", "restrict-3")
	makePod(t, ns, "foreign", "restrict-4")
	pods := client.CoreV1().Pods(ns)
	for what, patch := range map[string]string{
		"a label, which services select by": `{"metadata":{"labels":{"app":"web"}}}`,
		"an annotation":                     `{"metadata":{"annotations":{"a":"b"}}}`,
		"a finalizer":                       `{"metadata":{"finalizers":["a.example/stay"]}}`,
		"an owner":                          `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Node","name":"n","uid":"u"}]}}`,
	} {
		_, err := pods.Patch(t.Context(), "own", types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
		pod, getErr := pods.Get(t.Context(), "own", metav1.GetOptions{})
		kept := getErr == nil && len(pod.Labels) == 1 && pod.Labels["app"] == "own" && len(pod.Annotations) == 0 && len(pod.Finalizers) == 0 && len(pod.OwnerReferences) == 0
		if !kept || (err != nil && !apierrors.IsForbidden(err)) {
			t.Errorf("%s: %v; the pod is %+v", what, err, pod.ObjectMeta)
		}
	}
	evict := func(name string) int {
		body := `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"` + name + `"}}`
		response, _ := shared.raw(t, config, "POST", "/api/v1/namespaces/"+ns+"/pods/"+name+"/eviction", http.Header{"Content-Type": {"application/json"}}, body)
		return response.StatusCode
	}
	if own, foreign := evict("evicted"), evict("foreign"); own != 201 || foreign != 403 {
		t.Errorf("eviction of its own pod: %d, of another's: %d", own, foreign)
	}
	event := func(change func(*corev1.Event)) error {
		e := &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}, Source: corev1.EventSource{Component: "kubelet", Host: "restrict-3"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: ns, Name: "own"}}
		change(e)
		in := ns
		if e.InvolvedObject.Namespace == "" {
			in = metav1.NamespaceDefault
		}
		_, err := client.CoreV1().Events(in).Create(t.Context(), e, metav1.CreateOptions{})
		return err
	}
	service, err := shared.client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	aboutService := func(e *corev1.Event) {
		e.InvolvedObject = corev1.ObjectReference{Kind: "Service", APIVersion: "v1", Namespace: ns, Name: "web", UID: service.UID}
		e.Type, e.Reason = corev1.EventTypeWarning, servicespec.ReasonNotInstalled
	}
	serviceBut := func(change func(*corev1.Event)) func(*corev1.Event) {
		return func(e *corev1.Event) { aboutService(e); change(e) }
	}
	for what, change := range map[string]func(*corev1.Event){
		"its pod":                             func(*corev1.Event) {},
		"a pod gone":                          func(e *corev1.Event) { e.InvolvedObject.Name = "was" },
		"itself":                              func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: "restrict-3"} },
		"its pod, as its reporting instance":  func(e *corev1.Event) { e.Source.Host, e.ReportingInstance = "", "restrict-3" },
		"a service that it could not install": aboutService,
		"a service's health port":             serviceBut(func(e *corev1.Event) { e.Reason = servicespec.ReasonHealthPort }),
	} {
		if err := event(change); err != nil {
			t.Errorf("an event about %s: %v", what, err)
		}
	}
	for what, change := range map[string]func(*corev1.Event){
		"another's pod":  func(e *corev1.Event) { e.InvolvedObject.Name = "foreign" },
		"another node":   func(e *corev1.Event) { e.InvolvedObject = corev1.ObjectReference{Kind: "Node", Name: "restrict-4"} },
		"a secret":       func(e *corev1.Event) { e.InvolvedObject.Kind = "Secret" },
		"another's name": func(e *corev1.Event) { e.Source.Host = "restrict-4" },
		"nobody's name":  func(e *corev1.Event) { e.Source.Host = "" },
		"two names":      func(e *corev1.Event) { e.ReportingInstance = "restrict-4" },
		"another too":    func(e *corev1.Event) { e.Related = &corev1.ObjectReference{Kind: "Secret", Namespace: ns, Name: "s"} },
		"a service, for a reason of the control plane's": serviceBut(func(e *corev1.Event) { e.Reason = "AddressInUse" }),
		"a service, that all is well":                    serviceBut(func(e *corev1.Event) { e.Type = corev1.EventTypeNormal }),
		"another service of the name":                    serviceBut(func(e *corev1.Event) { e.InvolvedObject.UID = "other" }),
		"a service that is not there":                    serviceBut(func(e *corev1.Event) { e.InvolvedObject.Name = "none" }),
		"a kind of others":                               func(e *corev1.Event) { e.InvolvedObject.APIVersion = "example.test/v1" },
	} {
		if err := event(change); !apierrors.IsForbidden(err) {
			t.Errorf("an event about or in %s: %v, want Forbidden", what, err)
		}
	}
	told, err := shared.client.CoreV1().Events(ns).Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "scheduled"}, Source: corev1.EventSource{Component: "scheduler"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "own"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	told.Source.Host, told.Message = "restrict-3", "all is well"
	if _, err := client.CoreV1().Events(ns).Update(t.Context(), told, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the scheduler's event: %v, want Forbidden", err)
	}
}

// No form of a path or of a selector gives a node access to other objects (as in CVE-2022-3162, where a list reached into another
// resource).
func TestNodeReadsNothingByOddPaths(t *testing.T) {
	ns := namespace(t)
	config, _ := shared.node(t, "restrict-5")
	if _, err := shared.client.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "hidden-value"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	makePod(t, ns, "foreign", "restrict-6")
	base := "/api/v1/namespaces/" + ns
	for _, path := range []string{
		base + "/secrets", base + "/secrets/s", "/api/v1/secrets", "/api/v1/secrets?fieldSelector=metadata.name%3Ds",
		"/api/v1/watch/namespaces/" + ns + "/secrets/s", base + "/secrets?fieldSelector=metadata.name%3Ds&watch=1",
		base + "/secrets/s/status", base + "/services/..%2fsecrets%2fs", base + "/services%2f..%2fsecrets/s", base + "/services/../secrets/s",
		"/api/v1/namespaces/..%2f..%2fsecrets/services", "//api/v1/namespaces/" + ns + "/secrets/s", base + "//secrets/s", base + "/Secrets/s",
		base + "/pods/foreign", base + "/pods/foreign/log", base + "/pods/foreign/status", base + "/pods/foreign/exec?command=sh&stdout=1",
		"/api/v1/pods?fieldSelector=spec.nodeName%3Drestrict-6", "/api/v1/pods?fieldSelector=spec.nodeName%21%3Drestrict-5",
		"/api/v1/nodes/restrict-6/proxy/pods", "/api/v1/nodes/restrict-5/proxy/pods", "/metrics", "/debug/pprof/",
	} {
		response, body := shared.raw(t, config, "GET", path, nil, "")
		if response.StatusCode < 300 || strings.Contains(string(body), "hidden-value") || strings.Contains(string(body), "aGlkZGVuLXZhbHVl") {
			t.Errorf("GET %s: %s %.200s", path, response.Status, body)
		}
	}
	// Of two selectors one counts, the same for authorization and for the answer.
	for _, query := range []string{"fieldSelector=spec.nodeName%3Drestrict-5&fieldSelector=spec.nodeName%3Drestrict-6", "fieldSelector=spec.nodeName%3Drestrict-6&fieldSelector=spec.nodeName%3Drestrict-5"} {
		if response, body := shared.raw(t, config, "GET", "/api/v1/pods?"+query, nil, ""); response.StatusCode < 300 && strings.Contains(string(body), "foreign") {
			t.Errorf("%s: %s %.300s", query, response.Status, body)
		}
	}
}
