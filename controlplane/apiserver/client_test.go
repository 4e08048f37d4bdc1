package apiserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
)

// withContentType returns a client that uses one content type.
func withContentType(t *testing.T, mediaType string) *kubernetes.Clientset {
	t.Helper()
	config := rest.CopyConfig(shared.config)
	config.ContentType, config.AcceptContentTypes = mediaType, mediaType
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestTypedClient(t *testing.T) {
	for _, mediaType := range []string{mediaJSON, mediaProtobuf, mediaYAML} {
		t.Run(mediaType, func(t *testing.T) {
			ctx, ns := t.Context(), namespace(t)
			maps := withContentType(t, mediaType).CoreV1().ConfigMaps(ns)
			created, err := maps.Create(ctx, configMap("a", "k", "1"), metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if created.UID == "" || created.ResourceVersion == "" || created.Namespace != ns || created.CreationTimestamp.IsZero() {
				t.Errorf("created without system fields: %+v", created.ObjectMeta)
			}
			if _, err := maps.Create(ctx, configMap("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
				t.Errorf("second create: %v, want AlreadyExists", err)
			}
			created.Data["k"] = "2"
			updated, err := maps.Update(ctx, created, metav1.UpdateOptions{})
			if err != nil || updated.Data["k"] != "2" || updated.ResourceVersion == created.ResourceVersion {
				t.Fatalf("update: %+v, %v", updated, err)
			}
			if _, err := maps.Update(ctx, created, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
				t.Errorf("update of an old state: %v, want Conflict", err)
			}
			got, err := maps.Get(ctx, "a", metav1.GetOptions{})
			if err != nil || got.Data["k"] != "2" {
				t.Errorf("get: %+v, %v", got, err)
			}
			list, err := maps.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) != 1 || list.Items[0].Data["k"] != "2" || list.ResourceVersion == "" {
				t.Errorf("list: %+v, %v", list, err)
			}
			if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			if _, err := maps.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("get after delete: %v, want NotFound", err)
			}
			if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
				t.Errorf("second delete: %v, want NotFound", err)
			}
		})
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	ctx, maps := t.Context(), shared.client.CoreV1().ConfigMaps(namespace(t))
	dry := []string{metav1.DryRunAll}
	if _, err := maps.Create(ctx, configMap("a"), metav1.CreateOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a dry run made the object: %v", err)
	}
	cm, err := maps.Create(ctx, configMap("a", "k", "1"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	changed, err := maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"2"}}`), metav1.PatchOptions{DryRun: dry})
	if err != nil || changed.Data["k"] != "2" {
		t.Errorf("dry patch: %v, %v", changed, err)
	}
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{DryRun: dry}); err != nil {
		t.Error(err)
	}
	got, err := maps.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || got.ResourceVersion != cm.ResourceVersion || got.Data["k"] != "1" {
		t.Errorf("after dry runs: %+v, %v", got, err)
	}
}

func TestSelectorsAndPages(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	maps := shared.client.CoreV1().ConfigMaps(ns)
	for i := range 25 {
		cm := configMap(fmt.Sprintf("m%02d", i))
		cm.Labels = map[string]string{"parity": []string{"even", "odd"}[i%2]}
		if _, err := maps.Create(ctx, cm, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	odd, err := maps.List(ctx, metav1.ListOptions{LabelSelector: "parity in (odd)"})
	if err != nil || len(odd.Items) != 12 {
		t.Errorf("odd: %d, %v", len(odd.Items), err)
	}
	one, err := maps.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=m07"})
	if err != nil || len(one.Items) != 1 || one.Items[0].Name != "m07" {
		t.Errorf("by name: %v, %v", one, err)
	}
	var names []string
	options := metav1.ListOptions{Limit: 10}
	for pages := 0; ; pages++ {
		page, err := maps.List(ctx, options)
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range page.Items {
			names = append(names, item.Name)
		}
		if page.Continue == "" {
			if pages != 2 {
				t.Errorf("%d pages after the first, want 2", pages)
			}
			break
		}
		// Written between the pages, which show the state of the first.
		if err := maps.Delete(ctx, fmt.Sprintf("m%02d", 24-pages), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		options.Continue = page.Continue
	}
	if len(names) != 25 || !slices.IsSorted(names) {
		t.Errorf("pages list %v", names)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "parity=odd"}); err != nil {
		t.Fatal(err)
	}
	rest, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil || slices.ContainsFunc(rest.Items, func(cm corev1.ConfigMap) bool { return cm.Labels["parity"] == "odd" }) || len(rest.Items) == 0 {
		t.Errorf("after deletecollection: %d items, %v", len(rest.Items), err)
	}
}

func TestPatches(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	pods := shared.client.CoreV1().Pods(ns)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "1"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}, {Name: "d", Image: "i:1"}}},
	}
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	patch := func(kind types.PatchType, body string, sub ...string) *corev1.Pod {
		t.Helper()
		got, err := pods.Patch(ctx, "p", kind, []byte(body), metav1.PatchOptions{FieldValidation: "Strict"}, sub...)
		if err != nil {
			t.Fatalf("%s %s: %v", kind, body, err)
		}
		return got
	}
	if got := patch(types.JSONPatchType, `[{"op":"add","path":"/metadata/labels/b","value":"2"},{"op":"test","path":"/metadata/labels/a","value":"1"}]`); got.Labels["b"] != "2" {
		t.Errorf("JSON patch: %v", got.Labels)
	}
	if got := patch(types.MergePatchType, `{"metadata":{"labels":{"a":null,"c":"3"}}}`); len(got.Labels) != 2 || got.Labels["c"] != "3" {
		t.Errorf("merge patch: %v", got.Labels)
	}
	// Merged by the container's name, so that the other container stays.
	if got := patch(types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"d","image":"i:2"}]}}`); len(got.Spec.Containers) != 2 ||
		got.Spec.Containers[0].Image != "i:1" || got.Spec.Containers[1].Image != "i:2" {
		t.Errorf("strategic merge patch: %+v", got.Spec.Containers)
	}
	got := patch(types.StrategicMergePatchType, `{"metadata":{"labels":{"z":"9"}},"status":{"phase":"Running"}}`, "status")
	if got.Status.Phase != corev1.PodRunning {
		t.Errorf("status patch: %v", got.Status.Phase)
	}
	if got := patch(types.MergePatchType, `{"status":{"phase":"Failed"}}`); got.Status.Phase != corev1.PodRunning {
		t.Errorf("a patch of the object changed its status to %s", got.Status.Phase)
	}
	for body, check := range map[string]func(error) bool{
		`{"metadata":{"resourceVersion":"1"}}`:                apierrors.IsConflict,
		`{"metadata":{"name":"other"}}`:                       apierrors.IsBadRequest,
		`{"metadata":{"namespace":"default"}}`:                apierrors.IsBadRequest,
		`{"spec":{"nodeName":"x","restartPolicy":"Never"}}`:   apierrors.IsInvalid,
		`{"spec":{"containers":[{"name":"c","imagee":"i"}]}}`: apierrors.IsInvalid,
		`{"spec":{"containers":"c"}}`:                         apierrors.IsInvalid,
		`{"metadata":`:                                        apierrors.IsBadRequest,
		`[]`:                                                  apierrors.IsBadRequest,
	} {
		if _, err := pods.Patch(ctx, "p", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldValidation: "Strict"}); !check(err) {
			t.Errorf("merge patch %s: %v (%s)", body, err, apierrors.ReasonForError(err))
		}
	}
	if _, err := pods.Patch(ctx, "none", types.MergePatchType, []byte(`{}`), metav1.PatchOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("patch of nothing: %v", err)
	}
}

