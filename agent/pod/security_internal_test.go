package pod

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// Who is taken by a host with AppArmor and by one without, and with which profile.
func TestAppArmorRejection(t *testing.T) {
	absent := errors.New("AppArmor is not enabled on the host")
	name, blank := "strict", " "
	for what, c := range map[string]struct {
		pod, container *corev1.AppArmorProfile
		annotation     string
		profile        runtime.Profile
		with, without  string // the rejection on a host with AppArmor and on one without
	}{
		"nothing":       {},
		"unconfined":    {pod: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}},
		"default":       {pod: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}, profile: runtime.Profile{Kind: runtime.RuntimeDefault}, without: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		"localhost":     {container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}, profile: runtime.Profile{Kind: runtime.Localhost, Name: name}, without: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		"container won": {pod: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}, container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}},
		"annotation":    {annotation: "localhost/strict", profile: runtime.Profile{Kind: runtime.Localhost, Name: name}, without: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		"blank": {container: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &blank}, profile: runtime.Profile{Kind: runtime.Localhost, Name: blank},
			with: "invalid", without: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
	} {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}},
			Spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{AppArmorProfile: c.pod},
				Containers:      []corev1.Container{{Name: "main", SecurityContext: &corev1.SecurityContext{AppArmorProfile: c.container}}},
			},
		}
		if c.annotation != "" {
			pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+"main"] = c.annotation
		}
		if got := appArmor(pod, &pod.Spec.Containers[0]); got != c.profile {
			t.Errorf("%s: profile %+v, want %+v", what, got, c.profile)
		}
		for _, host := range []struct {
			absent error
			want   string
		}{{nil, c.with}, {absent, c.without}} {
			r := appArmorRejection(pod, host.absent)
			switch {
			case (r == nil) != (host.want == ""):
				t.Errorf("%s on a host with AppArmor: %v: rejection %v, want %q", what, host.absent == nil, r, host.want)
			case r != nil && host.want != "invalid" && r.message != host.want:
				t.Errorf("%s: %q, want %q", what, r.message, host.want)
			}
		}
	}
}
