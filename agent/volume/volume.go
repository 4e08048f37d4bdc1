// Package volume makes a pod's volumes on the node: emptyDir, hostPath,
// configMap, secret, downwardAPI and projected ones.
//
// It owns <pod folder>/volumes and <pod folder>/subpaths, the mounts in them
// and their removal. It never reads the API server itself: objects come from
// the Objects it is given. Folders and mounts outlive the agent; setting up
// again what is set up changes nothing but stale content.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Objects gives configuration objects, as fresh as the caller can. A missing
// one is an apierrors NotFound.
type Objects interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
}

// Volumes makes and removes the volumes of all pods on the node.
type Volumes struct {
	podDir      func(podUID string) string
	objects     Objects
	allocatable func() corev1.ResourceList
}

// New returns the volumes whose pods' folders podDir names. allocatable is
// what unset limits show as in the downward API.
func New(podDir func(podUID string) string, objects Objects, allocatable func() corev1.ResourceList) *Volumes {
	return &Volumes{podDir: podDir, objects: objects, allocatable: allocatable}
}

// Error says which volume could not be made.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// ErrNoTokens is what a projected service account token comes to.
var ErrNoTokens = errors.New("service account tokens are not issued by this cluster; the file is left out")

// SetUp makes every volume of the pod and returns where each lies. Called
// again, it brings the content of configuration volumes up to date, each in
// one rename. Warnings are things left out on purpose.
func (v *Volumes) SetUp(ctx context.Context, pod *corev1.Pod) (paths map[string]string, warnings []error, err error) {
	paths = make(map[string]string, len(pod.Spec.Volumes))
	var failures []error
	for i := range pod.Spec.Volumes {
		vol := &pod.Spec.Volumes[i]
		path, warned, err := v.setUpOne(ctx, pod, vol)
		if err != nil {
			failures = append(failures, &Error{vol.Name, err})
			continue
		}
		if warned != nil {
			warnings = append(warnings, &Error{vol.Name, warned})
		}
		paths[vol.Name] = path
	}
	return paths, warnings, errors.Join(failures...)
}

func (v *Volumes) setUpOne(ctx context.Context, pod *corev1.Pod, vol *corev1.Volume) (path string, warning, err error) {
	path = filepath.Join(v.podDir(string(pod.UID)), "volumes", vol.Name)
	switch {
	case vol.HostPath != nil:
		return vol.HostPath.Path, nil, checkHostPath(vol.HostPath)
	case vol.EmptyDir != nil:
		return path, nil, emptyDir(path, vol.EmptyDir, fsGroup(pod))
	}
	content, memory, warning, err := v.content(ctx, pod, vol)
	if err != nil {
		return path, nil, err
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return path, nil, err
	}
	if memory {
		if err := mountTmpfs(path, "mode=0755"); err != nil {
			return path, nil, err
		}
	}
	return path, warning, content.write(path, fsGroup(pod))
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

func emptyDir(path string, source *corev1.EmptyDirVolumeSource, group *int64) error {
	_, statErr := os.Lstat(path)
	if err := os.MkdirAll(path, 0o777); err != nil {
		return err
	}
	if source.Medium == corev1.StorageMediumMemory {
		options := "mode=0777"
		if source.SizeLimit != nil && source.SizeLimit.Value() > 0 {
			options += fmt.Sprintf(",size=%d", source.SizeLimit.Value())
		}
		if err := mountTmpfs(path, options); err != nil {
			return err
		}
	} else if source.Medium != corev1.StorageMediumDefault {
		return fmt.Errorf("emptyDir medium %q is not supported", source.Medium)
	}
	if statErr == nil {
		return nil // made before: its users may have changed mode and owner
	}
	if group != nil {
		if err := os.Chown(path, -1, int(*group)); err != nil {
			return err
		}
		return os.Chmod(path, 0o777|os.ModeSetgid)
	}
	return os.Chmod(path, 0o777) // past the umask
}

// mountTmpfs mounts once: a mount that an earlier agent made is kept with
// all that is in it.
func mountTmpfs(path, options string) error {
	mounted, err := isMountPoint(path)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount memory at %s: %w", path, err)
	}
	return nil
}

func isMountPoint(path string) (bool, error) {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &stat); err != nil {
		return false, fmt.Errorf("stat %s: %w", path, err)
	}
	return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
}

func checkHostPath(source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, 0o755); err != nil {
			return err
		}
		kind = corev1.HostPathDirectory
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
		kind = corev1.HostPathFile
	}
	want, ok := map[corev1.HostPathType]struct {
		mode os.FileMode
		what string
	}{
		corev1.HostPathDirectory: {os.ModeDir, "a directory"},
		corev1.HostPathFile:      {0, "a file"},
		corev1.HostPathSocket:    {os.ModeSocket, "a socket file"},
		corev1.HostPathCharDev:   {os.ModeDevice | os.ModeCharDevice, "a character device"},
		corev1.HostPathBlockDev:  {os.ModeDevice, "a block device"},
	}[kind]
	if !ok {
		return fmt.Errorf("hostPath type %q is not known", kind)
	}
	info, err := os.Stat(source.Path)
	if err != nil || info.Mode().Type() != want.mode {
		return fmt.Errorf("hostPath type check failed: %s is not %s", source.Path, want.what)
	}
	return nil
}

// TearDown unmounts and removes everything of the pod.
func (v *Volumes) TearDown(podUID string) error {
	dir := v.podDir(podUID)
	subpaths, _ := filepath.Glob(filepath.Join(dir, "subpaths", "*", "*", "*"))
	volumes, _ := filepath.Glob(filepath.Join(dir, "volumes", "*"))
	for _, path := range append(subpaths, volumes...) {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	// Only now: removal before the unmount would empty what is mounted.
	for _, name := range []string{"subpaths", "volumes"} {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("remove volumes: %w", err)
		}
	}
	return nil
}
