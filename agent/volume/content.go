package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/skep-io/skep/agent/downward"
)

// content is the files of a configuration volume by relative path.
type content map[string]file

type file struct {
	data []byte
	mode os.FileMode
}

const defaultMode = 0o644

// content collects what the volume should hold now. Secrets are kept in
// memory only.
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
			c[key] = file{value, modeOf(nil, mode)}
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

func modeOf(own, volume *int32) os.FileMode {
	switch {
	case own != nil:
		return os.FileMode(*own)
	case volume != nil:
		return os.FileMode(*volume)
	}
	return defaultMode
}

func safePath(path string) (string, error) {
	clean := filepath.Clean(path)
	if filepath.IsAbs(clean) || !filepath.IsLocal(clean) || strings.HasPrefix(clean, "..") {
		return "", fmt.Errorf("path %q leads out of the volume", path)
	}
	return clean, nil
}

// dataLink is the one name that a reader's files go through: each update
// replaces it in a single rename, so a reader sees all old or all new files.
const dataLink = "..data"

// write brings the folder to the content. Unchanged content is left alone.
func (c content) write(dir string, group *int64) error {
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err == nil && c.equals(filepath.Join(dir, current)) {
		return nil
	}
	next, err := os.MkdirTemp(dir, "..v")
	if err != nil {
		return err
	}
	if err := c.fill(next, group); err != nil {
		os.RemoveAll(next)
		return err
	}
	link := filepath.Join(dir, "..data_next")
	_ = os.Remove(link)
	if err := os.Symlink(filepath.Base(next), link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	// Live from here. Names are added after the data they lead to, and taken
	// away after it too.
	if err := c.linkNames(dir); err != nil {
		return err
	}
	return removeOld(dir, filepath.Base(next))
}

func (c content) fill(dir string, group *int64) error {
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for name, f := range c {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, 0o600); err != nil {
			return err
		}
		mode := f.mode
		if group != nil {
			if err := os.Chown(path, -1, int(*group)); err != nil {
				return err
			}
			mode |= 0o440
		}
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	return nil
}

func (c content) equals(dir string) bool {
	have := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		have++
		name, _ := filepath.Rel(dir, path)
		want, ok := c[name]
		data, err := os.ReadFile(path)
		if err != nil || !ok || !bytes.Equal(data, want.data) {
			return errors.New("differs")
		}
		return nil
	})
	return err == nil && have == len(c)
}

func (c content) topNames() []string {
	seen := map[string]bool{}
	for name := range c {
		top, _, _ := strings.Cut(name, "/")
		seen[top] = true
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

func (c content) linkNames(dir string) error {
	want := map[string]bool{}
	for _, name := range c.topNames() {
		want[name] = true
		err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name))
		if err != nil && !os.IsExist(err) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !want[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func removeOld(dir, keep string) error {
	old, _ := filepath.Glob(filepath.Join(dir, "..v*"))
	for _, path := range old {
		if filepath.Base(path) != keep {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}
