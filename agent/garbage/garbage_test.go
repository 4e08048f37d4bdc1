package garbage_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/skep-io/skep/agent/garbage"
	"github.com/skep-io/skep/agent/runtime"
	"github.com/skep-io/skep/agent/runtime/runtimetest"
)

// diskSize is small enough to fill with a few images.
const diskSize = 96 << 20

// node is a containerd whose images are on a small disk.
type node struct {
	*runtimetest.Node
	disk string

	mu     sync.Mutex
	events []string
}

func start(t *testing.T) *node {
	n := &node{disk: t.TempDir()}
	if err := syscall.Mount("garbage-test", n.disk, "tmpfs", 0, fmt.Sprintf("size=%d", diskSize)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(n.disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	n.Node = runtimetest.StartWith(t, func(started *runtimetest.Node) { started.Daemon.Root = filepath.Join(n.disk, "containerd") })
	return n
}

func (n *node) event(kind, reason, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, kind+" "+reason+" "+message)
}

func (n *node) collector(change func(*garbage.Config)) *garbage.Collector {
	cfg := garbage.Defaults()
	cfg.Runtime, cfg.Event = n.Runtime, n.event
	cfg.MinimumAge = 0
	if change != nil {
		change(&cfg)
	}
	return garbage.New(cfg)
}

// add loads an image with size bytes that nothing compresses; pinned as a loaded image is, or not, as one that was pulled.
func (n *node) add(t *testing.T, name string, size int, pinned bool) {
	t.Helper()
	data := make([]byte, size)
	rand.New(rand.NewSource(int64(len(name)) + int64(size))).Read(data) //nolint:gosec // only to be incompressible
	layer := static.NewLayer(runtimetest.TarFile(t, "data-"+strings.ReplaceAll(name, "/", "-"), data), types.DockerUncompressedLayer)
	img, err := mutate.AppendLayers(runtimetest.Image(t, nil), layer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Import(context.Background(), runtimetest.Archive(t, name, v1.Image(img))); err != nil {
		t.Fatal(err)
	}
	if !pinned {
		n.Unpin(t, name)
	}
}

func (n *node) names(t *testing.T) (names []string) {
	t.Helper()
	stored, err := n.StoredImages(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stored {
		names = append(names, s.Names...)
	}
	slices.Sort(names)
	return names
}

func (n *node) used(t *testing.T) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(n.disk, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bavail) * st.Bsize
}

func (n *node) run(t *testing.T, uid, image string) runtime.Container {
	t.Helper()
	ctx := context.Background()
	sandbox, _, err := n.CreateSandbox(runtime.SandboxConfig{PodUID: uid, Hostname: uid})
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.Prepare(ctx, uid, image)
	if err != nil {
		t.Fatal(err)
	}
	c, err := n.Create(ctx, p, runtime.ContainerConfig{
		PodNamespace: "default", PodName: uid, PodUID: uid, Name: "main", Sandbox: sandbox, Command: []string{"sleep", "1000"},
		TerminationMessagePath: "/dev/termination-log",
	})
	if err != nil {
		t.Fatal(err)
	}
	if c, err = n.Runtime.Start(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	return c
}

func expect(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Images fill a disk to its high threshold: those unused for longest go until it is at the low one, those that are used or
// pinned stay, and the room is really there afterwards.
func TestImagesAreCollectedBetweenThresholds(t *testing.T) {
	n := start(t)
	ctx := context.Background()
	c := n.collector(nil)
	n.add(t, "skep.test/used:1", 6<<20, false)
	n.add(t, "skep.test/pinned:1", 6<<20, true)
	n.run(t, "uid1", "skep.test/used:1")
	n.add(t, "skep.test/old:1", 8<<20, false)
	if err := c.CollectImages(ctx); err != nil { // below the threshold: takes note of what is here
		t.Fatal(err)
	}
	all := []string{"skep.test/old:1", "skep.test/pinned:1", "skep.test/used:1"}
	expect(t, "below the threshold", n.names(t), all...)
	n.add(t, "skep.test/young:1", 2<<20, false)
	filler := filepath.Join(n.disk, "filler")
	if err := os.WriteFile(filler, make([]byte, diskSize*86/100-n.used(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	before := n.used(t)
	if err := c.CollectImages(ctx); err != nil {
		t.Fatal(err)
	}
	expect(t, "after a collection", n.names(t), "skep.test/pinned:1", "skep.test/used:1", "skep.test/young:1")
	if after := n.used(t); before-after < 16<<20 || after > diskSize*81/100 { // its content and its snapshot
		t.Errorf("%d bytes used before, %d after", before, after)
	}
	expect(t, "events", n.events)
	if n.run(t, "uid2", "skep.test/pinned:1").State != runtime.Running {
		t.Error("the pinned image is of no use")
	}
	testFullOfOtherThings(t, n, c)
	testReclaim(t, n)
}

// A disk that others fill is reported in the kubelet's words, at the second time as a failure.
func testFullOfOtherThings(t *testing.T, n *node, c *garbage.Collector) {
	filler := filepath.Join(n.disk, "more")
	if err := os.WriteFile(filler, make([]byte, diskSize*97/100-n.used(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	err := c.CollectImages(context.Background())
	const said = "of 96.0 MiB used). Failed to free sufficient space by deleting unused images (freed "
	if err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("a disk full of other things: %v", err)
	}
	if len(n.events) != 1 || !strings.HasPrefix(n.events[0], "Warning FreeDiskSpaceFailed Insufficient free disk space on the node's image filesystem (9") {
		t.Errorf("events %q", n.events)
	}
	expect(t, "images", n.names(t), "skep.test/pinned:1", "skep.test/used:1")
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
}

func testReclaim(t *testing.T, n *node) {
	if err := os.Remove(filepath.Join(n.disk, "filler")); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	n.add(t, "skep.test/new:1", 4<<20, false)
	guarded := n.collector(func(c *garbage.Config) { c.MinimumAge = time.Hour })
	if freed, err := guarded.Reclaim(ctx); err != nil || freed > 1<<20 {
		t.Errorf("an image that is too young to go: freed %d, %v", freed, err)
	}
	freed, err := n.collector(nil).Reclaim(ctx)
	if err != nil || freed < 8<<20 {
		t.Errorf("freed %d bytes, %v", freed, err)
	}
	expect(t, "after reclaiming", n.names(t), "skep.test/pinned:1", "skep.test/used:1")
	stored, err := n.StoredImages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range stored {
		if err := n.RemoveImage(ctx, image); !errors.Is(err, runtime.ErrImageInUse) {
			t.Errorf("%v could be removed: %v", image.Names, err)
		}
	}
}

func TestThresholdsThatMakeNoSense(t *testing.T) {
	for want, change := range map[string]func(*garbage.Config){
		"is not a percentage": func(c *garbage.Config) { c.HighThreshold = 101 },
		"must be lower than":  func(c *garbage.Config) { c.LowThreshold = 85 },
		"is negative":         func(c *garbage.Config) { c.MinimumAge = -1 },
		"must be longer than": func(c *garbage.Config) { c.MaximumAge = time.Minute },
	} {
		c := garbage.Defaults()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	c := garbage.Defaults()
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}
