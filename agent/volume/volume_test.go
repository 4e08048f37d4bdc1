package volume

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// given is a set of objects that a test may change between calls.
type given struct {
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

func (g *given) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	if o, ok := g.configMaps[name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("configmaps"), name)
}

func (g *given) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if o, ok := g.secrets[name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("secrets"), name)
}

func testVolumes(t *testing.T, g *given) *Volumes {
	dir := t.TempDir()
	v := New(func(uid string) string { return filepath.Join(dir, uid) }, func(uid string) string { return filepath.Join(dir, "records", uid) },
		g, func() corev1.ResourceList { return nil }, func(*corev1.Pod) int64 { return 0 })
	t.Cleanup(func() {
		if err := v.TearDown("uid"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "uid", "volumes")); !os.IsNotExist(err) {
			t.Errorf("volumes are left: %v", err)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "records")); len(left) != 0 {
			t.Errorf("records are left: %v", left)
		}
	})
	return v
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p", UID: "uid", Labels: map[string]string{"b": "2", "a": "1"}},
		Spec:       corev1.PodSpec{Volumes: volumes},
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUpdateIsAtomicAndComplete(t *testing.T) {
	g := &given{configMaps: map[string]*corev1.ConfigMap{"c": {Data: map[string]string{"keep": "1", "go": "x"}}}}
	v := testVolumes(t, g)
	pod := podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}})
	paths, _, err := v.SetUp(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	dir := paths["v"]
	first, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.SetUp(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(dir, dataLink)); again != first {
		t.Error("unchanged content was written again")
	}
	g.configMaps["c"] = &corev1.ConfigMap{Data: map[string]string{"keep": "2", "come": "y"}}
	if _, _, err := v.SetUp(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "keep")) + read(t, filepath.Join(dir, "come")); got != "2y" {
		t.Errorf("content %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..v") {
			names = append(names, e.Name())
		}
	}
	if got := strings.Join(names, " "); got != "..data come keep" || len(entries) != 4 {
		t.Errorf("folder holds %v", entries)
	}
}

func TestSecretsStayInMemory(t *testing.T) {
	mode := int32(0o400)
	g := &given{secrets: map[string]*corev1.Secret{"s": {Data: map[string][]byte{"k": []byte("hush")}}}}
	v := testVolumes(t, g)
	paths, _, err := v.SetUp(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: "s", DefaultMode: &mode, Items: []corev1.KeyToPath{{Key: "k", Path: "deep/er"}},
	}}}))
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(paths["v"], "deep", "er")); got != "hush" {
		t.Errorf("content %q", got)
	}
	if mounted, err := isMountPoint(paths["v"]); err != nil || !mounted {
		t.Errorf("a secret lies on the disk (%v)", err)
	}
	info, err := os.Stat(filepath.Join(paths["v"], "deep", "er"))
	if err != nil || info.Mode().Perm() != 0o400 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestErrorsNameTheVolume(t *testing.T) {
	v := testVolumes(t, &given{})
	optional := true
	directory := corev1.HostPathDirectory
	for name, test := range map[string]struct {
		source corev1.VolumeSource
		want   string
	}{
		"missing":   {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}}, `MountVolume.SetUp failed for volume "v" : configmaps "c" not found`},
		"optional":  {corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}, Optional: &optional}}, ""},
		"host path": {corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/no/such", Type: &directory}}, "hostPath type check failed: /no/such is not a directory"},
		"other":     {corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}, "this volume type is not supported"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := v.SetUp(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: test.source}))
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestProjectedLeavesTokensOut(t *testing.T) {
	g := &given{configMaps: map[string]*corev1.ConfigMap{"c": {Data: map[string]string{"k": "v"}}}}
	v := testVolumes(t, g)
	paths, warnings, err := v.SetUp(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "c"}}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}},
	}}}}))
	if err != nil || len(warnings) != 1 {
		t.Fatalf("error %v, warnings %v", err, warnings)
	}
	if got := read(t, filepath.Join(paths["v"], "k")) + read(t, filepath.Join(paths["v"], "labels")); got != "va=\"1\"\nb=\"2\"" {
		t.Errorf("content %q", got)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	v := testVolumes(t, &given{})
	paths, _, err := v.SetUp(t.Context(), podWith(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(paths["v"], "escape")); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"escape", "escape/passwd", "../x", "/abs"} {
		if got, err := v.SubPath(t.Context(), "uid", "v", "c", 0, paths["v"], sub); err == nil {
			t.Errorf("subPath %q led to %s", sub, got)
		}
	}
	target, err := v.SubPath(t.Context(), "uid", "v", "c", 1, paths["v"], "in/side")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(paths["v"], "in", "side", "f")); got != "x" {
		t.Errorf("content %q", got)
	}
}
