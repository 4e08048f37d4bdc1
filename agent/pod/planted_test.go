package pod_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// CVE-2017-1002102: containers only read configuration, whatever their mounts say; and a privileged one that writes there does
// not lead the agent to other files, now or after a restart.
func TestPlantedConfigurationIsNotFollowed(t *testing.T) {
	c := newCluster(t, nil)
	ctx := context.Background()
	meta := metav1.ObjectMeta{Namespace: "default", Name: "cfg"}
	cm := &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"a": "one"}}
	if _, err := c.client.CoreV1().ConfigMaps("default").Create(ctx, cm, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"a": []byte("one")}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	named := corev1.LocalObjectReference{Name: "cfg"}
	labels := corev1.DownwardAPIVolumeFile{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}
	privileged := true
	c.create(newPod("config", func(s *corev1.PodSpec) {
		s.Volumes = []corev1.Volume{
			{Name: "map", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cfg"}}},
			{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{labels}}}},
			{Name: "projected", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named}}}}}},
		}
		root := container("root", "sleep 1000")
		root.SecurityContext = &corev1.SecurityContext{Privileged: &privileged}
		s.Containers = append(s.Containers, root)
		for i := range s.Containers {
			for _, v := range s.Volumes {
				s.Containers[i].VolumeMounts = append(s.Containers[i].VolumeMounts,
					corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name}, corev1.VolumeMount{Name: v.Name, MountPath: "/sub-" + v.Name, SubPath: "a"})
			}
		}
	}))
	c.await("config", "ready", isReady)
	ids := map[string]string{}
	for _, name := range []string{"main", "root"} {
		running, _, err := c.pods.Find("default", "config", name)
		if err != nil {
			t.Fatal(err)
		}
		ids[name] = running.ID
	}
	in := func(name, script string) string {
		var b strings.Builder
		code, err := c.node.Exec(ctx, ids[name], []string{"sh", "-c", script}, runtime.ExecOptions{Stdout: &b, Stderr: &b})
		return fmt.Sprintf("%s%d %v", b.String(), code, err)
	}
	for _, volume := range []string{"map", "secret", "down", "projected"} {
		for _, script := range []string{"echo x > /%s/new", "echo x > /%s/a", "busybox rm /%s/..data", "busybox ln -s /etc /%s/new", "echo x > /sub-%s"} {
			script = fmt.Sprintf(script, volume)
			if got := in("main", script); !strings.Contains(got, "Read-only file system") {
				t.Errorf("%s: %q", script, got)
			}
		}
	}
	outside := t.TempDir()
	plant := fmt.Sprintf(`for v in map projected; do busybox mount -o remount,rw,bind /$v && cd /$v && busybox rm -r ..v* ..data a &&
		busybox mkdir planted && busybox mkfifo planted/a && busybox ln -s planted ..data && busybox ln -s %s a || exit 1; done`, outside)
	if got := in("root", plant); got != "0 <nil>" {
		t.Fatalf("planting: %q", got)
	}
	c.restartAgent(func() {})
	cm.Data["a"] = "two"
	if _, err := c.client.CoreV1().ConfigMaps("default").Update(ctx, cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the update in what was planted", func() bool { return in("main", "cat /map/a /projected/a") == "twotwo0 <nil>" })
	if got := in("main", "cat /secret/a /down/a"); got != "oneconfig0 <nil>" {
		t.Errorf("after the agent's restart: %q", got)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("the planted link was followed: %v, %v", entries, err)
	}
	// The pod is removed with everything that was planted, and nothing else is.
	if err := os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.client.CoreV1().Pods("default").Delete(ctx, "config", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	runtimetest.Eventually(t, "the pod's folder to go", func() bool {
		_, err := os.Lstat(c.node.PodDir("uid-config"))
		return os.IsNotExist(err)
	})
	if _, err := os.Stat(filepath.Join(outside, "kept")); err != nil {
		t.Error(err)
	}
}
