package apiserver

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/jointoken"
)

func TestAnonymous(t *testing.T) {
	for path, want := range map[string]int{
		"/healthz": 200, "/livez": 200, "/readyz": 200, "/version": 200, skepv1.PathCA: 200,
		skepv1.PathNetwork: 401, "/": 401, "/api": 401, "/api/v1/pods": 401, "/metrics": 401, "/openapi/v2": 401, "/nowhere": 401,
	} {
		response, body := shared.raw(t, shared.anonymous(), "GET", path, nil, "")
		if response.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, response.Status, want)
		}
		if want == 401 && !strings.Contains(string(body), `"message":"Unauthorized","reason":"Unauthorized","code":401`) {
			t.Errorf("%s: %s", path, body)
		}
	}
	header := http.Header{"Authorization": {"Bearer " + makeToken(t, jointoken.Token{})}}
	if response, _ := shared.raw(t, shared.anonymous(), "GET", "/api/v1/secrets", header, ""); response.StatusCode != 401 {
		t.Errorf("the join token opens the API: %s", response.Status)
	}
}

// Hosts may read the cluster's ranges before they are nodes; only the administrator may read the store's state and the certificates' ends.
func TestNodesLearnTheNetwork(t *testing.T) {
	config, _ := shared.node(t, "network-1")
	for path, want := range map[string]int{skepv1.PathNetwork: 200, skepv1.PathCertificates: 403, skepv1.PathEtcd + "status": 403} {
		if response, body := shared.raw(t, config, "GET", path, nil, ""); response.StatusCode != want {
			t.Errorf("%s: %s: %s, want %d", path, response.Status, body, want)
		}
	}
	_, body := shared.raw(t, config, "GET", skepv1.PathNetwork, nil, "")
	var n skepv1.Network
	err := json.Unmarshal(body, &n)
	key := n.ProbeKey
	if n.ProbeKey = nil; err != nil || !reflect.DeepEqual(n, network) || len(key) != 16 {
		t.Errorf("%+v with a key of %d bytes, %v", n, len(key), err)
	}
	if _, body = shared.raw(t, config, "GET", skepv1.PathNetwork, nil, ""); !bytes.Contains(body, []byte(base64.StdEncoding.EncodeToString(key))) {
		t.Error("the key of probes is another the next time")
	}
	if response, body := shared.raw(t, shared.config, "GET", skepv1.PathNetwork, nil, ""); response.StatusCode != 200 || bytes.Contains(body, []byte("probeKey")) {
		t.Errorf("who is no node gets the key of probes: %s", response.Status)
	}
	if response, _ := shared.raw(t, config, "POST", skepv1.PathNetwork, nil, ""); response.StatusCode != 403 && response.StatusCode != 405 {
		t.Errorf("POST: %s", response.Status)
	}
}

