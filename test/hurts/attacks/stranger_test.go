package attacks

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skep-io/skep/agent/node"
)

// token makes a join token by the command line.
func token(t *testing.T, args ...string) string {
	t.Helper()
	out, err := local.Skep(t.Context(), "", append([]string{"token", "create"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

// joinAs joins by the agent's own code and returns the node's access to the API.
func joinAs(t *testing.T, name, token string) (kubernetes.Interface, error) {
	t.Helper()
	identity, err := node.OpenIdentity(t.Context(), node.IdentityConfig{Server: apiServer(t).String(), Token: token, NodeName: name, StateDir: t.TempDir()})
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(&rest.Config{Host: apiServer(t).String(), QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAFile: identity.CAFile(), CertFile: identity.CertFile(), KeyFile: identity.KeyFile(),
	}})
}

func mustJoin(t *testing.T, name, token string) kubernetes.Interface {
	t.Helper()
	client, err := joinAs(t, name, token)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// register makes the node's Node object, as its agent does; it is deleted with the test.
func register(t *testing.T, client kubernetes.Interface, name string) *corev1.Node {
	t.Helper()
	made, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNode(t, name) })
	return made
}

func deleteNode(t *testing.T, name string) {
	t.Helper()
	err := local.API.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Error(err)
	}
}

// A host with a join token asks for a certificate that names the API server, or another node, beside itself, to be taken for it.
func TestCertificatesNameTheNodeAlone(t *testing.T) {
	secret := token(t)
	server := apiServer(t).Hostname()
	for what, names := range map[string]struct {
		node string
		dns  []string
		ips  []string
	}{
		"the API server's address": {"mallory", []string{"mallory"}, []string{server}},
		"the service's address":    {"mallory", []string{"mallory"}, []string{"10.96.0.1"}},
		"the service's name":       {"mallory", []string{"mallory", "kubernetes.default.svc"}, nil},
		"another node's name":      {"mallory", []string{"mallory", "node1"}, nil},
		"another node's address":   {"mallory", []string{"mallory"}, []string{"198.18.1.250"}},
		"the service's, as a node": {"kubernetes", []string{"kubernetes"}, nil},
		"the server's, as a node":  {server, []string{server}, nil},
	} {
		code, body := requestCertificate(t, secret, names.node, names.dns, names.ips)
		var status metav1.Status
		if err := json.Unmarshal([]byte(body), &status); code != http.StatusBadRequest || err != nil || status.Reason != metav1.StatusReasonBadRequest || !strings.Contains(status.Message, "join: ") {
			t.Errorf("%s: %d %s, want a Status of 400", what, code, body)
		}
	}
	code, body := requestCertificate(t, secret, "mallory", []string{"mallory"}, nil)
	var joined struct{ Certificate string }
	if err := json.Unmarshal([]byte(body), &joined); err != nil || code != http.StatusOK {
		t.Fatalf("a host that asks for its own name: %d %s", code, body)
	}
	block, _ := pem.Decode([]byte(joined.Certificate))
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if len(certificate.DNSNames) != 1 || certificate.DNSNames[0] != "mallory" || certificate.VerifyHostname(server) == nil {
		t.Errorf("it is certified as %q at %v", certificate.DNSNames, certificate.IPAddresses)
	}
}

// requestCertificate does what a host does that joins, with names of its choice.
func requestCertificate(t *testing.T, token, name string, dns, ips []string) (code int, body string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.CertificateRequest{DNSNames: dns}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(map[string]string{"nodeName": name, "csr": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, apiServer(t).String()+"/skep/v1/join", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: authority(t)}, DisableKeepAlives: true}
	response, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(answer)
}

func authority(t *testing.T) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(local.Dir, "skepd", "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	return pool
}

// A node claims a range of addresses that is not the cluster's, or is another node's, as its pods', to which all hosts would send.
func TestPodRangesAreNotTaken(t *testing.T) {
	intruder := mustJoin(t, "intruder", token(t))
	others, err := local.API.CoreV1().Nodes().Get(t.Context(), "node1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, cidr := range []string{"8.0.0.0/7", "0.0.0.0/0", apiServer(t).Hostname() + "/32", others.Spec.PodCIDR, "10.244.0.0/16"} {
		greedy := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "intruder"}, Spec: corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}}}
		if _, err := intruder.CoreV1().Nodes().Create(t.Context(), greedy, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("a node with pods at %s: %v, want Forbidden", cidr, err)
		}
		// Nor does the administrator give it away by mistake.
		if made, err := local.API.CoreV1().Nodes().Create(t.Context(), greedy, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "podCIDR") {
			t.Errorf("made by an administrator with pods at %s: %v, want Invalid", cidr, err)
			deleteNode(t, made.Name)
		}
	}
	made := register(t, intruder, "intruder")
	if !strings.HasPrefix(made.Spec.PodCIDR, "10.244.") || made.Spec.PodCIDR == others.Spec.PodCIDR {
		t.Errorf("a node that asks for none has pods at %s", made.Spec.PodCIDR)
	}
	for what, patch := range map[string]string{
		"all addresses": `{"spec":{"podCIDR":"8.0.0.0/7","podCIDRs":["8.0.0.0/7"]}}`, "another's": fmt.Sprintf(`{"spec":{"podCIDR":%q,"podCIDRs":[%q]}}`, others.Spec.PodCIDR, others.Spec.PodCIDR),
	} {
		if _, err := intruder.CoreV1().Nodes().Patch(t.Context(), "intruder", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "may not change podCIDR") {
			t.Errorf("a node that changes its pods' addresses to %s: %v, want Invalid", what, err)
		}
	}
	n, err := local.Node("node1")
	if err != nil {
		t.Fatal(err)
	}
	var routes string
	if err := n.InNetwork(func() error {
		data, err := os.ReadFile("/proc/thread-self/net/route")
		routes = string(data)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(routes, "\n") {
		if fields := strings.Fields(line); len(fields) > 7 && (fields[1] == "00000008" || fields[7] == "000000FE") {
			t.Errorf("node1 has the route %s", line)
		}
	}
}

// A join token that has leaked does not give access for ever and under any name: it expires, is listed and deleted, does not give
// the name of an existing node, and a deleted node has no access.
func TestJoinTokensEnd(t *testing.T) {
	general := token(t, "--ttl", "1h", "--description", "for the attack")
	if _, err := joinAs(t, "node1", general); err == nil || !strings.Contains(err.Error(), "skep token create --node node1") {
		t.Errorf("taking node1's place: %v", err)
	}
	client := mustJoin(t, "guest", general)
	register(t, client, "guest")
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "guest", metav1.GetOptions{}); err != nil {
		t.Errorf("a node that joined: %v", err)
	}
	deleteNode(t, "guest")
	eventually(t, "the deleted node to be refused", func() error {
		if _, err := client.CoreV1().Nodes().Get(t.Context(), "guest", metav1.GetOptions{}); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("it is answered %v, want Unauthorized", err)
		}
		return nil
	})
	id := strings.Split(general, ".")[2]
	listed := func() string {
		out, err := local.Skep(t.Context(), "", "token", "list")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if out := listed(); !strings.Contains(out, id) || !strings.Contains(out, "for the attack") {
		t.Errorf("the list is\n%s", out)
	}
	if out, err := local.Skep(t.Context(), "", "token", "delete", id); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out := listed(); strings.Contains(out, id) {
		t.Errorf("the list still is\n%s", out)
	}
	short := token(t, "--ttl", "1s")
	eventually(t, "a token to expire", func() error {
		code, body := requestCertificate(t, short, "late", []string{"late"}, nil)
		if code != http.StatusUnauthorized {
			return fmt.Errorf("it is answered %d %s", code, body)
		}
		return nil
	})
	if code, body := requestCertificate(t, general, "guest", []string{"guest"}, nil); code != http.StatusUnauthorized || !strings.Contains(body, "skep token create") {
		t.Errorf("a deleted token: %d %s", code, body)
	}
	secrets, err := local.API.CoreV1().Secrets(metav1.NamespaceSystem).List(t.Context(), metav1.ListOptions{FieldSelector: "type=bootstrap.kubernetes.io/token"})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		ends, err := time.Parse(time.RFC3339, string(secret.Data["expiration"]))
		if err != nil || time.Until(ends) > 24*time.Hour {
			t.Errorf("token %s ends %s (%v), want within 24 hours", secret.Name, ends, err)
		}
	}
}

