package apiserver

import (
	corev1 "k8s.io/api/core/v1"
)

// podRefers says whether a pod needs the secret or config map (kind is the resource's name) called name to run.
func podRefers(pod *corev1.Pod, kind, name string) bool {
	if kind == "secrets" {
		for _, ref := range pod.Spec.ImagePullSecrets {
			if ref.Name == name {
				return true
			}
		}
	}
	for i := range pod.Spec.Volumes {
		if volumeRefers(&pod.Spec.Volumes[i], kind, name) {
			return true
		}
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			if containerRefers(&containers[i], kind, name) {
				return true
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		common := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if containerRefers(&common, kind, name) {
			return true
		}
	}
	return false
}

func volumeRefers(v *corev1.Volume, kind, name string) bool {
	if kind == "secrets" {
		if v.Secret != nil && v.Secret.SecretName == name {
			return true
		}
	} else if v.ConfigMap != nil && v.ConfigMap.Name == name {
		return true
	}
	if v.Projected == nil {
		return false
	}
	for _, source := range v.Projected.Sources {
		if kind == "secrets" && source.Secret != nil && source.Secret.Name == name {
			return true
		}
		if kind == "configmaps" && source.ConfigMap != nil && source.ConfigMap.Name == name {
			return true
		}
	}
	return false
}

func containerRefers(c *corev1.Container, kind, name string) bool {
	for _, from := range c.EnvFrom {
		if kind == "secrets" && from.SecretRef != nil && from.SecretRef.Name == name {
			return true
		}
		if kind == "configmaps" && from.ConfigMapRef != nil && from.ConfigMapRef.Name == name {
			return true
		}
	}
	for _, env := range c.Env {
		if env.ValueFrom == nil {
			continue
		}
		if ref := env.ValueFrom.SecretKeyRef; kind == "secrets" && ref != nil && ref.Name == name {
			return true
		}
		if ref := env.ValueFrom.ConfigMapKeyRef; kind == "configmaps" && ref != nil && ref.Name == name {
			return true
		}
	}
	return false
}
