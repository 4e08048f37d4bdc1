package resource_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/watchcache"
)

func names(list *resource.List) []string {
	var all []string
	for _, o := range list.Objects {
		all = append(all, o.Value().GetName())
	}
	return all
}

// Lists of one registry see at once what another wrote, whatever its cache has seen.
func TestListIsLinearizable(t *testing.T) {
	writer, store := newRegistry(t)
	reader := runRegistry(t, store)
	for i := range 50 {
		m := create(t, writer, kinds.ConfigMaps, configMap(fmt.Sprintf("m%d", i)))
		list, err := reader.List(testContext(t), kinds.ConfigMaps, "default", resource.ListOptions{})
		if err != nil || len(list.Objects) != i+1 {
			t.Fatalf("after %d creates the list has %d objects (%v)", i+1, len(list.Objects), err)
		}
		if _, err := reader.Get(testContext(t), kinds.ConfigMaps, "default", m.GetName(), ""); err != nil {
			t.Fatal(err)
		}
		if _, err := reader.Get(testContext(t), kinds.ConfigMaps, "default", m.GetName(), m.GetResourceVersion()); err != nil {
			t.Fatal(err)
		}
	}
	// No object of this kind changes, and still the list must be as new as the store.
	create(t, writer, kinds.Pods, pod("elsewhere", ""))
	revision, err := store.Revision(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	list, err := reader.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{})
	if err != nil || list.Revision < revision {
		t.Errorf("list at %d (%v), the store is at %d", list.Revision, err, revision)
	}
}

func TestListSelects(t *testing.T) {
	r, _ := newRegistry(t)
	for i, node := range []string{"node1", "node2", "node1", ""} {
		p := pod(fmt.Sprintf("p%d", i), node)
		p.Labels = map[string]string{"app": fmt.Sprint(i % 2)}
		create(t, r, kinds.Pods, p)
	}
	for _, tc := range []struct {
		ns, label, field string
		want             []string
	}{
		{"default", "", "", []string{"p0", "p1", "p2", "p3"}},
		{"other", "", "", nil},
		{"", "app=0", "", []string{"p0", "p2"}},
		{"", "", "spec.nodeName=node1", []string{"p0", "p2"}},
		{"other", "", "spec.nodeName=node1", nil},
		{"", "", "spec.nodeName!=node1", []string{"p1", "p3"}},
		{"", "", "spec.nodeName=", []string{"p3"}},
		{"default", "", "metadata.name=p1", []string{"p1"}},
		{"", "", "metadata.name=p1", []string{"p1"}},
		{"default", "app=0", "metadata.name=p1", nil},
		{"", "app=1", "status.phase=Pending,metadata.namespace=default", []string{"p1", "p3"}},
		{"", "", "metadata.name=p2,spec.nodeName=node1", []string{"p2"}},
		{"", "", "spec.nodeName=node1,metadata.name=p1", nil},
	} {
		label, err := labels.Parse(tc.label)
		if err != nil {
			t.Fatal(err)
		}
		list, err := r.List(testContext(t), kinds.Pods, tc.ns, resource.ListOptions{LabelSelector: label, FieldSelector: fields.ParseSelectorOrDie(tc.field)})
		if err != nil || !slices.Equal(names(list), tc.want) {
			t.Errorf("list of %q with %q and %q: %v, %v; want %v", tc.ns, tc.label, tc.field, list, err, tc.want)
		}
	}
	_, err := r.List(testContext(t), kinds.Pods, "", resource.ListOptions{FieldSelector: fields.ParseSelectorOrDie("spec.color=red")})
	wantStatus(t, "unknown field of pods", err, metav1.StatusReasonBadRequest, 400, "field label not supported: spec.color")
	_, err = r.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{FieldSelector: fields.ParseSelectorOrDie("data=red")})
	wantStatus(t, "unknown field of config maps", err, metav1.StatusReasonBadRequest, 400, `"data" is not a known field selector: only "metadata.name", "metadata.namespace"`)
}