// A node's agent may do what it needs for its own node, and nothing that concerns others.
func TestNodeAuthorization(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	config, _ := shared.node(t, "auth-1")
	agent, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	admin := shared.client.CoreV1()
	for _, name := range []string{"used", "other", "pull"} {
		if _, err := admin.Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := admin.ConfigMaps(ns).Create(ctx, configMap(name), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	own := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.PodSpec{
		NodeName: "auth-1", ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
		Containers: []corev1.Container{{Name: "c", Image: "i:1", EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "used"}}}}}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "used"}}}},
	}}
	if _, err := admin.Pods(ns).Create(ctx, own, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	makePod(t, ns, "foreign", "auth-2")
	core, leases := agent.CoreV1(), agent.CoordinationV1()
	get, list, create := metav1.GetOptions{}, metav1.ListOptions{}, metav1.CreateOptions{}
	node := func(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	patch := []byte(`{"status":{"phase":"Running"}}`)
	type attempt struct {
		what string
		err  error
	}
	try := func(what string, err error) attempt { return attempt{what, err} }
	allowed := []attempt{
		try("create own node", second(core.Nodes().Create(ctx, node("auth-1"), create))),
		try("get another node", second(core.Nodes().Get(ctx, "auth-1", get))),
		try("patch own node's status", second(core.Nodes().Patch(ctx, "auth-1", "application/merge-patch+json", patch, metav1.PatchOptions{}, "status"))),
		try("list services", second(core.Services("").List(ctx, list))),
		try("list slices", second(agent.DiscoveryV1().EndpointSlices("").List(ctx, list))),
		try("list namespaces", second(core.Namespaces().List(ctx, list))),
		try("list own pods", second(core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=auth-1"}))),
		try("get own pod", second(core.Pods(ns).Get(ctx, "own", get))),
		try("patch own pod's status", second(core.Pods(ns).Patch(ctx, "own", "application/merge-patch+json", patch, metav1.PatchOptions{}, "status"))),
		try("get secret of own pod", second(core.Secrets(ns).Get(ctx, "used", get))),
		try("get pull secret of own pod", second(core.Secrets(ns).Get(ctx, "pull", get))),
		try("watch secret of own pod", second(core.Secrets(ns).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=used"}))),
		try("get config map of own pod", second(core.ConfigMaps(ns).Get(ctx, "used", get))),
		try("create own lease", second(leases.Leases(corev1.NamespaceNodeLease).Create(ctx, newLease("auth-1"), create))),
		try("create event", second(core.Events(ns).Create(ctx, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: "e"}, Source: corev1.EventSource{Host: "auth-1"},
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: ns, Name: "own"}}, create))),
		try("read the API's documents", second(agent.Discovery().ServerGroups())),
	}
	refused := []attempt{
		try("create another node", second(core.Nodes().Create(ctx, node("auth-2"), create))),
		try("patch another node", second(core.Nodes().Patch(ctx, "auth-2", "application/merge-patch+json", patch, metav1.PatchOptions{}))),
		{"delete own node", core.Nodes().Delete(ctx, "auth-1", metav1.DeleteOptions{})},
		try("list all pods", second(core.Pods("").List(ctx, list))),
		try("list another node's pods", second(core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=auth-2"}))),
		try("list all but another node's pods", second(core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!=auth-2"}))),
		try("get another node's pod", second(core.Pods(ns).Get(ctx, "foreign", get))),
		try("patch another pod's status", second(core.Pods(ns).Patch(ctx, "foreign", "application/merge-patch+json", patch, metav1.PatchOptions{}, "status"))),
		try("patch own pod", second(core.Pods(ns).Patch(ctx, "own", "application/merge-patch+json", patch, metav1.PatchOptions{}))),
		{"delete another pod", core.Pods(ns).Delete(ctx, "foreign", metav1.DeleteOptions{})},
		try("create a pod", second(core.Pods(ns).Create(ctx, own, create))),
		try("get another secret", second(core.Secrets(ns).Get(ctx, "other", get))),
		try("list secrets", second(core.Secrets(ns).List(ctx, list))),
		try("get another config map", second(core.ConfigMaps(ns).Get(ctx, "other", get))),
		try("create another lease", second(leases.Leases(corev1.NamespaceNodeLease).Create(ctx, newLease("auth-2"), create))),
		try("create a lease elsewhere", second(leases.Leases(ns).Create(ctx, newLease("auth-1"), create))),
		try("list controllers", second(core.ReplicationControllers("").List(ctx, list))),
		try("create a service", second(core.Services(ns).Create(ctx, &corev1.Service{}, create))),
		try("run a command", second(core.RESTClient().Post().AbsPath("/api/v1/namespaces/"+ns+"/pods/own/exec").DoRaw(ctx))),
		try("read metrics", second(core.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx))),
	}
	t.Cleanup(func() {
		if err := errors.Join(shared.client.CoreV1().Nodes().Delete(context.Background(), "auth-1", metav1.DeleteOptions{}),
			shared.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(context.Background(), "auth-1", metav1.DeleteOptions{})); err != nil {
			t.Error(err)
		}
	})
	for _, a := range allowed {
		if a.err != nil {
			t.Errorf("%s: %v", a.what, a.err)
		}
	}
	for _, a := range refused {
		if !apierrors.IsForbidden(a.err) {
			t.Errorf("%s: %v, want Forbidden", a.what, a.err)
		}
	}
	_, err = core.ReplicationControllers("").List(ctx, list)
	if want := `replicationcontrollers is forbidden: User "system:node:auth-1" cannot list resource "replicationcontrollers" in API group "" at the cluster scope`; err == nil || err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if err := core.Pods(ns).Delete(ctx, "own", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete own pod: %v", err)
	}
}

func second(_ any, err error) error { return err }

func newLease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

// An impersonated request has the rights of the impersonated user and no more, and only the administrator may make one.
func TestImpersonation(t *testing.T) {
	ns := namespace(t)
	agent, _ := shared.node(t, "impersonate-1")
	as := func(pairs ...string) http.Header {
		header := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			header.Add(pairs[i], pairs[i+1])
		}
		return header
	}
	maps := "/api/v1/namespaces/" + ns + "/configmaps"
	for _, test := range []struct {
		who    *rest.Config
		path   string
		header http.Header
		code   int
		text   string
	}{
		{shared.config, maps, as("Impersonate-User", "bob"), 403, `configmaps is forbidden: User \"bob\" cannot list resource \"configmaps\"`},
		{shared.config, "/apis", as("Impersonate-User", "bob"), 200, "APIGroupList"},
		{shared.config, maps, as("Impersonate-User", "bob", "Impersonate-Group", "system:masters"), 200, "ConfigMapList"},
		{shared.config, "/api/v1/services", as("Impersonate-User", "system:node:x", "Impersonate-Group", "system:nodes"), 200, "ServiceList"},
		{shared.config, maps, as("Impersonate-User", "system:node:x", "Impersonate-Group", "system:nodes"), 403, "forbidden"},
		{shared.config, maps, as("Impersonate-Group", "system:masters"), 400, "without a user"},
		{shared.config, maps, as("Impersonate-Extra-Scopes", "x"), 400, "without a user"},
		{agent, "/api/v1/services", as("Impersonate-User", "skep:admin", "Impersonate-Group", "system:masters"), 403,
			`users \"skep:admin\" is forbidden: User \"system:node:impersonate-1\" cannot impersonate resource \"users\"`},
		{shared.anonymous(), maps, as("Impersonate-User", "skep:admin", "Impersonate-Group", "system:masters"), 401, "Unauthorized"},
	} {
		response, body := shared.raw(t, test.who, "GET", test.path, test.header, "")
		if response.StatusCode != test.code || !strings.Contains(string(body), test.text) {
			t.Errorf("%s as %v: %s %s, want %d %s", test.path, test.header, response.Status, body, test.code, test.text)
		}
	}
}
