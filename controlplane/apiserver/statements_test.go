package apiserver

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/witness"
)

// watcher is a node that says what it reaches.
type watcher struct {
	name     string
	config   *rest.Config
	key      ed25519.PrivateKey
	sequence uint64
}

func newWatcher(t *testing.T, name string) *watcher {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{name: name, key: private}
	w.config, _ = shared.node(t, name)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{witness.KeyAnnotation: base64.StdEncoding.EncodeToString(public)}}}
	if _, err := shared.client.CoreV1().Nodes().Create(t.Context(), node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteNode(t, name) })
	return w
}

// says is a statement of the watcher, signed.
func (w *watcher) says(t *testing.T, subject string, reachable bool) skepv1.Statement {
	t.Helper()
	w.sequence++
	s, err := witness.Sign(w.key, skepv1.Statement{
		Witness: w.name, Subject: subject, Reachable: reachable, Since: time.Now(), At: time.Now(), Sequence: w.sequence,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// post sends statements as the watcher, to the path of a node.
func (w *watcher) post(t *testing.T, node string, list ...skepv1.Statement) (code int, body string) {
	t.Helper()
	data, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	response, answer := shared.raw(t, w.config, http.MethodPost, skepv1.PathStatements(node), http.Header{"Content-Type": {"application/json"}}, string(data))
	return response.StatusCode, string(answer)
}

// reachable is the status of a node's condition; "" if it has none.
func reachable(t *testing.T, name string) corev1.ConditionStatus {
	t.Helper()
	node, err := shared.client.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range node.Status.Conditions {
		if c.Type == witness.Reachable {
			return c.Status
		}
	}
	return ""
}

func TestStatements(t *testing.T) {
	a, b, c := newWatcher(t, "witness-a"), newWatcher(t, "witness-b"), newWatcher(t, "witness-c")
	ok := func(code int, body string) {
		t.Helper()
		if code != http.StatusNoContent {
			t.Fatalf("answer %d: %s", code, body)
		}
	}
	refused := func(code int, body string, want int, words string) {
		t.Helper()
		if code != want || !strings.Contains(body, words) {
			t.Errorf("answer %d: %s; want %d with %q", code, body, want, words)
		}
	}
	ok(a.post(t, a.name, a.says(t, c.name, false)))
	if got := reachable(t, c.name); got != "" {
		t.Fatalf("one witness made the condition %q", got)
	}

	// What another node is said to have signed counts only if it has.
	forged := b.says(t, c.name, true)
	forged.Reachable = false
	code, body := a.post(t, a.name, forged)
	refused(code, body, http.StatusBadRequest, "not signed with the witness's key")
	code, body = a.post(t, b.name, b.says(t, c.name, false))
	refused(code, body, http.StatusForbidden, "cannot post path")
	old := b.says(t, c.name, false)
	old.At = old.At.Add(-time.Hour)
	old, _ = witness.Sign(b.key, old)
	code, body = b.post(t, b.name, old)
	refused(code, body, http.StatusBadRequest, "made too long ago")
	code, body = a.post(t, a.name, a.says(t, "no-such-node", false))
	refused(code, body, http.StatusBadRequest, "does not watch the subject")
	code, body = a.post(t, a.name, make([]skepv1.Statement, maxStatements+1)...)
	refused(code, body, http.StatusRequestEntityTooLarge, "at most 64")
	response, answer := shared.raw(t, a.config, http.MethodPost, skepv1.PathStatements(a.name), http.Header{"Content-Type": {"application/json"}}, `{"x":`)
	refused(response.StatusCode, string(answer), http.StatusBadRequest, "statements: ")
	if got := reachable(t, c.name); got != "" {
		t.Fatalf("statements that do not count made the condition %q", got)
	}

	ok(b.post(t, b.name, b.says(t, c.name, false)))
	if got := reachable(t, c.name); got != corev1.ConditionFalse {
		t.Fatalf("two witnesses made the condition %q", got)
	}
	ok(b.post(t, b.name, b.says(t, c.name, true)))
	if got := reachable(t, c.name); got != corev1.ConditionTrue {
		t.Fatalf("when one of two watchers reached it again, the condition was %q", got)
	}
}
