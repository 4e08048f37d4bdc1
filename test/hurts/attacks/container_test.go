package attacks

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// CVE-2017-1002102: a container writes into its configuration and plants links, pipes and devices there, which the agent would follow
// as root. It cannot, whatever its mounts say; a change of the configuration reaches it all the same.
func TestConfigurationIsReadOnly(t *testing.T) {
	s := newSpace(t)
	s.Skep("create", "configmap", "cfg", "--from-literal=a=one")
	s.Skep("create", "secret", "generic", "cfg", "--from-literal=a=one")
	named := corev1.LocalObjectReference{Name: "cfg"}
	s.create(pod("reader", "sleep 1000", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{
			{Name: "map", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "cfg"}}},
			{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
				Items: []corev1.DownwardAPIVolumeFile{{Path: "a", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}}},
			{Name: "projected", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named}}}}}},
		}
		for _, v := range p.Spec.Volumes {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
	}))
	s.awaitReady("reader")
	const attempts = `for v in map secret down projected; do cd /$v
for attack in "touch new" "rm ..data" "ln -s /dev/zero zero" "ln -s /etc planted" "mkfifo pipe" "mknod device c 1 5" "mv a b"; do
if out=$($attack 2>&1); then echo "$v: $attack succeeded"; else case $out in *"Read-only file system"*) ;; *) echo "$v: $attack: $out";; esac; fi; done; done`
	if out := s.Skep("exec", "reader", "--", "sh", "-c", attempts); out != "" {
		t.Errorf("in the container:\n%s", out)
	}
	s.Skep("patch", "configmap", "cfg", "-p", `{"data":{"a":"two"}}`)
	eventually(t, "the change", func() error {
		if out := s.Skep("exec", "reader", "--", "cat", "/map/a", "/projected/a", "/secret/a", "/down/a"); out != "twotwoonereader" {
			return fmt.Errorf("the files are %q", out)
		}
		return nil
	})
}

// CVE-2021-25741, CVE-2017-1002101: a subPath leads through a link that a container planted to the host's root, or to a pipe that
// has no writer. The container that names it does not start, and its state says why; one that names a folder does.
func TestPlantedSubPaths(t *testing.T) {
	s := newSpace(t)
	planted := func(subPath string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
			plant := container("plant", "cd /v && mkdir folder && echo mine > folder/file && ln -s / root && ln -s ../../../../../.. up && mkfifo pipe")
			plant.VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			p.Spec.InitContainers = []corev1.Container{plant}
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/sub", SubPath: subPath}}
		}
	}
	for name, reads := range map[string]string{"folder": "mine", "root": "", "up": "", "root/etc": ""} {
		target := strings.ReplaceAll(name, "/", "-")
		s.create(pod(target, say("cat /sub/file; ls /sub"), planted(name)))
		if reads != "" {
			s.WantIn(s.awaitMessage(target), reads)
			continue
		}
		if reason, message := s.awaitRefused(target); reason != "CreateContainerConfigError" || !strings.Contains(message, "subPath") {
			t.Errorf("%s: %s: %s", name, reason, message)
		}
	}
	// The pipe is not a folder: it may be mounted as a file, and is not opened.
	s.create(pod("pipe", say("test -p /sub && echo a pipe"), planted("pipe")))
	if got := s.awaitMessage("pipe"); got != "a pipe" {
		t.Errorf("a pipe: %q", got)
	}
}

