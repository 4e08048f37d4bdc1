package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/platforms"
)

// pinnedLabel is containerd's own label that keeps an image from being collected.
const pinnedLabel, pinnedValue = "io.cri-containerd.pinned", "pinned"

// leaseLabel marks our leases: the next agent has no use for what they hold.
const leaseLabel = "skep.io/lease"

// lease protects what is being pulled or imported from garbage collection until done is called; it
// expires after a day.
func (r *Runtime) lease(ctx context.Context, what string) (context.Context, func(), error) {
	ctx, done, err := r.client.WithLease(ctx, leases.WithRandomID(), leases.WithExpiration(24*time.Hour), leases.WithLabel(leaseLabel, what))
	if err != nil {
		return ctx, nil, fmt.Errorf("lease of containerd's content: %w", err)
	}
	return ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		if err := done(ctx); err != nil {
			slog.Warn("containerd lease not deleted; it expires after a day", "of", what, "err", err)
		}
	}, nil
}

// dropOldLeases ends the leases of an agent that ended in the middle of a pull.
func (r *Runtime) dropOldLeases(ctx context.Context) error {
	list, err := r.client.LeasesService().List(ctx, fmt.Sprintf("labels.%q", leaseLabel))
	if err != nil {
		return fmt.Errorf("list containerd's leases: %w", err)
	}
	for _, l := range list {
		if err := r.client.LeasesService().Delete(ctx, l); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("end the lease %s: %w", l.ID, err)
		}
	}
	return nil
}

// StoredImage is one image on the node, with all its names.
type StoredImage struct {
	Names  []string
	Digest string
	Size   int64 // of content, compressed
	Pinned bool  // never collected
	InUse  bool  // by a container, or by one about to be created
}

// StoredImages lists images by digest.
func (r *Runtime) StoredImages(ctx context.Context) ([]StoredImage, error) {
	ctx = r.ctx(ctx)
	// The images are listed before the containers: one created after the list uses an image that
	// was used just now, which is not collected.
	stored, err := r.client.ImageService().List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	used := map[string]bool{}
	for _, c := range r.Containers() {
		used[c.Image] = true
		used[Image{ID: c.ImageID}.digest()] = true
	}
	r.mu.Lock()
	for _, digest := range r.preparing {
		used[digest] = true
	}
	r.mu.Unlock()
	byDigest := map[string]*StoredImage{}
	var list []*StoredImage
	for _, s := range stored {
		digest := s.Target.Digest.String()
		img := byDigest[digest]
		if img == nil {
			img = &StoredImage{Digest: digest}
			if img.Size, err = s.Size(ctx, r.client.ContentStore(), platforms.Default()); err != nil {
				img.Size = 0 // incomplete: missing parts use no space
			}
			byDigest[digest] = img
			list = append(list, img)
		}
		img.Names = append(img.Names, s.Name)
		img.Pinned = img.Pinned || s.Labels[pinnedLabel] == pinnedValue
		img.InUse = img.InUse || used[digest] || used[s.Name]
	}
	out := make([]StoredImage, 0, len(list))
	for _, img := range list {
		out = append(out, *img)
	}
	return out, nil
}

// RemoveImage removes all names of an image and returns when containerd has freed the content that
// only this image used. An image that has come into use, or was changed or pinned since it was
// listed, stays: ErrImageInUse.
func (r *Runtime) RemoveImage(ctx context.Context, image StoredImage) error {
	ctx = r.ctx(ctx)
	now, err := r.StoredImages(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(now, func(s StoredImage) bool { return s.Digest == image.Digest })
	if i < 0 {
		return nil
	}
	if now[i].InUse || now[i].Pinned {
		return fmt.Errorf("%s: %w", strings.Join(now[i].Names, ", "), ErrImageInUse)
	}
	defer r.images.clear()
	for _, name := range now[i].Names {
		target, err := r.client.ImageService().Get(ctx, name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			err = r.client.ImageService().Delete(ctx, name, images.SynchronousDelete(), images.DeleteTarget(&target.Target))
		}
		if err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove image %s: %w", name, err)
		}
	}
	return nil
}

// ErrImageInUse means that an image must stay.
var ErrImageInUse = errors.New("image is in use")

// CollectGarbage frees content and snapshots in containerd that no image, container or lease holds,
// such as those of interrupted pulls.
func (r *Runtime) CollectGarbage(ctx context.Context) error {
	ctx = r.ctx(ctx)
	// A lease that holds nothing: its synchronous removal is how a client triggers garbage
	// collection.
	l, err := r.client.LeasesService().Create(ctx, leases.WithRandomID(), leases.WithLabel(leaseLabel, "collection"))
	if err == nil {
		err = r.client.LeasesService().Delete(ctx, l, leases.SynchronousDelete)
	}
	if err != nil {
		return fmt.Errorf("collect containerd's garbage: %w", err)
	}
	return nil
}

// ImageFolder is the folder of containerd's unpacked images: images fill its file system.
func (r *Runtime) ImageFolder(ctx context.Context) (string, error) {
	response, err := r.client.IntrospectionService().Plugins(r.ctx(ctx), "type==io.containerd.snapshotter.v1,id=="+r.cfg.Snapshotter)
	if err != nil {
		return "", fmt.Errorf("ask containerd for its folder: %w", errgrpc.ToNative(err))
	}
	i := slices.IndexFunc(response.Plugins, func(p *introspection.Plugin) bool { return p.Exports["root"] != "" })
	if i < 0 {
		return "", fmt.Errorf("containerd does not say where its snapshotter %s keeps images", r.cfg.Snapshotter)
	}
	return response.Plugins[i].Exports["root"], nil
}

// ForgetReplaced removes the records of attempts that a newer one has replaced, except the last of
// these of each container, or with all including it. The newest attempt stays: whether a container
// has run follows from it.
func (r *Runtime) ForgetReplaced(all bool) (forgotten int) {
	type key struct{ uid, name string }
	newer := map[key]int{}
	list := r.Containers() // by attempt
	for i := len(list) - 1; i >= 0; i-- {
		c := list[i]
		k := key{c.PodUID, c.Name}
		keep := newer[k] == 0 || newer[k] == 1 && !all
		newer[k]++
		if !keep && c.State == Exited {
			r.Forget(c.ID)
			forgotten++
		}
	}
	return forgotten
}

// RemoveStrayLogs removes logs of attempts that have no container or record any more: left by an
// agent that crashed, or by one that kept them.
func (r *Runtime) RemoveStrayLogs() error {
	paths, err := filepath.Glob(filepath.Join(r.cfg.StateDir, "pods", "*", "logs", "*", "*.log*"))
	if err != nil {
		return err
	}
	// The files are listed first: a container is in the list before its log is opened.
	known := map[string]bool{}
	for _, c := range r.Containers() {
		known[c.LogPath] = true
	}
	var failed []error
	for _, path := range paths {
		log, _, _ := strings.Cut(filepath.Base(path), ".log")
		if known[filepath.Join(filepath.Dir(path), log+".log")] {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, fmt.Errorf("log of a removed container: %w", err))
		}
	}
	return errors.Join(failed...)
}

// removeLogs removes an attempt's log with its rotated files.
func removeLogs(path string) error {
	paths, err := filepath.Glob(path + "*")
	if err != nil {
		return err
	}
	var failed []error
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
