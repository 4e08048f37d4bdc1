package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"

	"github.com/skep-io/skep/controlplane/identity"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
)

// owners are the managers that have a field, by its place in the record: "manager operation subresource".
func owners(obj metav1.Object, field string) []string {
	var found []string
	for _, entry := range obj.GetManagedFields() {
		var fields any
		raw, _ := json.Marshal(entry.FieldsV1)
		_ = json.Unmarshal(raw, &fields)
		at := fields
		for _, step := range strings.Split(field, ".") {
			m, _ := at.(map[string]any)
			at = m["f:"+step]
		}
		if at != nil {
			found = append(found, strings.TrimSpace(fmt.Sprintf("%s %s %s", entry.Manager, entry.Operation, entry.Subresource)))
		}
	}
	slices.Sort(found)
	return found
}

func wantOwners(t *testing.T, obj metav1.Object, field string, want ...string) {
	t.Helper()
	if got := owners(obj, field); !slices.Equal(got, want) {
		t.Errorf("%s of %s is owned by %q, want %q", field, obj.GetName(), got, want)
	}
}

// Fields that a manager applies are merged, owned by it, and removed when it no longer applies them. Different values of two managers are a
// conflict in Kubernetes' words, which can be forced.
func TestApply(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	maps := shared.client.CoreV1().ConfigMaps(ns)
	data := func(pairs ...string) *coreapply.ConfigMapApplyConfiguration {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return coreapply.ConfigMap("c", ns).WithData(m)
	}
	as := func(manager string) metav1.ApplyOptions { return metav1.ApplyOptions{FieldManager: manager} }
	if dry, err := maps.Apply(ctx, data("a", "1"), metav1.ApplyOptions{FieldManager: "one", DryRun: []string{"All"}}); err != nil || dry.Data["a"] != "1" {
		t.Errorf("dry run: %v, %v", dry, err)
	}
	if _, err := maps.Get(ctx, "c", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry run: %v, want NotFound", err)
	}
	first, err := maps.Apply(ctx, data("a", "1", "b", "1"), as("one"))
	if err != nil {
		t.Fatal(err)
	}
	wantOwners(t, first, "data.a", "one Apply")
	again, err := maps.Apply(ctx, data("a", "1", "b", "1"), as("one"))
	if err != nil || again.ResourceVersion != first.ResourceVersion {
		t.Errorf("applying the same again makes version %s of %s (%v)", again.ResourceVersion, first.ResourceVersion, err)
	}
	_, err = maps.Apply(ctx, data("a", "2", "c", "2"), as("two"))
	const words = `Apply failed with 1 conflict: conflict with "one": .data.a`
	var causes []metav1.StatusCause
	if status, ok := err.(apierrors.APIStatus); ok && apierrors.IsConflict(err) {
		causes = status.Status().Details.Causes
	}
	if len(causes) != 1 || err.Error() != words || causes[0] != (metav1.StatusCause{Type: metav1.CauseTypeFieldManagerConflict, Message: `conflict with "one"`, Field: ".data.a"}) {
		t.Errorf("conflict: %v, causes %+v", err, causes)
	}
	forced, err := maps.Apply(ctx, data("a", "2", "c", "2"), metav1.ApplyOptions{FieldManager: "two", Force: true})
	if err != nil || forced.Data["a"] != "2" || forced.Data["b"] != "1" {
		t.Fatalf("forced: %v, %v", forced, err)
	}
	wantOwners(t, forced, "data.a", "two Apply")
	shared2, err := maps.Apply(ctx, data("b", "1"), as("two"))
	if err != nil || len(shared2.Data) != 1 {
		t.Errorf("two applies less: %v, %v; want b alone", shared2.Data, err)
	}
	wantOwners(t, shared2, "data.b", "one Apply", "two Apply")

	// Other writes are recorded from now on, those of loops under their component's name.
	if _, err := maps.Patch(ctx, "c", types.MergePatchType, []byte(`{"data":{"p":"1"}}`), metav1.PatchOptions{FieldManager: "patcher"}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.registry.Modify(identity.With(ctx, identity.Controllers), kinds.ConfigMaps, "", ns, "c", resource.UpdateOptions{}, func(current resource.Object) (resource.Object, error) {
		m := current.DeepCopyObject().(*corev1.ConfigMap)
		m.Labels = map[string]string{"loop": "x"}
		return m, nil
	}); err != nil {
		t.Fatal(err)
	}
	now, err := maps.Get(ctx, "c", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	wantOwners(t, now, "data.p", "patcher Update")
	wantOwners(t, now, "metadata.labels.loop", "kube-controller-manager Update")
	if _, err = maps.Apply(ctx, data("b", "1", "p", "2"), as("one")); err == nil || !strings.Contains(err.Error(), `conflict with "patcher" using v1: .data.p`) {
		t.Errorf("conflict with an update: %v", err)
	}
	// A write without the record keeps it, one with an empty record removes it.
	now.ManagedFields, now.Data = nil, map[string]string{"b": "1", "u": "1"}
	updated, err := maps.Update(ctx, now, metav1.UpdateOptions{FieldManager: "updater"})
	if err != nil {
		t.Fatal(err)
	}
	wantOwners(t, updated, "data.u", "updater Update")
	wantOwners(t, updated, "data.b", "one Apply", "two Apply")
	updated.ManagedFields = []metav1.ManagedFieldsEntry{{}}
	if updated, err = maps.Update(ctx, updated, metav1.UpdateOptions{}); err != nil || len(updated.ManagedFields) != 0 {
		t.Errorf("after the record was emptied: %v, %v", updated.ManagedFields, err)
	}
	// An object has no record until it is applied.
	plain, err := maps.Create(ctx, configMap("plain", "k", "v"), metav1.CreateOptions{FieldManager: "creator"})
	if err != nil || len(plain.ManagedFields) != 0 {
		t.Errorf("created: %v, %v", plain.ManagedFields, err)
	}
	applied, err := maps.Apply(ctx, coreapply.ConfigMap("plain", ns).WithData(map[string]string{"k": "v", "l": "w"}), as("one"))
	if err != nil {
		t.Fatal(err)
	}
	wantOwners(t, applied, "data.k", "before-first-apply Update", "one Apply")
	wantOwners(t, applied, "data.l", "one Apply")
}

// The status and the scale of an object are applied separately, and an apply to one part gives no ownership of fields of another.
func TestApplyParts(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	sets := shared.client.AppsV1().ReplicaSets(ns)
	config := func(replicas int32) *appsapply.ReplicaSetApplyConfiguration {
		return appsapply.ReplicaSet("web", ns).WithSpec(appsapply.ReplicaSetSpec().WithReplicas(replicas).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(map[string]string{"a": "b"})).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(map[string]string{"a": "b"}).
				WithSpec(coreapply.PodSpec().WithContainers(coreapply.Container().WithName("c").WithImage("i")))))
	}
	as := metav1.ApplyOptions{FieldManager: "one"}
	if _, err := sets.ApplyStatus(ctx, config(1).WithStatus(appsapply.ReplicaSetStatus().WithReplicas(1)), as); !apierrors.IsNotFound(err) {
		t.Errorf("status of what is not there: %v, want NotFound", err)
	}
	set, err := sets.Apply(ctx, config(2).WithStatus(appsapply.ReplicaSetStatus().WithReplicas(9)), as)
	if err != nil || set.Status.Replicas != 0 {
		t.Fatalf("applied: %v, %v", set, err)
	}
	wantOwners(t, set, "spec.replicas", "one Apply")
	wantOwners(t, set, "status.replicas")
	if set, err = sets.ApplyStatus(ctx, appsapply.ReplicaSet("web", ns).WithStatus(appsapply.ReplicaSetStatus().WithReplicas(1)), metav1.ApplyOptions{FieldManager: "loop"}); err != nil || set.Status.Replicas != 1 {
		t.Fatalf("status: %v, %v", set, err)
	}
	wantOwners(t, set, "status.replicas", "loop Apply status")
	scale := autoscalingapply.Scale().WithSpec(autoscalingapply.ScaleSpec().WithReplicas(5))
	if _, err := sets.ApplyScale(ctx, "web", scale, metav1.ApplyOptions{FieldManager: "scaler"}); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one" using apps/v1: .spec.replicas`) && !strings.Contains(err.Error(), `conflict with "one": .spec.replicas`) {
		t.Errorf("scale that another owns: %v", err)
	}
	if scaled, err := sets.ApplyScale(ctx, "web", scale, metav1.ApplyOptions{FieldManager: "scaler", Force: true}); err != nil || scaled.Spec.Replicas != 5 {
		t.Fatalf("scale: %v, %v", scaled, err)
	}
	if set, err = sets.Get(ctx, "web", metav1.GetOptions{}); err != nil || *set.Spec.Replicas != 5 {
		t.Fatalf("after scaling: %v, %v", set, err)
	}
	wantOwners(t, set, "spec.replicas", "scaler Apply scale")
	if _, err := sets.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"replicas":6}}`), metav1.PatchOptions{FieldManager: "hand"}, "scale"); err != nil {
		t.Fatal(err)
	}
	if set, err = sets.Get(ctx, "web", metav1.GetOptions{}); err != nil || *set.Spec.Replicas != 6 {
		t.Fatalf("after a patch of the scale: %v, %v", set, err)
	}
	wantOwners(t, set, "spec.replicas", "hand Update scale")
	wantOwners(t, set, "spec.template", "one Apply")
}

// Objects of every kind can be applied: only validation may refuse them.
func TestApplyEveryKind(t *testing.T) {
	ns := namespace(t)
	header := http.Header{"Content-Type": {string(types.ApplyYAMLPatchType)}}
	for _, k := range shared.registry.Kinds() {
		path := "/apis/" + k.GVK.Group + "/" + k.GVK.Version
		if k.GVK.Group == "" {
			path = "/api/" + k.GVK.Version
		}
		if k.Namespaced {
			path += "/namespaces/" + ns
		}
		apiVersion, kind := k.GVK.ToAPIVersionAndKind()
		body := fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata: {name: x, labels: {a: b}}\n", apiVersion, kind)
		response, answer := shared.raw(t, shared.config, "PATCH", path+"/"+k.Resource+"/x?fieldManager=m&dryRun=All", header, body)
		if response.StatusCode != http.StatusCreated && response.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s\n%s", k.Resource, response.Status, answer)
		}
	}
}

// Invalid applies are refused in Kubernetes' words. A client that may not create an object cannot create it by applying it.
func TestApplyRefused(t *testing.T) {
	ns := namespace(t)
	for _, test := range []struct {
		query, media, body string
		code               int
		want               string
	}{
		{"", "application/apply-patch+yaml", "{}", 422, "fieldManager: Required value: is required for apply patch"},
		{"?fieldManager=m", "application/apply-patch+cbor", "{}", 415, "application/apply-patch+yaml"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{}", 400, "invalid object type: /, Kind="},
		{"?fieldManager=m", "application/apply-patch+yaml", "a: [", 400, "error decoding patch"},
		{"?fieldManager=m", "application/apply-patch+yaml", "- a", 400, "error decoding patch"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: x}", 400, "metadata"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: true}}", 400, "metadata.name"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: Secret}", 400, "invalid object type: /v1, Kind=Secret"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: other}}", 400, "does not match the name on the URL"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {managedFields: [{}]}}", 400, "metadata.managedFields must be nil"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {uid: u}}", 409, "uid mismatch: the provided object specified uid u, and no existing object was found"},
		{"?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, special: 1}", 500, ".special: field not declared in schema"},
		{"?fieldManager=m&fieldValidation=Strict", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, data: {a: b, a: c}}", 400, "error strict decoding patch"},
		{"?fieldManager=m&force=true", "application/merge-patch+json", "{}", 422, "force: Forbidden: may not be specified for non-apply patch"},
	} {
		path := "/api/v1/namespaces/" + ns + "/configmaps/x" + test.query
		response, body := shared.raw(t, shared.config, "PATCH", path, http.Header{"Content-Type": {test.media}}, test.body)
		var status metav1.Status
		if err := json.Unmarshal(body, &status); err != nil || response.StatusCode != test.code || !strings.Contains(status.Message, test.want) {
			t.Errorf("PATCH %s %s: %s\n%s\nwant %d, %q", test.query, test.body, response.Status, body, test.code, test.want)
		}
	}
	agent, _ := shared.node(t, "applier")
	response, body := shared.raw(t, agent, "PATCH", "/api/v1/nodes/other?"+url.Values{"fieldManager": {"m"}}.Encode(),
		http.Header{"Content-Type": {string(types.ApplyYAMLPatchType)}}, "{apiVersion: v1, kind: Node, metadata: {name: other}}")
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("an agent applies another node: %s\n%s", response.Status, body)
	}
	if _, err := shared.client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "applier"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	response, body = shared.raw(t, agent, "PATCH", "/api/v1/nodes/applier?"+url.Values{"fieldManager": {"m"}, "force": {"true"}}.Encode(),
		http.Header{"Content-Type": {string(types.ApplyYAMLPatchType)}}, "{apiVersion: v1, kind: Node, metadata: {name: applier}, spec: {taints: [{key: k, effect: NoSchedule}]}}")
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("an agent applies taints to its own node: %s\n%s", response.Status, body)
	}
}

// Stock kubectl applies on the server, sees conflicts, forces them, and takes over what it applied on the client, without what
// removing what others have set since: their labels and finalizers stay.
func TestKubectlServerSideApply(t *testing.T) {
	ns := namespace(t)
	edited := strings.ReplaceAll(controllerYAML, "replicas: 2", "replicas: 3")
	old := strings.ReplaceAll(controllerYAML, "name: web", "name: old")
	steps := []struct {
		args  string
		stdin string
		want  []string
		fails bool
	}{
		{args: "apply --server-side -f -", stdin: controllerYAML, want: []string{"replicationcontroller/web serverside-applied", "service/web serverside-applied"}},
		{args: "get rc web --show-managed-fields -o yaml", want: []string{"manager: kubectl", "operation: Apply", "f:replicas"}},
		{args: "diff --server-side -f -", stdin: edited, want: []string{"replicas: 3"}, fails: true},
		{args: "apply --server-side --field-manager=other -f -", stdin: edited, want: []string{`Apply failed with 1 conflict: conflict with "kubectl": .spec.replicas`, "--force-conflicts"}, fails: true},
		{args: "apply --server-side --field-manager=other --force-conflicts -f -", stdin: edited, want: []string{"replicationcontroller/web serverside-applied"}},
		{args: "get rc web -o jsonpath={.spec.replicas}", want: []string{"3"}},
		{args: "apply --server-side --dry-run=server -f -", stdin: edited, want: []string{"replicationcontroller/web serverside-applied (server dry run)"}},
		{args: "apply -f -", stdin: old, want: []string{"replicationcontroller/old created", "service/old created"}},
		{args: "label rc old keep=this", want: []string{"labeled"}},
		{args: `patch rc old --type=merge -p {"metadata":{"finalizers":["example.com/keep"]}}`, want: []string{"patched"}},
		{args: "apply view-last-applied rc old", want: []string{"replicas: 2"}},
		{args: "apply --server-side -f -", stdin: strings.ReplaceAll(strings.ReplaceAll(old, "replicas: 2", "replicas: 4"), ", ports: [{containerPort: 80}]", ""),
			want: []string{"replicationcontroller/old serverside-applied", "service/old serverside-applied"}},
		{args: "get rc old -o jsonpath={.spec.replicas},{.metadata.labels.keep},{.metadata.finalizers},{.spec.template.spec.containers[0].ports};", want: []string{`4,this,["example.com/keep"],;`}},
		{args: "apply --server-side -f -", stdin: old, want: []string{"replicationcontroller/old serverside-applied"}},
		{args: "apply -f -", stdin: old, want: []string{"replicationcontroller/old", "service/old"}},
		{args: `patch rc old --type=merge -p {"metadata":{"finalizers":null}}`, want: []string{"patched"}},
		{args: "delete rc web old", want: []string{"deleted"}},
	}
	for _, step := range steps {
		got, err := kubectl(t, step.stdin, append([]string{"-n", ns}, strings.Fields(step.args)...)...)
		if (err != nil) != step.fails {
			t.Errorf("kubectl %s: %v\n%s", step.args, err, got)
		}
		for _, want := range step.want {
			if !strings.Contains(got, want) {
				t.Errorf("kubectl %s prints no %q:\n%s", step.args, want, got)
			}
		}
	}
}