// Two patches without a resource version must both be applied, however they interleave.
func TestPatchesDoNotLoseEachOther(t *testing.T) {
	ctx, maps := t.Context(), shared.client.CoreV1().ConfigMaps(namespace(t))
	if _, err := maps.Create(ctx, configMap("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const writers = 12
	errs := make(chan error, writers)
	for i := range writers {
		go func() {
			_, err := maps.Patch(ctx, "a", types.StrategicMergePatchType, fmt.Appendf(nil, `{"data":{"k%d":"v"}}`, i), metav1.PatchOptions{})
			errs <- err
		}()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got, err := maps.Get(ctx, "a", metav1.GetOptions{}); err != nil || len(got.Data) != writers {
		t.Errorf("%d of %d patches are there: %v", len(got.Data), writers, err)
	}
}

func TestScale(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	controllers := shared.client.CoreV1().ReplicationControllers(ns)
	replicas := int32(2)
	_, err := controllers.Create(ctx, &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &replicas, Selector: map[string]string{"app": "x"}, Template: &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	scale, err := controllers.GetScale(ctx, "rc", metav1.GetOptions{})
	if err != nil || scale.Spec.Replicas != 2 || scale.Status.Selector != "app=x" {
		t.Fatalf("scale: %+v, %v", scale, err)
	}
	old := scale.DeepCopy()
	scale.Spec.Replicas = 5
	if scale, err = controllers.UpdateScale(ctx, "rc", scale, metav1.UpdateOptions{}); err != nil || scale.Spec.Replicas != 5 {
		t.Fatalf("update: %+v, %v", scale, err)
	}
	if _, err := controllers.UpdateScale(ctx, "rc", old, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old scale: %v, want Conflict", err)
	}
	if _, err := controllers.Patch(ctx, "rc", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Error(err)
	}
	if _, err := controllers.Patch(ctx, "rc", types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), metav1.PatchOptions{}, "scale"); !apierrors.IsInvalid(err) {
		t.Errorf("negative: %v, want Invalid", err)
	}
	if rc, err := controllers.Get(ctx, "rc", metav1.GetOptions{}); err != nil || *rc.Spec.Replicas != 7 {
		t.Errorf("replicas %v, %v", *rc.Spec.Replicas, err)
	}
}

func TestBindingAndEviction(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	pods := shared.client.CoreV1().Pods(ns)
	pod := makePod(t, ns, "p", "")
	bind := func(b *corev1.Binding) error { return pods.Bind(ctx, b, metav1.CreateOptions{}) }
	target := func(kind, name string) *corev1.Binding {
		return &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: pod.UID}, Target: corev1.ObjectReference{Kind: kind, Name: name}}
	}
	if err := bind(target("Pod", "n")); !apierrors.IsInvalid(err) {
		t.Errorf("bound to a pod: %v", err)
	}
	if err := bind(target("Node", "")); !apierrors.IsInvalid(err) {
		t.Errorf("bound to nothing: %v", err)
	}
	if err := bind(target("Node", "n1")); err != nil {
		t.Fatal(err)
	}
	if err := bind(target("Node", "n2")); !apierrors.IsConflict(err) {
		t.Errorf("bound twice: %v, want Conflict", err)
	}
	if got, err := pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || got.Spec.NodeName != "n1" {
		t.Errorf("node %q, %v", got.Spec.NodeName, err)
	}
	free := makePod(t, ns, "free", "")
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: free.Name, Namespace: ns}}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "free", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("evicted, and still there: %v", err)
	}
}

