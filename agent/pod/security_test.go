package pod_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// Each field of the security contexts does what it says, or the container says in its state why it does not run.
func TestSecurityFieldsHoldOrAreRefused(t *testing.T) {
	c := newCluster(t, nil)
	dir := filepath.Join(c.node.Config.StateDir, "seccomp")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const profile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`
	if err := os.WriteFile(filepath.Join(dir, "nomkdir.json"), []byte(profile), 0o644); err != nil {
		t.Fatal(err)
	}
	localhost := func(name string) *corev1.SeccompProfile {
		return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost, LocalhostProfile: &name}
	}
	const seccompMode = "while read name value; do case $name in Seccomp:) echo $value;; esac; done < /proc/self/status"
	strict, merge := corev1.SupplementalGroupsPolicyStrict, corev1.SupplementalGroupsPolicyMerge
	unmasked := corev1.UnmaskedProcMount
	pod := func(change func(*corev1.PodSecurityContext)) func(*corev1.PodSpec) {
		return func(spec *corev1.PodSpec) {
			spec.SecurityContext = &corev1.PodSecurityContext{}
			change(spec.SecurityContext)
		}
	}
	ctr := func(change func(*corev1.SecurityContext)) func(*corev1.PodSpec) {
		return func(spec *corev1.PodSpec) {
			spec.Containers[0].SecurityContext = &corev1.SecurityContext{}
			change(spec.Containers[0].SecurityContext)
		}
	}
	for name, tt := range map[string]struct {
		script string
		change func(*corev1.PodSpec)
		says   string // by the termination message
		reason string // or why it waits
		why    string
	}{
		"seccomp-pod": {script: "mkdir /x 2>/dev/null && echo made || echo refused", says: "refused",
			change: pod(func(p *corev1.PodSecurityContext) { p.SeccompProfile = localhost("nomkdir.json") })},
		"seccomp-container": {script: "mkdir /x 2>/dev/null && echo made || echo refused", says: "refused",
			change: ctr(func(c *corev1.SecurityContext) { c.SeccompProfile = localhost("nomkdir.json") })},
		"seccomp-unconfined": {script: seccompMode, says: "0",
			change: ctr(func(c *corev1.SecurityContext) {
				c.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
			})},
		"seccomp-default": {script: seccompMode, says: "2",
			change: pod(func(p *corev1.PodSecurityContext) {
				p.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
			})},
		"seccomp-absent": {reason: "CreateContainerError", why: "cannot load seccomp profile",
			change: pod(func(p *corev1.PodSecurityContext) { p.SeccompProfile = localhost("absent.json") })},
		"seccomp-outside": {reason: "CreateContainerConfigError", why: "is not a path below",
			change: pod(func(p *corev1.PodSecurityContext) { p.SeccompProfile = localhost("../x.json") })},
		"seccomp-unnamed": {reason: "CreateContainerConfigError", why: "localhostProfile must be set",
			change: pod(func(p *corev1.PodSecurityContext) { p.SeccompProfile = localhost("") })},
		"procmount": {reason: "CreateContainerConfigError", why: "needs hostUsers: false",
			change: ctr(func(c *corev1.SecurityContext) { c.ProcMount = &unmasked })},
		"groups-merge": {script: "id -G", says: "1234 10 77",
			change: pod(func(p *corev1.PodSecurityContext) {
				p.RunAsUser, p.RunAsGroup, p.SupplementalGroups, p.SupplementalGroupsPolicy = ptr.To[int64](1234), ptr.To[int64](1234), []int64{77}, &merge
			})},
		"groups-strict": {script: "id -G", says: "1234 77 88",
			change: pod(func(p *corev1.PodSecurityContext) {
				p.RunAsUser, p.RunAsGroup, p.SupplementalGroups, p.SupplementalGroupsPolicy = ptr.To[int64](1234), ptr.To[int64](1234), []int64{77}, &strict
				p.FSGroup = ptr.To[int64](88)
			})},
		"selinux": {script: "echo runs", says: "runs", // as with kubelet and containerd, with an event
			change: pod(func(p *corev1.PodSecurityContext) { p.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c1,c2"} })},
	} {
		if tt.script == "" {
			tt.script = "sleep 1000"
		}
		c.create(newPod(name, func(spec *corev1.PodSpec) {
			spec.RestartPolicy = corev1.RestartPolicyNever
			spec.Containers[0] = container("main", "("+tt.script+") > /dev/termination-log")
			tt.change(spec)
		}))
		p := c.await(name, "ended, or refused", func(p *corev1.Pod) bool {
			for _, s := range p.Status.ContainerStatuses {
				if s.State.Terminated != nil || s.State.Waiting != nil && s.State.Waiting.Message != "" {
					return true
				}
			}
			return false
		})
		state := p.Status.ContainerStatuses[0].State
		switch {
		case tt.reason != "":
			if state.Waiting == nil || state.Waiting.Reason != tt.reason || !strings.Contains(state.Waiting.Message, tt.why) {
				t.Errorf("%s: %s, want %s: %s", name, describe(p), tt.reason, tt.why)
			}
		case state.Terminated == nil || strings.TrimSpace(state.Terminated.Message) != tt.says:
			t.Errorf("%s: %s, want %q", name, describe(p), tt.says)
		}
		if user := p.Status.ContainerStatuses[0].User; name == "groups-strict" && (user == nil || user.Linux == nil ||
			user.Linux.UID != 1234 || user.Linux.GID != 1234 || len(user.Linux.SupplementalGroups) != 3) {
			t.Errorf("%s: the status says user %+v", name, user)
		}
	}
	c.awaitEvent("Warning SELinuxNotEnforced seLinuxOptions have no effect: SELinux is not enabled on this host")
}

// A host without AppArmor rejects pods that ask for it, by field or by annotation, in kubelet's words.
func TestAppArmorIsRejectedWhereItIsNot(t *testing.T) {
	c := newCluster(t, nil)
	if c.node.AppArmor() == nil {
		t.Log("this host has AppArmor: the rejection is not seen here")
		return
	}
	byField := newPod("field", func(spec *corev1.PodSpec) {
		spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
	})
	byAnnotation := newPod("annotation", nil)
	byAnnotation.Annotations = map[string]string{corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + "main": "localhost/strict"}
	for _, p := range []*corev1.Pod{byField, byAnnotation} {
		c.create(p)
		p = c.await(p.Name, "rejected", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
		if p.Status.Reason != "AppArmor" || p.Status.Message != "Pod was rejected: Cannot enforce AppArmor: AppArmor is not enabled on the host" {
			t.Errorf("%s: %s: %s", p.Name, p.Status.Reason, p.Status.Message)
		}
	}
}

// A read-only volume is read-only with all that is mounted below it, if the pod asks for that.
func TestRecursiveReadOnly(t *testing.T) {
	c := newCluster(t, nil)
	outer := t.TempDir()
	inner := filepath.Join(outer, "inner")
	if err := os.Mkdir(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	mountTmpfs(t, inner)
	enabled, disabled := corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyDisabled
	for mode, says := range map[corev1.RecursiveReadOnlyMode]string{enabled: "refused", disabled: "written"} {
		name := strings.ToLower(string(mode))
		c.create(newPod(name, func(spec *corev1.PodSpec) {
			spec.RestartPolicy = corev1.RestartPolicyNever
			spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: outer}}}}
			spec.Containers[0] = container("main", "(touch /v/inner/x 2>/dev/null && echo written || echo refused) > /dev/termination-log")
			spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true, RecursiveReadOnly: &mode}}
		}))
		p := c.await(name, "ended", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
		s := p.Status.ContainerStatuses[0]
		if got := strings.TrimSpace(s.State.Terminated.Message); got != says {
			t.Errorf("%s: the mount below was %s, want %s", mode, got, says)
		}
		for _, m := range s.VolumeMounts {
			if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly != mode {
				t.Errorf("%s: the status says %v", mode, m.RecursiveReadOnly)
			}
		}
	}
}
