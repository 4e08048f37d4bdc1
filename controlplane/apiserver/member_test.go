package apiserver

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/allocator"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/storage"
)

func mustClient(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// registered joins as a node and makes its Node object, as an agent does.
func registered(t *testing.T, name, token string) (*rest.Config, *kubernetes.Clientset) {
	t.Helper()
	config := joined(t, name, token)
	client := mustClient(t, config)
	if _, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return config, client
}

// deleteNode deletes a node and waits until the server has seen the end of its membership: a node that is created again joins with another
// number.
func deleteNode(t *testing.T, name string) {
	t.Helper()
	if err := shared.client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the end of node "+name+"'s membership", func() bool {
		_, member := shared.server.members.Number(name)
		return !member
	})
}

// A token is valid until it expires or is deleted, only in full and only for its purpose.
func TestJoinTokensThatDoNotCount(t *testing.T) {
	secrets := shared.client.CoreV1().Secrets(metav1.NamespaceSystem)
	_, csr := certificateRequest(t, "tokens-1")
	try := func(token string) (*http.Response, []byte) {
		return shared.raw(t, shared.anonymous(), "POST", skepv1.PathJoin, bearer(token), joinBody(t, "tokens-1", csr))
	}
	good := makeToken(t, jointoken.Token{Expires: time.Now().Add(time.Hour)})
	change := func(token string, f func(*corev1.Secret)) string {
		text, err := jointoken.Parse(token)
		if err != nil {
			t.Fatal(err)
		}
		secret, err := secrets.Get(t.Context(), jointoken.SecretPrefix+text.ID, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		f(secret)
		if _, err := secrets.Update(t.Context(), secret, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return token
	}
	parts := strings.Split(good, ".")
	deleted := makeToken(t, jointoken.Token{})
	if err := secrets.Delete(t.Context(), jointoken.SecretPrefix+strings.Split(deleted, ".")[2], metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	other := makeToken(t, jointoken.Token{})
	for what, token := range map[string]string{
		"expired":                makeToken(t, jointoken.Token{Expires: time.Now().Add(-time.Second)}),
		"deleted":                deleted,
		"another's secret":       strings.Join([]string{parts[0], parts[1], parts[2], strings.Split(other, ".")[3]}, "."),
		"a secret that is begun": good[:len(good)-1],
		"an ID with a path":      strings.Join([]string{parts[0], parts[1], "../../", parts[3]}, "."),
		"kubeadm's form":         parts[2] + "." + parts[3],
		"of an earlier version":  "skep1." + parts[1] + "." + parts[3] + parts[3],
		"not for joining":        change(makeToken(t, jointoken.Token{}), func(s *corev1.Secret) { s.Data["usage-bootstrap-authentication"] = []byte("false") }),
		"expiry unreadable":      change(makeToken(t, jointoken.Token{}), func(s *corev1.Secret) { s.Data["expiration"] = []byte("never") }),
		"ID of another":          change(makeToken(t, jointoken.Token{}), func(s *corev1.Secret) { s.Data["token-id"] = []byte(parts[2]) }),
	} {
		if response, body := try(token); response.StatusCode != 401 || !strings.Contains(string(body), "skep token create") {
			t.Errorf("%s: %s %s", what, response.Status, body)
		}
	}
	if response, body := try(makeToken(t, jointoken.Token{Node: "tokens-2"})); response.StatusCode != 403 || !strings.Contains(string(body), `only`) {
		t.Errorf("a token for another node: %s %s", response.Status, body)
	}
	if response, body := try(good); response.StatusCode != 200 {
		t.Errorf("a token that counts: %s %s", response.Status, body)
	}
}

// A token does not let a host take the place of an existing node; a token that names the node does, and ends the old membership.
func TestNameOfANodeIsNotTaken(t *testing.T) {
	token := makeToken(t, jointoken.Token{})
	config, client := registered(t, "taken-1", token)
	t.Cleanup(func() { deleteNode(t, "taken-1") })
	_, csr := certificateRequest(t, "taken-1")
	response, body := shared.raw(t, shared.anonymous(), "POST", skepv1.PathJoin, bearer(token), joinBody(t, "taken-1", csr))
	if response.StatusCode != 409 || !strings.Contains(string(body), "skep token create --node taken-1") {
		t.Errorf("a second host of the name: %s %s", response.Status, body)
	}
	if response, body := shared.raw(t, config, "POST", skepv1.PathJoin, nil, joinBody(t, "taken-1", csr)); response.StatusCode != 200 {
		t.Errorf("the node renews its certificate: %s %s", response.Status, body)
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "taken-1", metav1.GetOptions{}); err != nil {
		t.Errorf("the certificate from before the renewal: %v", err)
	}
	second := mustClient(t, joined(t, "taken-1", makeToken(t, jointoken.Token{Node: "taken-1"})))
	if _, err := second.CoreV1().Nodes().Get(t.Context(), "taken-1", metav1.GetOptions{}); err != nil {
		t.Errorf("the host that took its place: %v", err)
	}
	if _, err := client.CoreV1().Nodes().Get(t.Context(), "taken-1", metav1.GetOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("the host whose place was taken: %v", err)
	}
	// A name that is free again, or for which no Node was created, can be joined with any token; certificates of the earlier host no longer
	// count.
	first := mustClient(t, joined(t, "taken-2", token))
	joined(t, "taken-2", token)
	if _, err := first.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a host before it registered, when another joined by its name: %v", err)
	}
}

// Deleting a node ends all use of its certificate at once and for good, kept connections and watches included.
func TestDeletedNodeIsRefused(t *testing.T) {
	token := makeToken(t, jointoken.Token{})
	config, client := registered(t, "gone-1", token)
	watch, err := client.CoreV1().Services("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	deleteNode(t, "gone-1")
	for deadline := time.After(time.Minute); ; {
		select {
		case _, open := <-watch.ResultChan():
			if open {
				continue
			}
		case <-deadline:
			t.Fatal("the watch goes on")
		}
		break
	}
	_, csr := certificateRequest(t, "gone-1")
	refused := func(when string) {
		t.Helper()
		_, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if !apierrors.IsUnauthorized(err) || !apierrors.HasStatusCause(err, NodeRemoved) {
			t.Errorf("%s: the kept connection: %v", when, err)
		}
		_, err = mustClient(t, config).CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone-1"}}, metav1.CreateOptions{})
		if !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: a node that registers again: %v", when, err)
		}
		if response, body := shared.raw(t, config, "POST", skepv1.PathJoin, nil, joinBody(t, "gone-1", csr)); response.StatusCode != 401 {
			t.Errorf("%s: renewal: %s %s", when, response.Status, body)
		}
	}
	refused("deleted")
	if _, err := shared.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "gone-1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	refused("a Node of the name was made by hand")
	deleteNode(t, "gone-1")
	_, again := registered(t, "gone-1", token)
	t.Cleanup(func() { deleteNode(t, "gone-1") })
	if _, err := again.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("joined anew: %v", err)
	}
	refused("a node of the name joined anew")
}

// A node that is missing in the restored state is refused as unknown, not as removed: its pods are to keep running.
func TestNodeUnknownToTheStore(t *testing.T) {
	config, client := registered(t, "restored-1", makeToken(t, jointoken.Token{}))
	nodeKey := kinds.Nodes.Key("", "restored-1")
	_, err := shared.server.registry.Store().Commit(t.Context(), nil, []storage.Op{
		{Key: allocator.MemberKey("restored-1"), Delete: true}, {Key: nodeKey, Delete: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := client.CoreV1().Services("").List(t.Context(), metav1.ListOptions{})
		if err == nil && time.Now().Before(deadline) {
			continue
		}
		if !apierrors.IsUnauthorized(err) || !apierrors.HasStatusCause(err, NodeUnknown) || apierrors.HasStatusCause(err, NodeRemoved) ||
			!strings.Contains(err.Error(), "skep token create --node restored-1") {
			t.Errorf("a node that the store does not know: %v", err)
		}
		break
	}
	// The certificate alone does not let it join again: a node that was removed after the snapshot would have one too.
	_, csr := certificateRequest(t, "restored-1")
	if response, body := shared.raw(t, config, "POST", skepv1.PathJoin, nil, joinBody(t, "restored-1", csr)); response.StatusCode != 401 {
		t.Errorf("renewal: %s %s", response.Status, body)
	}
	_, again := registered(t, "restored-1", makeToken(t, jointoken.Token{Node: "restored-1"}))
	t.Cleanup(func() { deleteNode(t, "restored-1") })
	if _, err := again.CoreV1().Services("").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Errorf("joined again: %v", err)
	}
}