func TestPagesAreOfOneRevision(t *testing.T) {
	r, _ := newRegistry(t)
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("m%02d", i)
		create(t, r, kinds.ConfigMaps, configMap(name))
		want = append(want, name)
	}
	options := resource.ListOptions{Limit: 10}
	var got []string
	var revision int64
	for page := range 3 {
		list, err := r.List(testContext(t), kinds.ConfigMaps, "default", options)
		if err != nil {
			t.Fatal(err)
		}
		if page == 0 {
			revision = list.Revision
		}
		got = append(got, names(list)...)
		left := int64(25 - len(got))
		if list.Revision != revision || (list.Continue == "") != (left == 0) || left > 0 && *list.Remaining != left {
			t.Errorf("page %d: at %d, continues %q, remaining %v; the list began at %d and has %d more", page, list.Revision, list.Continue, list.Remaining, revision, left)
		}
		options.Continue = list.Continue
		// Objects that are created in between are not in this list.
		create(t, r, kinds.ConfigMaps, configMap(fmt.Sprintf("m%02d-new", 5*page)))
		del(t, r, kinds.ConfigMaps, "default", want[24-page], nil)
	}
	if !slices.Equal(got, want) {
		t.Errorf("pages hold %v, want %v", got, want)
	}
	_, err := r.List(testContext(t), kinds.ConfigMaps, "default", resource.ListOptions{Continue: "nonsense"})
	wantStatus(t, "a bad token", err, metav1.StatusReasonBadRequest, 400, "continue key is not valid")
}

func TestListAtARevision(t *testing.T) {
	r, store := newRegistry(t)
	first := create(t, r, kinds.ConfigMaps, configMap("a")).GetResourceVersion()
	create(t, r, kinds.ConfigMaps, configMap("b"))
	if _, err := r.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{}); err != nil {
		t.Fatal(err) // after it the cache has both
	}
	for _, tc := range []struct {
		match metav1.ResourceVersionMatch
		want  []string
	}{{metav1.ResourceVersionMatchExact, []string{"a"}}, {metav1.ResourceVersionMatchNotOlderThan, []string{"a", "b"}}, {"", []string{"a", "b"}}} {
		list, err := r.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{ResourceVersion: first, ResourceVersionMatch: tc.match})
		if err != nil || !slices.Equal(names(list), tc.want) {
			t.Errorf("match %q: %v, %v; want %v", tc.match, list, err, tc.want)
		}
	}
	later := runRegistry(t, store)
	_, err := later.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{ResourceVersion: first, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	wantStatus(t, "exactly a revision from before the window", err, metav1.StatusReasonExpired, 410, "too old resource version: "+first)
	_, err = r.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{ResourceVersion: "1000000"})
	wantStatus(t, "a revision to come", err, metav1.StatusReasonTimeout, 504, "Too large resource version: 1000000")
	_, err = r.List(testContext(t), kinds.ConfigMaps, "", resource.ListOptions{ResourceVersion: "x"})
	wantStatus(t, "no revision", err, metav1.StatusReasonBadRequest, 400, `"x"`)
}

// next reads n events of a watch.
func next(t *testing.T, w *watchcache.Watcher, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		events, err := w.Next(testContext(t))
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		for _, ev := range events {
			switch {
			case ev.Type == watch.Bookmark:
				got = append(got, fmt.Sprintf("BOOKMARK %t", ev.InitialEventsEnd))
			default:
				got = append(got, fmt.Sprintf("%s %s", ev.Type, ev.Object.Value().GetName()))
			}
		}
	}
	return got
}