// CVE-2025-5187, CVE-2021-25735: with the certificate of a node one attracts other pods to it, takes over others' nodes, pods and
// leases, and reads the secrets of all.
func TestNodesWriteWhatIsTheirs(t *testing.T) {
	s := newSpace(t)
	s.Skep("create", "secret", "generic", "others", "--from-literal=a=b")
	s.create(pod("others", "sleep 1000", func(p *corev1.Pod) { p.Spec.NodeName = "node1" }))
	s.awaitReady("others")
	thief := mustJoin(t, "thief", token(t))
	register(t, thief, "thief")
	nodes, pods := thief.CoreV1().Nodes(), thief.CoreV1().Pods(s.Name)
	patch := func(name, body string, sub ...string) func() error {
		return func() error {
			_, err := nodes.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}, sub...)
			return err
		}
	}
	for what, attack := range map[string]func() error{
		"label itself":            patch("thief", `{"metadata":{"labels":{"disktype":"ssd"}}}`),
		"label itself restricted": patch("thief", `{"metadata":{"labels":{"node-restriction.kubernetes.io/a":"b"}}}`, "status"),
		"taint itself":            patch("thief", `{"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`),
		"annotate itself":         patch("thief", `{"metadata":{"annotations":{"a":"b"}}}`),
		"own itself":              patch("thief", `{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"u"}]}}`),
		"write another's status":  patch("node1", `{"status":{"addresses":[]}}`, "status"),
		"write another's node":    patch("node1", `{"spec":{"unschedulable":true}}`),
		"delete another's node":   func() error { return nodes.Delete(t.Context(), "node1", metav1.DeleteOptions{}) },
		"delete another's pod":    func() error { return pods.Delete(t.Context(), "others", metav1.DeleteOptions{}) },
		"read another's pod":      func() error { _, err := pods.Get(t.Context(), "others", metav1.GetOptions{}); return err },
		"write another's pod": func() error {
			_, err := pods.Patch(t.Context(), "others", types.MergePatchType, []byte(`{"status":{"podIP":"10.244.9.9"}}`), metav1.PatchOptions{}, "status")
			return err
		},
		"bind a pod": func() error {
			return pods.Bind(t.Context(), &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "others"}, Target: corev1.ObjectReference{Name: "thief"}}, metav1.CreateOptions{})
		},
		"read a secret": func() error {
			_, err := thief.CoreV1().Secrets(s.Name).Get(t.Context(), "others", metav1.GetOptions{})
			return err
		},
		"list all secrets": func() error { _, err := thief.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{}); return err },
		"read join tokens": func() error {
			_, err := thief.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
			return err
		},
		"make a pod": func() error {
			_, err := pods.Create(t.Context(), pod("planted", "true", nil), metav1.CreateOptions{})
			return err
		},
		"write a service": func() error {
			_, err := thief.CoreV1().Services(s.Name).Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		},
		"speak of another node": func() error {
			_, err := thief.CoreV1().Events("default").Create(t.Context(), &corev1.Event{ObjectMeta: metav1.ObjectMeta{GenerateName: "e-"}, Source: corev1.EventSource{Host: "thief"}, InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "node1"}}, metav1.CreateOptions{})
			return err
		},
		"renew another's lease": func() error {
			_, err := thief.CoordinationV1().Leases("kube-node-lease").Patch(t.Context(), "node1", types.MergePatchType, []byte(`{"spec":{"holderIdentity":"thief"}}`), metav1.PatchOptions{})
			return err
		},
		"take the leader's lease": func() error {
			_, err := thief.CoordinationV1().Leases("kube-system").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{})
			return err
		},
	} {
		if err := attack(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want Forbidden", what, err)
		}
	}
	for what, right := range map[string]func() error{
		"write its status": patch("thief", `{"status":{"nodeInfo":{"kernelVersion":"x"}}}`, "status"),
		"have its lease": func() error {
			_, err := thief.CoordinationV1().Leases("kube-node-lease").Create(t.Context(), &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "thief"}}, metav1.CreateOptions{})
			return err
		},
		"read services": func() error {
			_, err := thief.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
			return err
		},
	} {
		if err := right(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}
