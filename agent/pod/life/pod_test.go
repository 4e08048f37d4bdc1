package life

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// madePod is a pod as described by words: containers by name and what they have, the restart
// policy, a deadline. "init0=init side=sidecar app=main,readiness Never deadline=90".
func madePod(words string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-1", Annotations: map[string]string{"is": words}}}
	for _, word := range strings.Fields(words) {
		name, parts, isContainer := strings.Cut(word, "=")
		switch {
		case !isContainer:
			pod.Spec.RestartPolicy = corev1.RestartPolicy(name)
			continue
		case name == "deadline":
			seconds := int64(90)
			pod.Spec.ActiveDeadlineSeconds = &seconds
			continue
		}
		c := corev1.Container{Name: name, Image: "registry.test/" + name}
		role := Main
		for _, part := range strings.Split(parts, ",") {
			switch part {
			case "init":
				role = Init
			case "sidecar":
				always := corev1.ContainerRestartPolicyAlways
				role, c.RestartPolicy = Sidecar, &always
			case "startup":
				c.StartupProbe = &corev1.Probe{}
			case "liveness":
				c.LivenessProbe = &corev1.Probe{}
			case "readiness":
				c.ReadinessProbe = &corev1.Probe{}
			case "poststart":
				hooks(&c).PostStart = &corev1.LifecycleHandler{}
			case "prestop":
				hooks(&c).PreStop = &corev1.LifecycleHandler{}
			}
		}
		if role == Main {
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		} else {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		}
	}
	return pod
}

func hooks(c *corev1.Container) *corev1.Lifecycle {
	if c.Lifecycle == nil {
		c.Lifecycle = &corev1.Lifecycle{}
	}
	return c.Lifecycle
}

func describe(pod *corev1.Pod) string { return pod.Annotations["is"] }
