package runtime

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/skep-io/skep/agent/confine"
)

// WritableLayer is the folder of a container's writable layer; empty if the container was removed.
func (r *Runtime) WritableLayer(ctx context.Context, id string) (string, error) {
	mounts, err := r.snapshotter().Mounts(r.ctx(ctx), id)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("writable layer of container %s: %w", id, err)
	}
	for _, m := range mounts {
		if m.Type == "bind" { // an image without layers
			return m.Source, nil
		}
		for _, option := range m.Options {
			if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("containerd's snapshotter %s does not say where the writable layer of container %s is", r.cfg.Snapshotter, id)
}

// FilesDirs are the pod's folders beside those of volumes, logs and writable layers: records and termination messages, and the files
// in /etc.
func (r *Runtime) FilesDirs(podUID string) []string {
	return []string{filepath.Join(r.PodDir(podUID), "containers"), r.EtcDir(podUID)}
}

// DropFiles removes the files in FilesDirs that are not needed once the pod has finished, and that its containers may have made
// large. Records stay; they include the termination messages.
func (r *Runtime) DropFiles(podUID string) error {
	messages, err := filepath.Glob(filepath.Join(r.PodDir(podUID), "containers", "*.message"))
	if err != nil {
		return err
	}
	var failed []error
	for _, path := range append(messages, r.EtcDir(podUID)) {
		failed = append(failed, confine.RemoveAll(path))
	}
	return errors.Join(failed...)
}

// EtcDir is for the files in /etc that all containers of a pod share.
func (r *Runtime) EtcDir(podUID string) string { return filepath.Join(r.PodDir(podUID), "etc") }

// LogDir is the folder of the logs of all attempts of a container.
func (r *Runtime) LogDir(podUID, container string) string {
	return filepath.Dir(r.LogPath(podUID, container, 0))
}

// ImageUsage is the disk use of unpacked images, in bytes and inodes.
func (r *Runtime) ImageUsage(ctx context.Context) (bytes, inodes uint64, err error) {
	ctx = r.ctx(ctx)
	var layers []string
	err = r.snapshotter().Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			layers = append(layers, info.Name)
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("list image layers: %w", err)
	}
	for _, layer := range layers {
		usage, err := r.snapshotter().Usage(ctx, layer)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("usage of image layer %s: %w", layer, err)
		}
		bytes, inodes = bytes+uint64(usage.Size), inodes+uint64(usage.Inodes)
	}
	return bytes, inodes, nil
}
