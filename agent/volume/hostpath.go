package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/bounded"
)

// askHostPath runs calls to a path of the node, where a file system may be mounted whose server
// does not answer. One call per path runs at a time, for all pods.
func (v *Volumes) askHostPath(ctx context.Context, path string, f func() error) error {
	path = filepath.Clean(path)
	return bounded.Run(ctx, &v.calls, path, "hostPath "+path, v.Patience, f)
}

// EnsureHostPaths makes missing hostPaths without a type: runc would refuse them, and the kubelet
// makes a folder. It also checks that each answers: runc would wait for ever for one on a mount
// whose server does not answer.
func (v *Volumes) EnsureHostPaths(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.Volumes {
		source := pod.Spec.Volumes[i].HostPath
		if source == nil {
			continue
		}
		err := v.askHostPath(ctx, source.Path, func() error {
			_, err := os.Stat(source.Path)
			if os.IsNotExist(err) && (source.Type == nil || *source.Type == corev1.HostPathUnset) {
				return os.MkdirAll(source.Path, 0o755)
			}
			return nil // runc reports what is wrong with it
		})
		if err != nil {
			return fmt.Errorf("hostPath volume %q: %w", pod.Spec.Volumes[i].Name, err)
		}
	}
	return nil
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
		// An existing file is not opened: it may be a FIFO.
		f, err := os.OpenFile(source.Path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err == nil {
			err = f.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
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
