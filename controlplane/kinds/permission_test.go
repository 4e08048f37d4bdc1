package kinds

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/skep-io/skep/controlplane/resource"
)

// written is an object as it is stored in etcd after its creation.
func written(t *testing.T, manifest string) (*resource.Kind, resource.Object) {
	t.Helper()
	kind, obj := parseManifest(t, []byte(manifest))
	kind.Default(obj)
	if kind.PrepareForCreate != nil {
		kind.PrepareForCreate(obj)
	}
	if errs := kind.ValidateCreate(obj); len(errs) > 0 {
		t.Fatalf("the object to change is invalid itself: %v", errs.ToAggregate())
	}
	obj.SetResourceVersion("1")
	return kind, obj
}

const podToChange = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  activeDeadlineSeconds: 100
  containers: [{name: web, image: nginx, imagePullPolicy: Always, resources: {requests: {cpu: 100m}}}]
`

// TestPodPermissions says what an update of a pod may change: "" if it may, the
// start of the refusal's path if not, "kept" if the change is ignored.
func TestPodPermissions(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"labels":      {func(p *corev1.Pod) { p.Labels["x"] = "y" }, ""},
		"annotations": {func(p *corev1.Pod) { p.Annotations = map[string]string{"x": "y"} }, ""},
		"image":       {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" }, ""},
		"toleration added": {func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists}}
		}, ""},
		"deadline shortened": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](10) }, ""},
		"deadline prolonged": {func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](1000) }, "spec.activeDeadlineSeconds"},
		"node":               {func(p *corev1.Pod) { p.Spec.NodeName = "node1" }, "spec:"},
		"resources":          {func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} }, "spec:"},
		"command":            {func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} }, "spec:"},
		"restart policy":     {func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever }, "spec:"},
		"container added": {func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "b", Image: "b"})
		}, "spec.containers"},
		"name":      {func(p *corev1.Pod) { p.Name = "other" }, "metadata.name"},
		"namespace": {func(p *corev1.Pod) { p.Namespace = "other" }, "metadata.namespace"},
		"uid":       {func(p *corev1.Pod) { p.UID = "other" }, "metadata.uid"},
		"phase":     {func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, "kept"},
		"bad label": {func(p *corev1.Pod) { p.Labels["a b"] = "c" }, "metadata.labels"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, old := written(t, podToChange)
			checkPermission(t, kind, "", old, func(obj resource.Object) { tc.change(obj.(*corev1.Pod)) }, tc.want)
		})
	}
}

func TestStatusPermissions(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   string
	}{
		"phase":   {func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }, ""},
		"address": {func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.0.0.1", []corev1.PodIP{{IP: "10.0.0.1"}} }, ""},
		"labels":  {func(p *corev1.Pod) { p.Labels["x"] = "y" }, ""},
		"image":   {func(p *corev1.Pod) { p.Spec.Containers[0].Image = "nginx:2" }, "kept"},
		"owners": {func(p *corev1.Pod) {
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "a", UID: "b"}}
		}, "kept"},
		"deletion":    {func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }, "kept"},
		"qos dropped": {func(p *corev1.Pod) { p.Status.QOSClass = "" }, "kept"},
		"qos":         {func(p *corev1.Pod) { p.Status.QOSClass = corev1.PodQOSGuaranteed }, "status.qosClass"},
		"bad address": {func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "10.0.0", []corev1.PodIP{{IP: "10.0.0"}} }, "status.podIPs"},
	} {
		t.Run(name, func(t *testing.T) {
			kind, old := written(t, podToChange)
			checkPermission(t, kind, "status", old, func(obj resource.Object) { tc.change(obj.(*corev1.Pod)) }, tc.want)
		})
	}
}

const rcToChange = `
apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: nginx}]}
`

func TestReplicationControllerPermissions(t *testing.T) {
	for name, tc := range map[string]struct {
		sub    string
		change func(*corev1.ReplicationController)
		want   string
		raises bool
	}{
		"replicas":         {"", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](5) }, "", true},
		"template":         {"", func(rc *corev1.ReplicationController) { rc.Spec.Template.Spec.Containers[0].Image = "x" }, "", true},
		"labels":           {"", func(rc *corev1.ReplicationController) { rc.Labels = map[string]string{"x": "y"} }, "", false},
		"status":           {"", func(rc *corev1.ReplicationController) { rc.Status.Replicas = 5 }, "kept", false},
		"no such selector": {"", func(rc *corev1.ReplicationController) { rc.Spec.Selector = map[string]string{"x": "y"} }, "spec.template.metadata.labels", true},
		"spec by status":   {"status", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = ptr.To[int32](5) }, "kept", false},
		"negative status":  {"status", func(rc *corev1.ReplicationController) { rc.Status.Replicas = -1 }, "status.replicas", false},
	} {
		t.Run(name, func(t *testing.T) {
			kind, old := written(t, rcToChange)
			obj := checkPermission(t, kind, tc.sub, old, func(obj resource.Object) { tc.change(obj.(*corev1.ReplicationController)) }, tc.want)
			if got := kind.SpecChanged(obj, old); got != tc.raises {
				t.Errorf("raises the generation: %v, want %v", got, tc.raises)
			}
		})
	}
}

// checkPermission makes the change and compares what came of it with want. The
// old object is shared in production, so it must come out as it was.
func checkPermission(t *testing.T, kind *resource.Kind, sub string, old resource.Object, change func(resource.Object), want string) resource.Object {
	t.Helper()
	before := asYAML(t, old)
	obj := old.DeepCopyObject().(resource.Object)
	change(obj)
	rules := &resource.UpdateRules{PrepareForUpdate: kind.PrepareForUpdate, Validate: kind.ValidateUpdate}
	if sub == "status" {
		rules = kind.Status
	}
	rules.PrepareForUpdate(obj, old)
	errs := rules.Validate(obj, old)
	changed := asYAML(t, obj) != before
	switch {
	case want == "kept":
		if len(errs) > 0 || changed {
			t.Errorf("changed: %v, errors: %v; want the change passed over", changed, errs.ToAggregate())
		}
	case want == "":
		if len(errs) > 0 || !changed {
			t.Errorf("changed: %v, errors: %v; want the change", changed, errs.ToAggregate())
		}
	case len(errs) == 0 || !strings.HasPrefix(errs[0].Error(), want):
		t.Errorf("errors: %v, want one at %s", errs.ToAggregate(), want)
	}
	if asYAML(t, old) != before {
		t.Error("the old object was changed")
	}
	return obj
}

func asYAML(t *testing.T, obj resource.Object) string {
	t.Helper()
	data, err := yaml.Marshal(obj)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