func TestWatch(t *testing.T) {
	r, store := newRegistry(t)
	ctx := testContext(t)
	yes, no := true, false
	a := create(t, r, kinds.ConfigMaps, configMap("a")).GetResourceVersion()
	create(t, r, kinds.ConfigMaps, configMap("b"))
	wants := []struct {
		options resource.WatchOptions
		want    []string
	}{
		{resource.WatchOptions{}, []string{"ADDED a", "ADDED b", "ADDED c"}},
		{resource.WatchOptions{ResourceVersion: a}, []string{"ADDED b", "ADDED c"}},
		{resource.WatchOptions{SendInitialEvents: &yes, AllowBookmarks: true, ResourceVersionMatch: "NotOlderThan"}, []string{"ADDED a", "ADDED b", "BOOKMARK true", "ADDED c"}},
		{resource.WatchOptions{SendInitialEvents: &no, ResourceVersionMatch: "NotOlderThan"}, []string{"ADDED c"}},
		{resource.WatchOptions{FieldSelector: fields.ParseSelectorOrDie("metadata.name=c")}, []string{"ADDED c"}},
	}
	var watchers []*watchcache.Watcher
	for _, tc := range wants {
		w, err := r.Watch(ctx, kinds.ConfigMaps, "default", tc.options)
		if err != nil {
			t.Fatal(err)
		}
		watchers = append(watchers, w)
	}
	create(t, r, kinds.ConfigMaps, configMap("c"))
	for i, tc := range wants {
		if got := next(t, watchers[i], len(tc.want)); !slices.Equal(got, tc.want) {
			t.Errorf("watch with %+v: %v, want %v", tc.options, got, tc.want)
		}
		watchers[i].Stop()
	}
	_, err := r.Watch(ctx, kinds.ConfigMaps, "", resource.WatchOptions{SendInitialEvents: &yes})
	wantStatus(t, "initial events without a match", err, metav1.StatusReasonBadRequest, 400, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
	_, err = runRegistry(t, store).Watch(ctx, kinds.ConfigMaps, "", resource.WatchOptions{ResourceVersion: "1"})
	wantStatus(t, "a revision from before the window", err, metav1.StatusReasonExpired, 410, "too old resource version: 1 (")
}

func TestWatchSeesAPodComeToItsNode(t *testing.T) {
	r, _ := newRegistry(t)
	create(t, r, kinds.Pods, pod("p", ""))
	w, err := r.Watch(testContext(t), kinds.Pods, "", resource.WatchOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", "node1")})
	if err != nil {
		t.Fatal(err)
	}
	if errs := kinds.Bind(testContext(t), r, []kinds.Binding{{Namespace: "default", Name: "p", Node: "node1"}}); errs[0] != nil {
		t.Fatal(errs[0])
	}
	del(t, r, kinds.Pods, "default", "p", seconds(0))
	if got, want := next(t, w, 2), []string{"ADDED p", "DELETED p"}; !slices.Equal(got, want) {
		t.Errorf("the node's watch saw %v, want %v", got, want)
	}
}

func TestTypedReads(t *testing.T) {
	r, _ := newRegistry(t)
	p := create(t, r, kinds.Pods, pod("p", "node1"))
	revision, err := strconv.ParseInt(p.GetResourceVersion(), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cache(kinds.Pods).WaitUntil(testContext(t), revision); err != nil {
		t.Fatal(err)
	}
	if got, err := resource.Get[*corev1.Pod](testContext(t), r, kinds.Pods, "default", "p"); err != nil || got.UID != p.GetUID() {
		t.Errorf("get: %v, %v", got, err)
	}
	_, err = resource.Get[*corev1.Pod](testContext(t), r, kinds.Pods, "default", "q")
	wantStatus(t, "get of nothing", err, metav1.StatusReasonNotFound, 404, `pods "q" not found`)
	if got := resource.ListAs[*corev1.Pod](r, kinds.Pods, "", labels.Everything()); len(got) != 1 {
		t.Errorf("list: %v", got)
	}
	if got := resource.ByIndex[*corev1.Pod](r, kinds.Pods, kinds.PodsByNode, "node1"); len(got) != 1 {
		t.Errorf("by node: %v", got)
	}
}
