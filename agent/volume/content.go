package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/agent/downward"
)

// content has the files of a configuration volume by relative path.
type content map[string]file

type file struct {
	data []byte
	mode uint32 // permission bits
}

const defaultMode = 0o644

// content collects the files that the volume should have now. Secrets are kept in memory only.
func (v *Volumes) content(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume) (c content, memory bool, warning, err error) {
	c = content{}
	switch {
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		err = v.addConfigMap(ctx, c, pod.Namespace, s.Name, s.Items, s.DefaultMode, s.Optional)
	case vol.Secret != nil:
		s := vol.Secret
		memory = true
		err = v.addSecret(ctx, c, pod.Namespace, s.SecretName, s.Items, s.DefaultMode, s.Optional)
	case vol.DownwardAPI != nil:
		err = v.addDownward(c, pod, vol.DownwardAPI.Items, vol.DownwardAPI.DefaultMode)
	case vol.Projected != nil:
		memory = true
		warning, err = v.addProjected(ctx, c, pod, vol.Projected)
	default:
		err = errors.New("this volume type is not supported; use emptyDir, hostPath, configMap, secret, downwardAPI or projected")
	}
	return c, memory, warning, err
}

func (v *Volumes) addProjected(ctx context.Context, c content, pod *corev1.Pod, p *corev1.ProjectedVolumeSource) (warning, err error) {
	for _, source := range p.Sources {
		switch {
		case source.ConfigMap != nil:
			s := source.ConfigMap
			err = v.addConfigMap(ctx, c, pod.Namespace, s.Name, s.Items, p.DefaultMode, s.Optional)
		case source.Secret != nil:
			s := source.Secret
			err = v.addSecret(ctx, c, pod.Namespace, s.Name, s.Items, p.DefaultMode, s.Optional)
		case source.DownwardAPI != nil:
			err = v.addDownward(c, pod, source.DownwardAPI.Items, p.DefaultMode)
		case source.ServiceAccountToken != nil:
			warning = ErrNoTokens
		default:
			err = errors.New("this projected source is not supported; use configMap, secret or downwardAPI")
		}
		if err != nil {
			return warning, err
		}
	}
	return warning, nil
}

func (v *Volumes) addConfigMap(ctx context.Context, c content, namespace, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := v.objects.ConfigMap(ctx, namespace, name)
	if err != nil {
		if apierrors.IsNotFound(err) && optional != nil && *optional {
			return nil
		}
		return err
	}
	data := make(map[string][]byte, len(object.Data)+len(object.BinaryData))
	for k, value := range object.Data {
		data[k] = []byte(value)
	}
	for k, value := range object.BinaryData {
		data[k] = value
	}
	return c.add(data, items, mode, optional, "configmap")
}

func (v *Volumes) addSecret(ctx context.Context, c content, namespace, name string, items []corev1.KeyToPath, mode *int32, optional *bool) error {
	object, err := v.objects.Secret(ctx, namespace, name)
	if err != nil {
		if apierrors.IsNotFound(err) && optional != nil && *optional {
			return nil
		}
		return err
	}
	return c.add(object.Data, items, mode, optional, "secret")
}

func (c content) add(data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional *bool, kind string) error {
	if len(items) == 0 {
		for key, value := range data {
			path, err := safePath(key)
			if err != nil {
				return err
			}
			c[path] = file{value, modeOf(nil, mode)}
		}
		return nil
	}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("references non-existent %s key: %s", kind, item.Key)
		}
		path, err := safePath(item.Path)
		if err != nil {
			return err
		}
		c[path] = file{value, modeOf(item.Mode, mode)}
	}
	return nil
}

func (v *Volumes) addDownward(c content, pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32) error {
	for _, item := range items {
		value, err := v.downwardValue(pod, item)
		if err != nil {
			return err
		}
		path, err := safePath(item.Path)
		if err != nil {
			return err
		}
		c[path] = file{[]byte(value), modeOf(item.Mode, mode)}
	}
	return nil
}

func (v *Volumes) downwardValue(pod *corev1.Pod, item corev1.DownwardAPIVolumeFile) (string, error) {
	if item.FieldRef != nil {
		return downward.Field(pod, item.FieldRef.FieldPath)
	}
	if item.ResourceFieldRef == nil {
		return "", fmt.Errorf("item %s names neither a field nor a resource", item.Path)
	}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == item.ResourceFieldRef.ContainerName {
				return downward.Resource(&list[i], item.ResourceFieldRef, v.allocatable())
			}
		}
	}
	return "", fmt.Errorf("container %s not found", item.ResourceFieldRef.ContainerName)
}

func modeOf(own, volume *int32) uint32 {
	switch {
	case own != nil:
		return uint32(*own) & 0o777
	case volume != nil:
		return uint32(*volume) & 0o777
	}
	return defaultMode
}

func safePath(path string) (string, error) {
	clean := filepath.Clean(path)
	if clean == "." || !filepath.IsLocal(clean) || strings.HasPrefix(clean, "..") {
		return "", fmt.Errorf("path %q leads out of the volume", path)
	}
	return clean, nil
}
