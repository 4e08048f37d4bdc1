package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/confine"
)

// memorySize is the size limit of a volume in memory, as kubelet computes it: its own limit, the pod's memory limit, or that of
// all pods, whichever is least. Its content counts as memory of the containers that wrote it.
func (v *Volumes) memorySize(pod *corev1.Pod, source *corev1.EmptyDirVolumeSource) int64 {
	allocatable := v.allocatable()
	size := allocatable.Memory().Value()
	limits := []int64{v.memoryLimit(pod)}
	if source.SizeLimit != nil {
		limits = append(limits, source.SizeLimit.Value())
	}
	for _, limit := range limits {
		if limit > 0 && (size <= 0 || limit < size) {
			size = limit
		}
	}
	return size
}

// emptyDir makes the folder complete before it gets its name; an existing one is not changed.
func (v *Volumes) emptyDir(pod *corev1.Pod, path string, source *corev1.EmptyDirVolumeSource) error {
	mode, group := uint32(0o777), fsGroup(pod)
	if group != nil {
		mode |= unix.S_ISGID
	}
	switch source.Medium {
	case corev1.StorageMediumMemory:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		options := fmt.Sprintf("mode=%o", mode)
		if group != nil {
			options += fmt.Sprintf(",gid=%d", *group)
		}
		if size := v.memorySize(pod, source); size > 0 {
			options += fmt.Sprintf(",size=%d", size)
		}
		return mountTmpfs(path, options)
	case corev1.StorageMediumDefault:
	default:
		return fmt.Errorf("emptyDir medium %q is not supported", source.Medium)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	volumes, name := filepath.Dir(path), filepath.Base(path)
	unfinished := filepath.Join(volumes, ".new-"+name)
	if err := confine.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		return err
	}
	if v.Made != nil {
		v.Made(pod, unfinished)
	}
	if group != nil {
		if err := os.Chown(unfinished, -1, int(*group)); err != nil {
			return err
		}
	}
	if err := unix.Chmod(unfinished, mode); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// mountTmpfs mounts once: a mount that an earlier agent made is kept with its content.
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
