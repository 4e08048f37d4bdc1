// Package garbage removes unused data from a node's disks: images that no container uses, by the kubelet's two thresholds;
// records and logs of attempts that newer ones have replaced; content of interrupted pulls in containerd.
//
// It decides what is removed and when; agent/runtime does it. It never removes an image that a container uses, one that is
// pinned (those that were loaded without a registry), or the newest attempt of a container.
package garbage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/runtime"
)

// Config says when images are collected, with the kubelet's meanings and defaults.
type Config struct {
	HighThreshold int           // percent of the disk in use at which images are collected; 100: never
	LowThreshold  int           // percent down to which they are collected
	MinimumAge    time.Duration // of an image before it may be collected
	MaximumAge    time.Duration // for which an image may be unused; 0: any

	Runtime Runtime
	// Event writes an event about the node.
	Event func(kind, reason, message string)
}

// Defaults are the kubelet's.
func Defaults() Config {
	return Config{HighThreshold: 85, LowThreshold: 80, MinimumAge: 2 * time.Minute}
}

// Validate returns an error for an invalid setting.
func (c *Config) Validate() error {
	switch {
	case c.HighThreshold < 0 || c.HighThreshold > 100:
		return fmt.Errorf("--image-gc-high-threshold %d is not a percentage", c.HighThreshold)
	case c.LowThreshold < 0 || c.LowThreshold > 100:
		return fmt.Errorf("--image-gc-low-threshold %d is not a percentage", c.LowThreshold)
	case c.LowThreshold >= c.HighThreshold:
		return fmt.Errorf("--image-gc-low-threshold %d must be lower than --image-gc-high-threshold %d", c.LowThreshold, c.HighThreshold)
	case c.MinimumAge < 0:
		return fmt.Errorf("--minimum-image-ttl-duration %v is negative", c.MinimumAge)
	case c.MaximumAge != 0 && c.MaximumAge <= c.MinimumAge:
		return fmt.Errorf("--image-maximum-gc-age %v must be longer than --minimum-image-ttl-duration %v, or 0", c.MaximumAge, c.MinimumAge)
	}
	return nil
}

// Runtime has the functions of agent/runtime that are used.
type Runtime interface {
	StoredImages(ctx context.Context) ([]runtime.StoredImage, error)
	RemoveImage(ctx context.Context, image runtime.StoredImage) error
	CollectGarbage(ctx context.Context) error
	ImageFolder(ctx context.Context) (string, error)
	ForgetReplaced(all bool) int
	RemoveStrayLogs() error
}

// The kubelet's periods.
const (
	imagePeriod     = 5 * time.Minute
	containerPeriod = time.Minute
)

// Collector is the node's garbage collector. All methods may be called concurrently.
type Collector struct {
	cfg   Config
	began time.Time

	mu    sync.Mutex // one collection at a time
	seen  map[string]*record
	clock func() time.Time
}

// record has the times of an image on the node: first seen, last used.
type record struct{ detected, used time.Time }

// New returns a collector that does nothing before Run.
func New(cfg Config) *Collector {
	return &Collector{cfg: cfg, began: time.Now(), seen: map[string]*record{}, clock: time.Now}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	images, containers := time.NewTicker(imagePeriod), time.NewTicker(containerPeriod)
	defer images.Stop()
	defer containers.Stop()
	failed := false
	look := func() {
		err := c.CollectImages(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && failed:
			slog.Error("image garbage collection failed multiple times in a row", "err", err)
			c.cfg.Event(corev1.EventTypeWarning, "ImageGCFailed", err.Error())
		case err != nil:
			slog.Error("image garbage collection failed", "err", err)
		}
		failed = err != nil
	}
	c.collectContainers()
	look()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-images.C:
			look()
		case <-containers.C:
			c.collectContainers()
		}
	}
}

func (c *Collector) collectContainers() {
	c.cfg.Runtime.ForgetReplaced(false)
	if err := c.cfg.Runtime.RemoveStrayLogs(); err != nil {
		slog.Error("container garbage collection failed", "err", err)
		c.cfg.Event(corev1.EventTypeWarning, "ContainerGCFailed", err.Error())
	}
}

// Reclaim removes all that can be removed: ended attempts with their logs, images that no container uses and that are older
// than MinimumAge, and content of interrupted pulls. It returns by how much the free space on the images' disk grew.
func (c *Collector) Reclaim(ctx context.Context) (freed int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, err := c.disk(ctx)
	if err != nil {
		return 0, err
	}
	c.cfg.Runtime.ForgetReplaced(true)
	err = errors.Join(c.cfg.Runtime.RemoveStrayLogs(), c.cfg.Runtime.CollectGarbage(ctx))
	candidates, listed := c.candidates(ctx)
	_, removed := c.free(ctx, candidates, before, math.MaxInt64)
	return c.grown(ctx, before), errors.Join(err, listed, removed)
}