// CVE-2022-0811: a pod sets a kernel parameter that is not its own but the host's, by which the host runs a program as root.
// It fails with Kubernetes' reason; a parameter of the pod's own namespaces is set, there and nowhere else.
func TestSysctlsOfTheHostAreRefused(t *testing.T) {
	s := newSpace(t)
	const limit = "/proc/sys/kernel/core_pipe_limit"
	before := read(t, limit)
	t.Cleanup(func() { _ = os.WriteFile(limit, []byte(before), 0o644) })
	sysctl := func(name, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: name, Value: value}}}
		}
	}
	for name, parameter := range map[string]string{"host": "kernel.core_pipe_limit", "unsafe": "net.core.somaxconn"} {
		s.create(pod(name, "sleep 1000", sysctl(parameter, "4321")))
		reason, message := s.awaitFailed(name)
		want := fmt.Sprintf("forbidden sysctl: %q", parameter)
		if reason != "SysctlForbidden" || !strings.Contains(message, want) {
			t.Errorf("%s: %s: %s, want SysctlForbidden: %s", parameter, reason, message, want)
		}
	}
	if after := read(t, limit); after != before {
		t.Errorf("a pod changed %s of the host from %q to %q", limit, before, after)
	}
	const ports = "/proc/sys/net/ipv4/ip_local_port_range"
	hosts := read(t, ports)
	s.create(pod("safe", say("cat "+ports), sysctl("net.ipv4.ip_local_port_range", "20000 20099")))
	if got := strings.Fields(s.awaitMessage("safe")); len(got) != 2 || got[0] != "20000" || got[1] != "20099" {
		t.Errorf("the pod's own ports are %q", got)
	}
	if after := read(t, ports); after != hosts {
		t.Errorf("a pod changed %s of the host from %q to %q", ports, hosts, after)
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

// Security contexts that a node cannot apply, or whose fields contradict each other, are not ignored: the
// container does not run, and its state says why. CVE-2023-2431: a seccomp profile without a name among them.
func TestSecurityContextsHoldOrAreRefused(t *testing.T) {
	s := newSpace(t)
	localhost := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}}
		}
	}
	unmasked, strict := corev1.UnmaskedProcMount, corev1.SupplementalGroupsPolicyStrict
	for name, tt := range map[string]struct {
		change      func(*corev1.Pod)
		reason, why string
	}{
		"seccomp-absent":  {localhost("absent.json"), "CreateContainerError", "cannot load seccomp profile"},
		"seccomp-outside": {localhost("../../x.json"), "", "must not contain '..'"},
		"seccomp-unnamed": {localhost(""), "CreateContainerConfigError", "localhostProfile must be set"},
		"procmount": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ProcMount: &unmasked}
		}, "", "`hostUsers` must be false"},
	} {
		_, err := local.API.CoreV1().Pods(s.Name).Create(t.Context(), pod(name, "sleep 1000", tt.change), metav1.CreateOptions{})
		if tt.reason == "" { // the API itself refuses it
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%s: %v, want Invalid: %s", name, err, tt.why)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if reason, message := s.awaitRefused(name); reason != tt.reason || !strings.Contains(message, tt.why) {
			t.Errorf("%s: %s: %s, want %s: %s", name, reason, message, tt.reason, tt.why)
		}
	}
	if _, err := os.Stat("/sys/module/apparmor"); err != nil {
		s.create(pod("apparmor", "sleep 1000", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
		}))
		if reason, message := s.awaitFailed("apparmor"); reason != "AppArmor" || !strings.Contains(message, "Cannot enforce AppArmor") {
			t.Errorf("AppArmor: %s: %s", reason, message)
		}
	}
	s.create(pod("groups", say("id -G"), func(p *corev1.Pod) {
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1234), RunAsGroup: ptr.To[int64](1234), SupplementalGroups: []int64{77}, SupplementalGroupsPolicy: &strict}
	}))
	if got := s.awaitMessage("groups"); got != "1234 77" {
		t.Errorf("supplementalGroupsPolicy Strict: groups %q", got)
	}
	s.create(pod("userns", say("cat /proc/self/uid_map"), func(p *corev1.Pod) { p.Spec.HostUsers = ptr.To(false) }))
	if got := strings.Fields(s.awaitMessage("userns")); len(got) != 3 || got[0] != "0" || got[1] == "0" || got[2] != "65536" {
		t.Errorf("hostUsers false: the user namespace maps %q", got)
	}
}