func TestDiscovery(t *testing.T) {
	client := discovery.NewDiscoveryClientForConfigOrDie(shared.config)
	legacy := discovery.NewDiscoveryClientForConfigOrDie(shared.config).WithLegacy()
	want := ""
	for name, c := range map[string]discovery.DiscoveryInterface{"aggregated": client, "legacy": legacy} {
		groups, resources, err := c.ServerGroupsAndResources()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var lines []string
		for _, list := range resources {
			for _, r := range list.APIResources {
				// The legacy form omits what is the same as the list's.
				gv := schema.GroupVersion{Group: r.Group, Version: r.Version}
				if gv.Empty() {
					if gv, err = schema.ParseGroupVersion(list.GroupVersion); err != nil {
						t.Fatal(err)
					}
				}
				lines = append(lines, fmt.Sprintf("%s %s %s/%s %s %v %v %v %v", list.GroupVersion, r.Name, gv.Group, gv.Version, r.Kind, r.Namespaced, r.Verbs, r.ShortNames, r.Categories))
			}
		}
		slices.Sort(lines)
		got, err := json.MarshalIndent(lines, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		if len(groups) < 4 || len(lines) < 20 {
			t.Errorf("%s: %d groups, %d resources", name, len(groups), len(lines))
		}
		if want != "" && string(got) != want {
			t.Errorf("legacy and aggregated discovery differ:\n%s\n%s", got, want)
		}
		want = string(got)
	}
	info, err := client.ServerVersion()
	if err != nil || info.Major != "1" || info.Minor != "37" || info.GitVersion != "v1.37.2+skep-test" {
		t.Errorf("version %+v, %v", info, err)
	}
}

func TestDynamicAndMetadataClients(t *testing.T) {
	ctx, ns := t.Context(), namespace(t)
	gvr := corev1.SchemeGroupVersion.WithResource("configmaps")
	objects := dynamic.NewForConfigOrDie(shared.config).Resource(gvr).Namespace(ns)
	if _, err := shared.client.CoreV1().ConfigMaps(ns).Create(ctx, configMap("a", "k", "v"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := objects.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetKind() != "ConfigMap" || list.Items[0].GetAPIVersion() != "v1" {
		t.Errorf("dynamic list: %v, %v", list, err)
	}
	meta := metadata.NewForConfigOrDie(shared.config).Resource(gvr).Namespace(ns)
	partial, err := meta.List(ctx, metav1.ListOptions{})
	if err != nil || len(partial.Items) != 1 || partial.Items[0].Name != "a" {
		t.Errorf("metadata list: %v, %v", partial, err)
	}
	one, err := meta.Get(ctx, "a", metav1.GetOptions{})
	if err != nil || one.UID != partial.Items[0].UID {
		t.Errorf("metadata get: %v, %v", one, err)
	}
	if _, err := dynamic.NewForConfigOrDie(shared.config).Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "daemonsets"}).
		Namespace(ns).List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("an unknown kind: %v, want NotFound", err)
	}
}

// makePod makes a pod, bound to a node if one is named.
func makePod(t *testing.T, ns, name, node string) *corev1.Pod {
	t.Helper()
	pod, err := shared.client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i:1"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}