// CollectImages removes images that have been unused for MaximumAge and, when the disk is fuller than HighThreshold, those
// unused for longest until it is down to LowThreshold.
func (c *Collector) CollectImages(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	candidates, err := c.candidates(ctx)
	if err != nil {
		return err
	}
	if candidates, err = c.freeOld(ctx, candidates); err != nil {
		return err
	}
	disk, err := c.disk(ctx)
	if err != nil {
		return err
	}
	if disk.capacity == 0 {
		err := errors.New("invalid capacity 0 on image filesystem")
		c.cfg.Event(corev1.EventTypeWarning, "InvalidDiskCapacity", err.Error())
		return err
	}
	used := 100 - int(disk.available*100/disk.capacity)
	if c.cfg.HighThreshold == 100 || used < c.cfg.HighThreshold {
		return nil
	}
	wanted := disk.capacity*int64(100-c.cfg.LowThreshold)/100 - disk.available
	slog.Info("disk of images is over the high threshold; removing unused images", "usage", used,
		"high", c.cfg.HighThreshold, "low", c.cfg.LowThreshold, "wanted", wanted)
	if err := c.cfg.Runtime.CollectGarbage(ctx); err != nil {
		return err
	}
	freed, err := c.free(ctx, candidates, disk, wanted)
	if err != nil {
		return err
	}
	if freed < wanted {
		message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.",
			used, formatSize(disk.capacity), freed)
		c.cfg.Event(corev1.EventTypeWarning, "FreeDiskSpaceFailed", message)
		return errors.New(message)
	}
	return nil
}

// candidate is an image that may be removed.
type candidate struct {
	runtime.StoredImage
	record
}

// candidates are images that no container uses now and that are not pinned, those unused for longest first.
func (c *Collector) candidates(ctx context.Context) ([]candidate, error) {
	stored, err := c.cfg.Runtime.StoredImages(ctx)
	if err != nil {
		return nil, err
	}
	now := c.clock()
	present := map[string]bool{}
	var list []candidate
	for _, image := range stored {
		present[image.Digest] = true
		seen := c.seen[image.Digest]
		if seen == nil {
			seen = &record{detected: now}
			c.seen[image.Digest] = seen
		}
		if image.InUse {
			seen.used = now
		} else if !image.Pinned {
			list = append(list, candidate{image, *seen})
		}
	}
	for digest := range c.seen {
		if !present[digest] {
			delete(c.seen, digest)
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(a.used.Compare(b.used), a.detected.Compare(b.detected), cmp.Compare(a.Digest, b.Digest))
	})
	return list, nil
}

// freeOld removes images that have been unused for longer than MaximumAge and returns the others. As with the kubelet, use
// before the agent's start is unknown, so no image is old before the agent has run for that long.
func (c *Collector) freeOld(ctx context.Context, list []candidate) (rest []candidate, err error) {
	now := c.clock()
	if c.cfg.MaximumAge == 0 || now.Sub(c.began) <= c.cfg.MaximumAge {
		return list, nil
	}
	for _, image := range list {
		last := image.used
		if last.IsZero() {
			last = image.detected
		}
		if now.Sub(last) <= c.cfg.MaximumAge || now.Sub(image.detected) < c.cfg.MinimumAge {
			rest = append(rest, image)
			continue
		}
		if err := c.remove(ctx, image, "unused for longer than the maximum age"); err != nil {
			return rest, err
		}
	}
	return rest, nil
}

// free removes images until wanted bytes more are available than before, and returns how many bytes more are. An image that
// cannot be removed is skipped.
func (c *Collector) free(ctx context.Context, list []candidate, before disk, wanted int64) (freed int64, err error) {
	var failed []error
	now := c.clock()
	for _, image := range list {
		if freed = c.grown(ctx, before); freed >= wanted || ctx.Err() != nil {
			break
		}
		if now.Sub(image.detected) < c.cfg.MinimumAge {
			continue
		}
		if err := c.remove(ctx, image, "disk"); err != nil {
			failed = append(failed, err)
		}
	}
	return c.grown(ctx, before), errors.Join(append(failed, ctx.Err())...)
}

func (c *Collector) remove(ctx context.Context, image candidate, why string) error {
	err := c.cfg.Runtime.RemoveImage(ctx, image.StoredImage)
	if errors.Is(err, runtime.ErrImageInUse) {
		return nil // it has come into use since the list was read
	}
	if err != nil {
		return err
	}
	delete(c.seen, image.Digest)
	slog.Info("image removed", "names", image.Names, "digest", image.Digest, "size", image.Size, "because", why)
	return nil
}

// disk is the space on the file system of images.
type disk struct{ capacity, available int64 }

func (c *Collector) disk(ctx context.Context) (disk, error) {
	folder, err := c.cfg.Runtime.ImageFolder(ctx)
	if err != nil {
		return disk{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(folder, &st); err != nil {
		return disk{}, fmt.Errorf("disk of images %s: %w", folder, err)
	}
	return disk{capacity: int64(st.Blocks) * st.Bsize, available: int64(st.Bavail) * st.Bsize}, nil
}

// grown is how much more is available than before.
func (c *Collector) grown(ctx context.Context, before disk) int64 {
	now, err := c.disk(ctx)
	if err != nil {
		return 0
	}
	return max(0, now.available-before.available)
}

// formatSize formats sizes as the kubelet does in its events.
func formatSize(size int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	value, i := float64(size), 0
	for ; value >= 1024 && i < len(units)-1; i++ {
		value /= 1024
	}
	if i == 0 {
		return fmt.Sprintf("%d B", size)
	}
	return fmt.Sprintf("%.1f %s", value, units[i])
}
